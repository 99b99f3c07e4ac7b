"""Reading values of a recipe that may come from anywhere: each has a type and bounds, and an error is one line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ppcls_ext.core.errors import UserError, nearest


def shown(value: Any) -> str:
    """A value of unknown origin, short enough for one line."""
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**50 else "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def whole(values: Mapping[str, Any], key: str, where: str, low: int, high: int) -> int:
    """`values[key]`, a whole number from `low` to `high`. Raises UserError for anything else."""
    value = values.get(key)
    if type(value) is not int or not low <= value <= high:
        raise UserError(f"{where}.{key}: expected a whole number from {low} to {high}, got {shown(value)}")
    return value


def real(values: Mapping[str, Any], key: str, where: str, low: float, high: float) -> float:
    """`values[key]`, a number from `low` to `high`. Raises UserError for anything else."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"{where}.{key}: expected a number from {low:g} to {high:g}, got {shown(value)}")
    return value


def choice(values: Mapping[str, Any], key: str, where: str, known: Iterable[str], default: str) -> str:
    """`values[key]`, one of `known`, or `default` if the key is not there. Raises UserError for anything else."""
    value = values.get(key, default)
    if not isinstance(value, str) or value not in set(known):
        raise UserError(f"{where}.{key}: {shown(value)} is none of its values; {nearest(str(value)[:60], known)}")
    return value


def numbers(values: Mapping[str, Any], key: str, where: str, count: int, low: float, high: float) -> tuple[float, ...]:
    """`values[key]`, a list of `count` numbers from `low` to `high`. Raises UserError for anything else."""
    found = values.get(key)
    listed = found if isinstance(found, (list, tuple)) else ()
    if len(listed) == count and all(_is_number(v) and low <= v <= high for v in listed):
        return tuple(listed)
    raise UserError(f"{where}.{key}: expected {count} numbers from {low:g} to {high:g}, got {shown(found)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def sides(values: Mapping[str, Any], key: str, where: str, high: int) -> tuple[int, int]:
    """`values[key]`, height and width from 1 to `high`. Raises UserError for anything else."""
    found = values.get(key)
    pair = found if isinstance(found, (list, tuple)) else ()
    if len(pair) == 2 and all(type(n) is int and 1 <= n <= high for n in pair):
        return pair[0], pair[1]
    raise UserError(f"{where}.{key}: expected height and width from 1 to {high}, got {shown(found)}")
