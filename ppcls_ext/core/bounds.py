"""Bounds of what a config may say, and the checks of single values; light enough for production."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.text import shown

MOST = 1e9  # bounds numbers that have no bound of their own
MOST_CLASSES = 100_000  # the last layer of PP-LCNet has 128 million weights then
LARGEST_SEED = 2**32 - 1  # NumPy takes no larger one
LARGEST_SIDE = 16_384  # pixels of an image that a network is given
LARGEST_BATCH = 65_536  # images
MAX_PIXELS = 2**27  # of an image that is decoded: 134 megapixels, 400 MB, more than cameras have
MOST_BASES = 30  # configs that one is based on, each as often as it is read
MOST_EPOCHS = 100_000
MOST_STEPS = 10**9
MOST_THREADS = 1024


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """A part of a config that must have keys; an empty one counts as none. Raises UserError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected keys and values, got {shown(value)}")
    return value


def number(value: Any, where: str, low: float = -MOST, high: float = MOST, above: bool = False) -> float:
    """A part of a config that must be a number from `low` to `high`. Raises UserError for anything else.

    Args:
        above: it must be more than `low`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{where}: expected a number, got {shown(value)}")
    if not low <= value <= high or (above and value == low):
        least = f"a number above {low:g} and up to" if above else f"a number from {low:g} to"
        raise UserError(f"{where}: expected {least} {high:g}, got {shown(value)}")
    return value


def whole(value: Any, where: str, low: int, high: int) -> int:
    """A part of a config that must be a whole number from `low` to `high`. Raises UserError for anything else."""
    if type(value) is not int or not low <= value <= high:
        raise UserError(f"{where}: expected a whole number from {low} to {high}, got {shown(value)}")
    return value


def holds_flag(value: Any) -> bool:
    """Whether a value, or an item of a list, is true or false."""
    if isinstance(value, (list, tuple)):
        return any(map(holds_flag, value))
    return isinstance(value, bool)


def takes_flag(annotation: Any) -> bool:
    """Whether a type, or a part of one, is that of true and false or of anything."""
    return annotation in (bool, Any, object, list, dict) or any(
        isinstance(part, bool) or takes_flag(part) for part in get_args(annotation)
    )
