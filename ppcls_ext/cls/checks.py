"""Looking through classification data: labels, files and the balance of the classes, and pictures of samples."""

from __future__ import annotations

import functools

import numpy as np

from ppcls_ext.cls.data import ClassificationData
from ppcls_ext.cls.splits import UNLABELLED, ImageList
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pictures import caption
from ppcls_ext.data.faults import DataReport
from ppcls_ext.data.transforms import build_transforms
from ppcls_ext.tasks.splits import SPLIT_NAMES

SHOWN_SAMPLES = 12  # images of each split in the picture of check-data


def check_data(data: ClassificationData) -> DataReport:
    """The report on the splits of a config."""
    report = DataReport()
    for split in data.loaders:
        try:
            build_transforms(data.transform_ops(split), f"DataLoader.{split}.dataset.transform_ops")
        except UserError as error:
            report.error(str(error))
    splits: dict[str, ImageList] = {}
    for split in SPLIT_NAMES:
        if split in data.loaders:
            try:
                splits[split] = data.split(split)
            except UserError as error:
                if str(error) not in report.errors:
                    report.error(str(error))
    report.check_files({split: images.paths for split, images in splits.items()})
    _count_labels(report, splits)
    for images in splits.values():
        _add_samples(report, images, data.global_section.seed)
    return report


def _count_labels(report: DataReport, splits: dict[str, ImageList]) -> None:
    """Tabulate the images of each class, and point out a lack of balance in the training split."""
    if "Train" not in splits:
        return
    names = splits["Train"].class_names
    counts = {s: np.bincount(i.labels[i.labels >= 0], minlength=len(i.class_names)) for s, i in splits.items()}
    rows = [(name, *(int(c[k]) if k < len(c) else 0 for c in counts.values())) for k, name in enumerate(names)]
    report.tables.append(("images of each class", ("class", *counts), rows))
    report.check_balance(names, counts["Train"][: len(names)])


def _add_samples(report: DataReport, images: ImageList, seed: int) -> None:
    for index in np.random.default_rng(seed).permutation(len(images))[:SHOWN_SAMPLES]:
        label = images.labels[index]
        name = "no label" if label == UNLABELLED else images.class_names[label]
        report.sample(images.paths[index], functools.partial(caption, text=name))
