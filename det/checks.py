"""Looking through detection data: what is wrong with the annotations, and pictures of samples with boxes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from det.data import DetectionData
from det.results import draw_boxes
from det.splits import OTHER_SIZE, CocoSplit, Findings, check_coco, has_its_size, read_record_image
from det.transforms import Sample, resize
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.images import BrokenImage
from ppcls_ext.core.pictures import MARGIN
from ppcls_ext.data.faults import DataReport
from ppcls_ext.tasks.splits import SPLIT_NAMES

SHOWN_SAMPLES = 8  # images of each split in the picture
CELL = 320  # side of a sample in the picture: what it takes to read the names at the boxes
TINY = 8.0  # pixels in the network's input: an object of less is hard to find at stride 8
TINY_SHARE = 0.2  # check-data points it out when more of the boxes than this are tiny


def check_data(data: DetectionData) -> DataReport:
    """The report on the splits of a config; the second one must have the classes of the first."""
    names: list[tuple[str, ...]] = [] if data.classes.given is None else [data.classes.given]

    def read(split: str) -> tuple[CocoSplit, Findings]:
        path, root, image_dir = data.annotations(split)
        found = check_coco(path, root, SPLIT_NAMES[split], image_dir, names[0] if names else None)
        names.append(found[0].class_names)
        return found

    readers = {split: functools.partial(read, split) for split in SPLIT_NAMES if split in data.loaders}
    return check_splits(readers, data.size, data.global_section.seed)


def check_splits(
    readers: Mapping[str, Callable[[], tuple[CocoSplit, Findings]]], input_size: tuple[int, int], seed: int
) -> DataReport:
    """The report on the splits that `readers` give.

    Args:
        input_size: (height, width) of the network's input.
    """
    report = DataReport(cell=CELL)
    splits: dict[str, CocoSplit] = {}
    for name, read in readers.items():
        try:
            splits[name], findings = read()
        except UserError as error:
            report.error(f"{name}: {error}")
            continue
        for record in splits[name].records:
            if not has_its_size(record):
                findings.add(OTHER_SIZE, f"{record.path} is not {record.size[0]}x{record.size[1]}")
        for text in (*findings.lines("fatal"), *findings.lines("left out")):
            report.error(f"{name}: {text}")
        for text in findings.lines("warning"):
            report.warning(f"{name}: {text}")
    report.check_files({name: split.paths for name, split in splits.items()})
    for name, split in splits.items():
        _check_sizes(report, name, split, input_size)
        _add_samples(report, split, seed)
    if splits:
        _balance(report, splits)
    return report


def _check_sizes(report: DataReport, name: str, split: CocoSplit, input_size: tuple[int, int]) -> None:
    """Boxes that become tiny in the input, and images without any."""
    scaled = [
        (r.boxes[:, 2:] - r.boxes[:, :2]) * np.array([input_size[1] / r.size[0], input_size[0] / r.size[1]])
        for r in split.records
    ]
    sides = np.concatenate([np.zeros((0, 2)), *scaled])
    share = float((sides.min(axis=1) < TINY).mean()) if len(sides) else 0.0
    if share > TINY_SHARE:
        report.warning(
            f"{name}: {share:.0%} of the boxes are narrower than {TINY:.0f} pixels in an input of "
            f"{input_size[1]}x{input_size[0]}: a larger Global.image_shape would find more of them"
        )
    empty = sum(not len(r.boxes) for r in split.records)
    if empty == len(split.records):
        report.error(f"{name}: no image has a usable box")
    elif empty:
        report.warning(f"{name}: {empty} of {len(split.records)} images have no box (they train as background)")


def _add_samples(report: DataReport, split: CocoSplit, seed: int) -> None:
    for index in np.random.default_rng(seed).permutation(len(split.records))[:SHOWN_SAMPLES]:
        record = split.records[index]
        try:
            sample = Sample(read_record_image(record), record.boxes, record.classes)
        except BrokenImage:
            continue  # `check_files` has reported it
        # The picture is made small first, so that the boxes and names drawn into it stay readable.
        scale = (report.cell - 2 * MARGIN) / max(sample.image.shape[:2])
        height, width = (max(1, round(side * scale)) for side in sample.image.shape[:2])
        sample = resize(sample, (height, width), "area" if scale < 1 else "linear")
        names = [split.class_names[c] for c in sample.classes]
        report.samples.append(draw_boxes(sample.image, sample.boxes.tolist(), sample.classes.tolist(), names))


def _balance(report: DataReport, splits: Mapping[str, CocoSplit]) -> None:
    first = next(iter(splits.values()))
    counts = {name: split.box_counts() for name, split in splits.items()}
    rows = [(name, *(int(c[k]) for c in counts.values())) for k, name in enumerate(first.class_names)]
    report.tables.append(("boxes of each class", ("class", *counts), rows))
    images = [(name, len(split.records), int(counts[name].sum())) for name, split in splits.items()]
    report.tables.append(("splits", ("split", "images", "boxes"), images))
    if "Train" in splits:
        report.check_balance(first.class_names, counts["Train"], "training boxes")
