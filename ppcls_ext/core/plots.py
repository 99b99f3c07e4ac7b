"""What figures of matplotlib have in common: their style, their axes, and their text as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

STYLE = {"svg.hashsalt": "pplcnet", "svg.fonttype": "none", "font.size": 9}  # the same SVG for the same figures
TICKS = (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300)  # milliseconds


def plain_ticks(axis: Any, ticks: Sequence[float]) -> None:
    """Label a logarithmic axis with plain numbers, those of `ticks` that are within its limits."""
    from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def svg_text(figure: Any) -> str:
    """A figure of matplotlib as SVG, without the date: with `STYLE`, the same figures give the same text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
