"""Measured values against the paper's: one cell with one status for every value, and how far orders agree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from scipy.stats import kendalltau

from ppcls_ext.paper.tables import Metric, Row, Table

Status = Literal["matches", "differs", "not compared", "not run"]
STATUSES: tuple[Status, ...] = get_args(Status)

# A ratio of latencies matches if it is within this share of the paper's.
RATIO_BOUND = 0.10

# Latencies of the paper this close are taken for equal: they have three digits and no interval.
TIE = 0.02

NOT_GIVEN = "not given"  # stands where the paper gives no value

# Decimals of published counts, in millions.
DECIMALS = {"params_m": 1, "flops_m": 0}

# The paper's conditions; only under them absolute latencies are compared.
PAPER_CPU, PAPER_THREADS, PAPER_ENGINE = "Gold 6148", 10, "onednn"


@dataclass(frozen=True)
class Cell:
    """A value of the paper beside the same here; `reason` says why it was not run or compared, or why it differs."""

    paper: str
    here: str
    status: Status
    reason: str = ""

    @property
    def verdict(self) -> str:
        """The status as text, with its reason where nothing was compared."""
        return f"{self.status}: {self.reason}" if self.status.startswith("not") else self.status


def not_run(paper: str, reason: str) -> Cell:
    """The cell of a value of the paper that was not measured here."""
    return Cell(paper, "–", "not run", reason)


def not_in_paper(here: str) -> Cell:
    """The cell of a value that only we have."""
    return Cell(NOT_GIVEN, here, "not compared", "the paper gives no value")


def count_cell(table: Table, row: Row, field: str, exact: int) -> Cell:
    """Parameters or FLOPs (`params_m`, `flops_m`): a match rounds to the published digits."""
    here = f"{exact:,}" if field == "params_m" else f"{exact / 1e6:,.1f} M"
    published = getattr(row, field)
    if published is None:
        return not_in_paper(here)
    paper = f"{published:,.{DECIMALS[field]}f} M"
    if round(exact / 1e6, DECIMALS[field]) == published:
        return Cell(paper, here, "matches")
    known = [d.reason for d in table.known_differences if (d.arch, d.field) == (row.arch, field)]
    return Cell(paper, here, "differs", known[0] if known else "")


def accuracy_cell(published: float | None, measured: float, metric: Metric) -> Cell:
    """`measured` is a fraction, `published` percent."""
    here = f"{100 * measured:.2f} %"
    if published is None:
        return not_in_paper(here)
    near = abs(100 * measured - published) <= metric.bound
    return Cell(f"{published:.2f} %", here, "matches" if near else "differs")


class Latency(NamedTuple):
    """Median in ms, and its ratio to the reference row's with a confidence interval; None where that has none."""

    median: float
    ratio: float | None = None
    low: float = math.nan
    high: float = math.nan


def latency_cell(row: Row, measured: Latency | str, same_conditions: bool) -> Cell:
    """`measured` may be the reason why there is no latency."""
    paper = NOT_GIVEN if row.latency_ms is None else f"{row.latency_ms:g} ms"
    if isinstance(measured, str):
        return not_run(paper, measured)
    here = f"{measured.median:.2f} ms"
    if row.latency_ms is None:
        return not_in_paper(here)
    if not same_conditions:
        return Cell(paper, here, "not compared", "not the paper's conditions")
    near = abs(measured.median / row.latency_ms - 1) <= RATIO_BOUND
    return Cell(paper, here, "matches" if near else "differs")


def ratio_cell(row: Row, reference: Row, measured: Latency | str) -> Cell:
    """The latency in units of that of the table's reference row."""
    published = None
    if row.latency_ms is not None and reference.latency_ms is not None:
        published = row.latency_ms / reference.latency_ms
    paper = NOT_GIVEN if published is None else f"{published:.2f}"
    if isinstance(measured, str):
        return not_run(paper, measured)
    if row is reference or (row.arch is not None and row.arch == reference.arch):
        return Cell("1", "1", "not compared", "ratios are to this network")
    if measured.ratio is None:
        return not_run(paper, "the reference row has no latency")
    here = f"{measured.ratio:.2f} ({measured.low:.2f} to {measured.high:.2f})"
    if published is None:
        return not_in_paper(here)
    near = abs(measured.ratio / published - 1) <= RATIO_BOUND
    return Cell(paper, here, "matches" if near else "differs")


def papers_conditions(cpu: str, threads: int, engine: str) -> bool:
    """Whether latencies here were taken on the paper's processor, threads and engine."""
    return PAPER_CPU in cpu and threads == PAPER_THREADS and engine == PAPER_ENGINE


class Pair(NamedTuple):
    """Two rows: the first is the faster one in the paper, the second is here. Latencies in ms."""

    faster: str
    slower: str
    paper: tuple[float, float]
    here: tuple[float, float]

    @property
    def strength(self) -> float:
        """The factor by which the ratio of the two has changed."""
        return (self.paper[1] / self.paper[0]) * (self.here[0] / self.here[1])


class Order(NamedTuple):
    """How far two orders of the same rows agree.

    Attributes:
        pairs: that differ in the paper by more than `TIE`. `same` of them are clearly in that order here, `tied` in
            neither.
        tau: Kendall's, over all rows; None where there are no pairs, or all are equal here.
        reversed: the other pairs, those that changed most first.
    """

    rows: int
    pairs: int
    same: int
    tied: int
    tau: float | None
    reversed: tuple[Pair, ...]


def clearly_faster(a: Latency, b: Latency) -> bool:
    """Whether the intervals of two rows of a benchmark do not meet; without intervals, by more than `TIE`."""
    if a.ratio is None or b.ratio is None:
        return a.median * (1 + TIE) < b.median
    return a.high < b.low


def order_of(rows: Sequence[tuple[str, float, Latency]]) -> Order:
    """How far the orders of latencies agree: (label, the paper's, ours) for each network."""
    pairs = same = 0
    turned = []
    for (a, paper_a, here_a), (b, paper_b, here_b) in itertools.combinations(sorted(rows, key=lambda row: row[1]), 2):
        if paper_b <= paper_a * (1 + TIE):
            continue
        pairs += 1
        same += clearly_faster(here_a, here_b)
        if clearly_faster(here_b, here_a):
            turned.append(Pair(a, b, (paper_a, paper_b), (here_a.median, here_b.median)))
    paper, here = [row[1] for row in rows], [row[2].median for row in rows]
    # A table of one latency, or of latencies that the paper has for equal, has no order.
    tau = float(kendalltau(paper, here).statistic) if pairs and len(set(here)) > 1 else None
    turned.sort(key=lambda pair: pair.strength, reverse=True)
    return Order(len(rows), pairs, same, pairs - same - len(turned), tau, tuple(turned))
