"""Mask files: reading them as class numbers, and everything that can be wrong with one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.exif import opened, orientation_of, swaps_sides
from ppcls_ext.core.images import BrokenImage, check_pixels, is_damaged, read_rgb
from ppcls_ext.core.reading import Unreadable, read_regular
from seg.sections import IGNORE
from seg.splits import PairList

LARGEST_VALUE = 65535  # a 16-bit mask holds no larger value
LARGEST_FILE = 2**30  # bytes
SHOWN_VALUES = 8


@dataclass(frozen=True)
class Rules:
    """How the values in mask files become classes.

    Attributes:
        class_num: None accepts any class below the ignored value.
        ignore_index: value in the files of pixels that count nowhere.
        values: value in the files -> class; empty takes the values as they are.
    """

    class_num: int | None
    ignore_index: int = IGNORE
    values: Mapping[int, int] = field(default_factory=dict)

    def class_of(self, value: int) -> int | None:
        """The class of a value (`IGNORE` for ignored ones); None if it has none."""
        if value in self.values:
            value = self.values[value]
            if value == IGNORE:
                return IGNORE
        elif value == self.ignore_index:
            return IGNORE
        elif self.values:
            return None
        limit = IGNORE if self.class_num is None else self.class_num
        return value if 0 <= value < limit else None


def read_values(path: str | Path) -> np.ndarray:
    """A mask file's values as they are, [H, W], uint8 or int32 from 0 to 65535. Palette files give their indices.

    Raises:
        UserError: missing, damaged, or not one number a pixel.
    """
    try:
        data = np.frombuffer(read_regular(path, LARGEST_FILE), np.uint8)
    except Unreadable as error:
        why = "no such file" if isinstance(error.__cause__, FileNotFoundError) else error
        raise UserError(f"mask {path}: {why}; fix the path or remove it from the list") from error
    try:
        if is_damaged(data):
            raise BrokenImage(f"mask {path}: cannot be decoded (its end is missing); replace the file")
        with opened(path) as image:
            check_pixels(image.size, path)
            image.load()
            values, mode = np.asarray(image), image.mode
            colours = len(image.getpalette() or ()) // 3 if mode == "P" else None
    except BrokenImage as error:
        raise UserError(str(error).replace(f"image {path}", f"mask {path}", 1)) from error
    if mode in ("RGB", "RGBA") and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]  # a grey mask saved as RGB
    if values.ndim != 2 or values.dtype.kind == "f":
        raise UserError(
            f"mask {path}: it is {mode}; a mask has one class number a pixel (a grey or palette PNG), not colours"
        )
    if colours is not None:
        _check_palette(path, values, colours)
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype != np.uint8:
        values = values.astype(np.int64)
        if values.min() < 0 or values.max() > LARGEST_VALUE:
            raise UserError(f"mask {path}: values from {values.min()} to {values.max()}; class numbers start at 0")
        return values.astype(np.int32)
    return values


def _check_palette(path: str | Path, values: np.ndarray, colours: int) -> None:
    """Raise UserError for an index that the palette does not have: no program that wrote both would leave it.

    The usual value of ignored pixels needs no colour.
    """
    known = np.zeros(256, bool)
    known[:colours] = known[IGNORE] = True
    if not known[values].all():
        lost = np.unique(values[~known[values]])
        shown = ", ".join(map(str, lost[:SHOWN_VALUES])) + (", ..." if len(lost) > SHOWN_VALUES else "")
        raise UserError(
            f"mask {path}: damaged, its palette has {colours} colours and its pixels have {shown}; replace the file"
        )


def read_mask(path: str | Path, rules: Rules) -> np.ndarray:
    """A mask as classes, uint8 [H, W], `IGNORE` where a pixel counts nowhere.

    Raises:
        UserError: what `read_values` raises, and values that are no class.
    """
    values = read_values(path)
    present = np.flatnonzero(np.bincount(values.reshape(-1)))
    classes = {int(value): rules.class_of(int(value)) for value in present}
    wrong = [value for value, k in classes.items() if k is None]
    if wrong:
        shown = ", ".join(map(str, wrong[:SHOWN_VALUES])) + (", ..." if len(wrong) > SHOWN_VALUES else "")
        raise UserError(f"mask {path}: {_values_text(len(wrong))} {shown}; {_expected(path, rules, wrong)}")
    table = np.zeros(int(present[-1]) + 1, np.uint8)
    table[list(classes)] = [k for k in classes.values() if k is not None]
    return table[values]


def _values_text(count: int) -> str:
    return "no class has the value" if count == 1 else "no classes have the values"


def _expected(path: str | Path, rules: Rules, wrong: list[int]) -> str:
    if Path(path).suffix.lower() in (".jpg", ".jpeg"):
        return "JPEG changes values: masks must be PNG"
    top = f"0 to {rules.class_num - 1}" if rules.class_num is not None else f"0 to {IGNORE - 1}"
    beyond = [value for value in wrong if value in rules.values]
    if beyond:
        return f"Masks.values makes {beyond[0]} class {rules.values[beyond[0]]}, but classes are {top}"
    if rules.values:
        return f"Masks.values names {', '.join(map(str, rules.values))} (ignored: {rules.ignore_index})"
    mapping = ", ".join(f"{value}: ..." for value in wrong[:2])
    return f"classes are {top}, ignored is {rules.ignore_index}; other values need -o 'Masks.values={{{mapping}}}'"


def read_pair(image_path: str, mask_path: str, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 RGB [H, W, 3] and its mask uint8 [H, W].

    Raises:
        UserError: either cannot be read, or they differ in size.
    """
    image, mask = read_rgb(image_path), read_mask(mask_path, rules)
    if image.shape[:2] != mask.shape:
        (height, width), (mask_height, mask_width) = image.shape[:2], mask.shape
        text = f"mask {mask_path}: it is {mask_width}x{mask_height}, but image {image_path} is {width}x{height}"
        turned = orientation_of(image_path)
        if swaps_sides(turned) and image.shape[:2] == mask.shape[::-1]:
            raise UserError(
                f"{text} once turned upright by its EXIF orientation {turned}; turn the mask too, or write the image "
                "anew without the tag"
            )
        raise UserError(f"{text}; a mask has the size of its image")
    return image, mask


