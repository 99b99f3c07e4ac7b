"""Bounds on the arguments of PaddleClas's operations, which check nothing by themselves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from ppcls_ext.core.bounds import LARGEST_SIDE, number, whole
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.text import shown

Rule = Callable[[Any, str], object]
MOST = 1e6  # the largest number, where an argument has no rule of its own


def _within(low: float, high: float, above: bool = False) -> Rule:
    return lambda value, where: number(value, where, low, high, above)


def _count(low: int, high: int) -> Rule:
    return lambda value, where: whole(value, where, low, high)


def _sides(value: Any, where: str) -> None:
    """A side, or width and height, in pixels."""
    sides = value if isinstance(value, (list, tuple)) else (value,)
    if not 1 <= len(sides) <= 2:
        raise UserError(f"{where}: expected a side, or width and height, got {shown(value)}")
    for side in sides:
        whole(side, where, 1, LARGEST_SIDE)


def _range(low: float, high: float) -> Rule:
    """A smaller and a larger number from above `low` to `high`."""

    def rule(value: Any, where: str) -> None:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise UserError(f"{where}: expected two numbers, got {shown(value)}")
        smaller = number(value[0], where, low, high, above=True)
        number(value[1], where, smaller, high)

    return rule


def _each(rule: Rule) -> Rule:
    """A number, or a list with one for each channel."""

    def each(value: Any, where: str) -> None:
        values = value if isinstance(value, (list, tuple)) else (value,)
        for part in values:
            rule(part, where)

    return each


def _one_of(*values: str) -> Rule:
    def rule(value: Any, where: str) -> None:
        if value not in values:
            raise UserError(f"{where}: expected one of {', '.join(repr(v) for v in values)}, got {shown(value)}")

    return rule


def _backend(value: Any, where: str) -> None:
    """PaddleClas would warn of another one, and take OpenCV."""
    if not isinstance(value, str) or value.lower() not in ("cv2", "pil"):
        raise UserError(f"{where}: expected 'cv2' or 'pil', got {shown(value)}")


def _interpolation(value: Any, where: str) -> None:
    """A name, which PaddleClas looks up, or a number of OpenCV or Pillow."""
    if not isinstance(value, str):
        whole(value, where, 0, 5)


_CHANCE = _within(0, 1)

# Rules by the name of an argument; they hold for every operation that has it.
BY_KEY: Mapping[str, Rule] = {
    "size": _sides,
    "resize_short": _count(0, LARGEST_SIDE),
    "resize_long": _count(0, LARGEST_SIDE),
    "img_size": _sides,
    "prob": _CHANCE,
    "p": _CHANCE,
    "EPSILON": _CHANCE,
    "size_divisor": _count(1, 1024),
    "flip_code": _count(-1, 1),
    "num_layers": _count(0, 100),
    "magnitude": _within(0, 100),
    "n_holes": _count(0, 1000),
    "length": _count(0, LARGEST_SIDE),
    "attempt": _count(1, 1000),
    "alpha": _within(-1, 100),
    "backend": _backend,
    "interpolation": _interpolation,
    "mixture_width": _count(1, 100),
    "padding": _each(_within(0, LARGEST_SIDE)),
}
# Rules for an argument of one operation, in place of those above.
BY_OPERATION: Mapping[tuple[str, str], Rule] = {
    ("RandCropImage", "scale"): _range(0, 1),
    ("RandCropImage", "ratio"): _range(0, 100),
    ("CropWithPadding", "scale"): _range(0, 1),
    ("CropWithPadding", "ratio"): _range(0, 100),
    ("NormalizeImage", "scale"): _within(0, 1e3, above=True),
    ("NormalizeImage", "mean"): _each(_within(-1e3, 1e3)),
    ("NormalizeImage", "std"): _each(_within(0, 1e3, above=True)),
    ("Normalize", "std"): _each(_within(0, 1e3, above=True)),
    ("NormalizeImage", "order"): _one_of("", "hwc", "chw"),
    ("RandomErasing", "sl"): _CHANCE,
    ("RandomErasing", "sh"): _CHANCE,
    ("RandomErasing", "r1"): _within(0, 1, above=True),
}


def check_arguments(name: str, arguments: Mapping[str, Any], where: str) -> None:
    """Raise UserError for an argument of the operation `name` that is out of bounds. None is each one's default."""
    for key, value in arguments.items():
        rule = BY_OPERATION.get((name, key)) or BY_KEY.get(key) or _small
        if value is not None:
            rule(value, f"{where}.{key}")


def _small(value: Any, where: str) -> None:
    """Raise UserError for a value that holds a number beyond what any operation has a use for."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number(value, where, -MOST, MOST)
    parts = itertools.chain(value, value.values()) if isinstance(value, Mapping) else value
    if isinstance(value, (Mapping, list, tuple)):
        for part in parts:
            _small(part, where)
