"""The result that a config states, against the result measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppcls_ext.config import Section, parse
from ppcls_ext.errors import CheckFailed, UserError, nearest


class Expected(Section):
    """One metric of an `Expect` section."""

    value: float
    tolerance: float


def verify(section: Mapping[str, Any] | None, metrics: Mapping[str, float], images: int) -> list[str]:
    """Compare `metrics` with an `Expect` section: `{images: 50000, top1: {value: 0.7132, tolerance: 0.002}}`.

    `images` there says for which evaluation split the values hold: on a split of another size nothing is compared.
    Returns:
        a line for each metric, or one that says why nothing was compared.
    Raises:
        CheckFailed: a value further away than its tolerance. UserError: an unknown metric.
    """
    if not section:
        return []
    expected = dict(section)
    wanted = expected.pop("images", images)
    if wanted != images:
        return [f"Expect: not compared, it is for {wanted} images and this split has {images}"]
    lines, failed = [], []
    for name, values in expected.items():
        target = parse(Expected, values, f"Expect.{name}")
        if name not in metrics:
            raise UserError(f"Expect.{name}: not a metric of this task; {nearest(name, metrics)}")
        line = f"{name}: expected {target.value:g} +- {target.tolerance:g}, measured {metrics[name]:.4f}"
        if abs(metrics[name] - target.value) > target.tolerance:
            failed.append(line)
        lines.append(line)
    if failed:
        raise CheckFailed("Expect: " + "; ".join(failed))
    return lines
