"""What check-data looks at in segmentation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ppcls_ext.core.display import bar
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.exif import AS_STORED, orientation_of
from ppcls_ext.core.images import BrokenImage
from ppcls_ext.data.faults import DataReport
from seg.colours import overlay
from seg.data import SegmentationData
from seg.masks import Rules, read_mask, read_pair
from seg.sections import IGNORE
from seg.splits import PairList

SHOWN_SAMPLES = 12  # images of each split in the picture
FEW_PIXELS = 0.001  # share of the training pixels below which a class is pointed out


def check_data(data: SegmentationData) -> DataReport:
    """The report on the splits of a config; without a number of classes nothing can be said about masks."""
    splits: dict[str, PairList] = {}
    faults = []
    for split in data.loaders:
        try:
            splits[split] = data.split(split)
        except UserError as error:
            faults.append(str(error))
    try:
        names, colours = data.classes.names, data.colours()
    except UserError as error:
        report = DataReport()
        for text in dict.fromkeys([*faults, str(error)]):
            report.error(text)
        return report
    rules = {split: data.rules(pairs, data.classes.count) for split, pairs in splits.items()}
    report = check_splits(splits, rules, names, colours, data.global_section.seed)
    report.errors[:0] = faults
    return report


def check_splits(
    splits: Mapping[str, PairList],
    rules: Mapping[str, Rules],
    names: Sequence[str],
    colours: Sequence[Sequence[int]],
    seed: int,
) -> DataReport:
    """Look through every image and mask of the splits.

    Args:
        rules: of each split.
        names, colours: of the classes.
    """
    report = DataReport()
    pixels: dict[str, np.ndarray] = {}
    images: dict[str, np.ndarray] = {}
    for split, pairs in splits.items():
        for text in pairs.missing():
            report.error(f"{split}: {text}")
        pixels[split], images[split] = _count(report, split, pairs, rules[split], len(names))
    there = {split: [p for p in pairs.images if _exists(p)] for split, pairs in splits.items()}
    report.check_files(there)
    for split in splits:
        total = max(int(pixels[split].sum()), 1)
        counts = zip([*names, "(ignored)"], images[split].tolist(), pixels[split].tolist(), strict=True)
        rows = [(name, there_in, number, number / total) for name, there_in, number in counts]
        if not pixels[split][-1]:
            rows.pop()
        report.tables.append((f"{split}: pixels of each class", ("class", "images", "pixels", "share"), rows))
    if "Train" in splits:
        _check_balance(report, names, images["Train"], pixels["Train"])
    for split, pairs in splits.items():
        _show(report, pairs, rules[split], colours, seed)
    return report


def _exists(path: str) -> bool:
    return Path(path).is_file()


def _count(
    report: DataReport, split: str, pairs: PairList, rules: Rules, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each class, and images that have it; the last entry is what is ignored. Reports bad pairs."""
    pixels, images = np.zeros(classes + 1, np.int64), np.zeros(classes + 1, np.int64)
    turned: list[str] = []
    with bar(len(pairs), "masks") as progress:
        for image_path, mask_path in zip(pairs.images, pairs.masks, strict=True):
            progress.advance()
            if not (_exists(image_path) and _exists(mask_path)):
                continue
            try:
                try:
                    mask = read_pair(image_path, mask_path, rules)[1]
                except BrokenImage:  # `check_files` reports it; the mask may be wrong as well
                    mask = read_mask(mask_path, rules)
            except UserError as error:
                report.error(f"{split}: {error}")
                continue
            counts = np.bincount(mask.reshape(-1), minlength=256)
            counts = np.append(counts[:classes], counts[IGNORE])
            pixels += counts
            images += counts > 0
            if not counts[:classes].any():
                report.warning(f"{split}: mask {mask_path} has nothing but ignored pixels")
            if _is_turned(image_path):
                turned.append(image_path)
    if turned:
        report.warning(
            f"{split}: {len(turned)} images, the first {turned[0]}, are turned upright by their EXIF orientation; "
            "look at the picture (--picture) to see that their masks are upright too"
        )
    return pixels, images


def _is_turned(path: str) -> bool:
    try:
        return orientation_of(path) != AS_STORED
    except BrokenImage:  # Pillow cannot read it; `check_files` says what is wrong with it
        return False


def _check_balance(report: DataReport, names: Sequence[str], images: np.ndarray, pixels: np.ndarray) -> None:
    counted = max(int(pixels[:-1].sum()), 1)
    for k, name in enumerate(names):
        share = pixels[k] / counted
        if not pixels[k]:
            report.warning(f"class '{name}' has no training pixel")
        elif share < FEW_PIXELS:
            report.warning(f"class '{name}' has {share:.3%} of the training pixels, in {images[k]} images")


def _show(report: DataReport, pairs: PairList, rules: Rules, colours: Sequence[Sequence[int]], seed: int) -> None:
    for index in np.random.default_rng(seed).permutation(len(pairs))[:SHOWN_SAMPLES]:
        try:
            image, mask = read_pair(pairs.images[index], pairs.masks[index], rules)
        except UserError:
            continue  # it has been reported as an error
        report.samples.append(overlay(image, mask, colours))
