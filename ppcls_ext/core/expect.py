"""The result that a config states, against the result measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pydantic

from ppcls_ext.core.bounds import MOST, mapping
from ppcls_ext.core.config import Section, parse
from ppcls_ext.core.errors import CheckFailed, UserError, nearest


class Expected(Section):
    """One metric of an `Expect` section."""

    value: float
    tolerance: float = pydantic.Field(ge=0)


def read_expected(section: Mapping[str, Any] | None, known: Iterable[str]) -> tuple[int | None, dict[str, Expected]]:
    """The number of images that an `Expect` section holds for (None: any number), and its metrics.

    Raises:
        UserError: a metric that is none of `known`, or not value and tolerance.
    """
    expected = dict(mapping(section, "Expect"))
    images = expected.pop("images", None)
    if images is not None and (type(images) is not int or not 0 < images <= MOST):
        raise UserError(f"Expect.images: expected a number of images, got {images!r}")
    for name in expected:
        if name not in known:
            raise UserError(f"Expect.{name}: not a metric of this task; {nearest(name, known)}")
    return images, {name: parse(Expected, values, f"Expect.{name}") for name, values in expected.items()}


def verify(section: Mapping[str, Any] | None, metrics: Mapping[str, float], images: int) -> list[str]:
    """Compare `metrics` with an `Expect` section: `{images: 50000, top1: {value: 0.7132, tolerance: 0.002}}`.

    `images` there says for which evaluation split the values hold: on a split of another size nothing is compared.
    Returns:
        a line for each metric, or one that says why nothing was compared.
    Raises:
        CheckFailed: a value further away than its tolerance, or a metric that has no value on this split.
    """
    if not section:
        return []
    wanted, expected = read_expected(section, section)  # the task has checked the names
    if wanted not in (None, images):
        return [f"Expect: not compared, it is for {wanted} images and this split has {images}"]
    lines, failed = [], []
    for name, target in expected.items():
        if name not in metrics:
            failed.append(f"{name}: it has no value on this split, which has {', '.join(metrics)}")
            continue
        line = f"{name}: expected {target.value:g} +- {target.tolerance:g}, measured {metrics[name]:.4f}"
        if abs(metrics[name] - target.value) > target.tolerance:
            failed.append(line)
        lines.append(line)
    if failed:
        raise CheckFailed("Expect: " + "; ".join(failed))
    return lines
