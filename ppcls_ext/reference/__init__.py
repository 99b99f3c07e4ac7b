"""What the paper published: its Tables 1 to 9, as typed rows read from the YAML files beside this module.

Numbers stay in the YAML files, each with its source and conditions; this module only gives them types.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

NUMBERS = range(2, 10)  # the tables of results; Table 1 is the network itself


@dataclass(frozen=True)
class Operator:
    """A line of Table 1: `repeat` operators in a row, whose output is `size` x `size` with `out_channels`."""

    operator: str
    kernel: int
    stride: int
    in_channels: int
    out_channels: int
    size: int
    se: bool
    repeat: int


@dataclass(frozen=True)
class Architecture:
    """Table 1."""

    number: int
    title: str
    source: str
    conditions: str
    rows: tuple[Operator, ...]


@dataclass(frozen=True)
class Row:
    """A line of a table of results. Accuracies are percent; None is a value that the paper does not give.

    Attributes:
        arch: name for `ppcls_ext.archs.build_arch` (classification); None where `backbone` and `scale` say it.
        reference: the row that ratios of its table are taken to.
        distilled: trained with SSLD distillation.
        not_given: the paper's words for a value that is None in this row alone.
    """

    label: str
    source: str
    conditions: str
    arch: str | None = None
    backbone: str | None = None
    scale: float | None = None
    params_m: float | None = None
    flops_m: float | None = None
    top1: float | None = None
    top5: float | None = None
    coco_map: float | None = None
    miou: float | None = None
    latency_ms: float | None = None
    reference: bool = False
    distilled: bool = False
    not_given: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownDifference:
    """A published value that the network of this name, counted by `ppcls_ext.count`, does not round to."""

    arch: str
    field: str  # params_m or flops_m
    published: float  # in millions
    counted: int  # exact
    reason: str


@dataclass(frozen=True)
class Table:
    number: int
    title: str
    source: str
    conditions: str
    rows: tuple[Row, ...]
    note: str = ""
    absent_columns: tuple[str, ...] = ()  # None in every row
    known_differences: tuple[KnownDifference, ...] = ()

    @property
    def reference_row(self) -> Row:
        """The row that ratios are taken to."""
        return next(row for row in self.rows if row.reference)


def _read(number: int) -> dict[str, Any]:
    text = resources.files(__name__).joinpath(f"table{number}.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


@functools.cache
def architecture() -> Architecture:
    """Table 1, the network at scale 1."""
    content = _read(1)
    return Architecture(**{**content, "rows": tuple(Operator(**row) for row in content["rows"])})


@functools.cache
def table(number: int) -> Table:
    """A table of results.

    Raises:
        KeyError: the paper has no such table of results.
    """
    if number not in NUMBERS:
        raise KeyError(f"no table {number}: tables of results are {NUMBERS[0]} to {NUMBERS[-1]}")
    content = _read(number)
    # A row says by itself where its numbers come from, wherever a report quotes it.
    origin = {"source": content["source"], "conditions": content["conditions"]}
    content["rows"] = tuple(Row(**origin, **row) for row in content["rows"])
    content["absent_columns"] = tuple(content.get("absent_columns", ()))
    content["known_differences"] = tuple(KnownDifference(**d) for d in content.get("known_differences", ()))
    return Table(**content)


def tables() -> tuple[Table, ...]:
    """All tables of results, in the paper's order."""
    return tuple(table(number) for number in NUMBERS)
