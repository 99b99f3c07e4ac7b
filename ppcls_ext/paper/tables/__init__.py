"""What the paper published: its Tables 1 to 9, as typed rows read from the YAML files beside this module.

Numbers stay in the YAML files, each with its source and conditions; this module only gives them types. Beside them
`procedures.yaml` says how `pplcnet reproduce` measures the same here. A row or table more is data alone.
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
        arch: name for `ppcls_ext.models.factory.build_arch` (classification); None where `backbone` and `scale` say it.
        reference: the row that ratios of its table are taken to.
        distilled: trained with SSLD distillation.
        config: shipped config of the network; None where that of the table's `Procedure` serves with `arch`.
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
    config: str | None = None
    not_given: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """A PP-LCNet, or a network on one."""
        return (self.arch or self.backbone or "").startswith("PPLCNet")


@dataclass(frozen=True)
class KnownDifference:
    """A published value that the network of this name, counted by `ppcls_ext.models.counting`, does not round to."""

    arch: str
    field: str  # params_m or flops_m
    published: float  # millions
    counted: int  # exact
    reason: str


@dataclass(frozen=True)
class Table:
    """A table of the paper, with what its caption states."""

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


@dataclass(frozen=True)
class Variant:
    """An input size, height x width, at which the networks of a table are measured.

    Attributes:
        overrides: what is changed in the config for it; `{arch}` stands for that of the row.
        rounds, seconds, warmup: of measuring each network, see `ppcls_ext.bench.benchmark.Settings`.
    """

    name: str
    overrides: tuple[str, ...]
    rounds: int
    seconds: float
    warmup: int


@dataclass(frozen=True)
class Metric:
    """A metric of this package, a fraction, and how far it may be from the paper's, in percent points."""

    name: str
    bound: float


@dataclass(frozen=True)
class Procedure:
    """How this package builds, measures and compares the networks of some tables; our choice where the paper is silent.

    Attributes:
        images, classes: of the evaluation set; a run on a set of other numbers is not compared with the paper.
        metrics: by the column of the table.
        config: shipped config of rows that name none.
        note: what was chosen, and why.
    """

    tables: tuple[int, ...]
    dataset: str
    images: int
    classes: int
    metrics: Mapping[str, Metric]
    variants: tuple[Variant, ...]
    config: str | None = None
    note: str = ""


def _load(file: str) -> Any:
    return yaml.safe_load(resources.files(__name__).joinpath(file).read_text(encoding="utf-8"))


def _read(number: int) -> dict[str, Any]:
    content: dict[str, Any] = _load(f"table{number}.yaml")
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


@functools.cache
def procedure(number: int) -> Procedure:
    """How the networks of a table of results are measured here. Raises KeyError like `table`."""
    if number not in NUMBERS:
        raise KeyError(f"no table {number}: tables of results are {NUMBERS[0]} to {NUMBERS[-1]}")
    content = next(p for p in _load("procedures.yaml") if number in p["tables"])
    content["tables"] = tuple(content["tables"])
    content["metrics"] = {column: Metric(**metric) for column, metric in content["metrics"].items()}
    content["variants"] = tuple(Variant(**{**v, "overrides": tuple(v["overrides"])}) for v in content["variants"])
    return Procedure(**content)


def tables() -> tuple[Table, ...]:
    """All tables of results, in the paper's order."""
    return tuple(table(number) for number in NUMBERS)