def check_pairs(pairs: PairList, rules: Rules, seconds: float, seed: int) -> None:
    """Check that every file is there, and read as many pairs as `seconds` allow, in random order.

    Raises:
        UserError: the first fault.
    """
    for text in pairs.missing():
        raise UserError(text)
    deadline = time.monotonic() + seconds
    for index in np.random.default_rng(seed).permutation(len(pairs)):
        if time.monotonic() > deadline:
            return
        read_pair(pairs.images[index], pairs.masks[index], rules)


def count_classes(pairs: PairList, rules: Rules) -> int:
    """The number of classes that masks have: one more than the largest.

    Raises:
        UserError: a mask that cannot be read, or values that are not class numbers 0, 1, 2, ...
    """
    for text in pairs.missing():
        raise UserError(text)
    seen = np.zeros(256, bool)
    for path in pairs.masks:
        seen[np.unique(read_mask(path, rules))] = True
    classes = np.flatnonzero(seen[:IGNORE])
    found = ", ".join(map(str, classes[:SHOWN_VALUES])) + (", ..." if len(classes) > SHOWN_VALUES else "")
    if len(classes) < 2:
        hint = ""
        if seen[IGNORE] and not rules.values:
            hint = f"; if {rules.ignore_index} is an object: -o 'Masks.values={{0: 0, {rules.ignore_index}: 1}}'"
        raise UserError(
            f"{pairs.source}: its masks have only class {found or 'none'}"
            + (f" and the ignored value {rules.ignore_index}" if seen[IGNORE] else "")
            + (hint or "; there is nothing to tell apart")
        )
    if len(classes) * 2 < classes[-1] + 1:
        mapping = ", ".join(f"{value}: {k}" for k, value in enumerate(classes[:SHOWN_VALUES]))
        raise UserError(
            f"{pairs.source}: its masks have the values {found}, classes are 0, 1, 2, ...; "
            f"say which is which: -o 'Masks.values={{{mapping}}}'"
        )
    return int(classes[-1]) + 1
