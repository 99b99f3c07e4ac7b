"""The summary of the report of `pplcnet reproduce`: what agrees with the paper, what does not, what was not run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ppcls_ext.paper.networks import network_of_row
from ppcls_ext.paper.repeat import repeat_lines
from ppcls_ext.paper.report.cells import ComparedTable, Document, counts_of, measured_latencies
from ppcls_ext.paper.report.figure import figure_points, fronts
from ppcls_ext.paper.tables import procedure, table
from ppcls_ext.paper.verdicts import Latency, Order, Pair, clearly_faster, order_of, ratio_cell

LISTED = 4  # a line of the summary names no more items; the tables and the JSON have all


class Agreement(NamedTuple):
    """The latencies of a table at an input size on an engine, and the paper's."""

    number: int
    variant: str
    engine: str
    order: Order
    compared: int  # how many ratios were compared
    near: int  # how many of those lie within the bound


def agreements_of(document: Document, part: ComparedTable) -> Iterator[Agreement]:
    """How far latencies agree with a table, for each variant and engine."""
    t, way = part.table, procedure(part.table.number)
    for engine in document["engines"]:
        for variant in way.variants:
            found = measured_latencies(document, t.number, variant, engine)
            distinct = {network_of_row(row, way, variant).name: row for row in reversed(t.rows)}
            both = [
                (row.label, row.latency_ms, latency)
                for name, row in distinct.items()
                if isinstance(latency := found[name], Latency) and row.latency_ms is not None
            ]
            ratios = [ratio_cell(row, t.reference_row, found[name]).status for name, row in distinct.items()]
            near, far = ratios.count("matches"), ratios.count("differs")
            yield Agreement(t.number, variant.name, engine, order_of(both), near + far, near)


class Claim(NamedTuple):
    """The paper's claim for a table: pairs of rows whose first is a PP-LCNet, faster than the other and as accurate.

    `pairs` ran here; in `lost` the other network is clearly faster here, in `tied` neither is.
    """

    variant: str
    pairs: int
    tied: int
    lost: tuple[Pair, ...]


def claims_of(document: Document, number: int, engine: str) -> Iterator[Claim]:
    """The claim at each input size; none for tables of PP-LCNets only."""
    t, way = table(number), procedure(number)
    accuracy = next(iter(way.metrics))
    for variant in way.variants:
        found = measured_latencies(document, number, variant, engine)
        ran = []
        for row in t.rows:
            latency, top = found[network_of_row(row, way, variant).name], getattr(row, accuracy)
            if isinstance(latency, Latency) and row.latency_ms is not None and top is not None and not row.distilled:
                ran.append((row, top, row.latency_ms, latency))
        pairs = tied = 0
        lost = []
        for ours, top, ms, here in ran:
            for other, other_top, other_ms, other_here in ran:
                if ours.is_ours and not other.is_ours and ms < other_ms and top >= other_top:
                    pairs += 1
                    if clearly_faster(other_here, here):
                        lost.append(Pair(ours.label, other.label, (ms, other_ms), (here.median, other_here.median)))
                    elif not clearly_faster(here, other_here):
                        tied += 1
        if pairs:
            lost.sort(key=lambda pair: pair.strength, reverse=True)
            yield Claim(variant.name, pairs, tied, tuple(lost))


def repeatability(document: Document) -> Iterator[str]:
    """How far medians of one network on one engine are apart, where several tables measured it."""
    for engine in document["engines"]:
        medians: dict[str, list[float]] = {}
        for record in document["benchmarks"]:
            if record["engine"] == engine and "report" in record:
                for row in record["report"]["results"]:
                    if row["failure"] is None:
                        medians.setdefault(row["label"], []).append(row["ms"]["median"])
        repeated = {name: max(ms) / min(ms) - 1 for name, ms in medians.items() if len(ms) > 1}
        if repeated:
            worst = max(repeated, key=lambda name: repeated[name])
            yield (
                f"Repeatability on {engine}: {len(repeated)} networks were timed in several tables, minutes apart; "
                f"their medians differ by up to {repeated[worst]:.1%} ({worst})."
            )


def listed(names: Sequence[str]) -> str:
    """Names in one line, separated by commas."""
    return ", ".join(names) if names else "none"


def _first(items: Sequence[str]) -> str:
    """The first few of a list, and how many more there are."""
    more = len(items) - LISTED
    return "; ".join(items[:LISTED]) + (f"; and {more} more" if more > 0 else "")


def _holds(pairs: int, tied: int, lost: int) -> bool:
    """Whether an order agrees with the paper's: none lost, and more than half of the pairs shown. Ties show nothing."""
    return not lost and 2 * tied < pairs


Finding = tuple[bool, str]  # whether it agrees with the paper, and a sentence


def value_findings(parts: Sequence[ComparedTable]) -> Iterator[Finding]:
    """How many of the paper's values match, for each kind of column."""
    for kind, by_status in counts_of(parts):
        match, differ = by_status["matches"], by_status["differs"]
        if match:
            yield True, f"{kind}: {match} of {match + differ} values that the paper gives match."
        if differ:
            rows = [f"Table {number} {label}" for number, label in _rows_with(parts, kind, "differs")]
            yield False, f"{kind}: {differ} of {match + differ} values differ ({_first(rows)})."


def order_findings(agreements: Sequence[Agreement]) -> Iterator[Finding]:
    """How many pairs of rows are in the paper's order, for each table, variant and engine."""
    for number, variant, engine, order, *_ in agreements:
        if order.pairs:
            line = (
                f"Table {number} at {variant} on {engine}, order: {order.same} of {order.pairs} pairs of rows are "
                f"as in the paper, {order.tied} tied"
            )
            turned = [
                f"{p.slower} {p.here[1]:.2f} ms and {p.faster} {p.here[0]:.2f} ms, in the paper "
                f"{p.paper[1]:g} and {p.paper[0]:g} ms"
                for p in order.reversed
            ]
            sentence = f"{line}, {len(turned)} reversed: {_first(turned)}." if turned else f"{line}."
            yield _holds(order.pairs, order.tied, len(turned)), sentence


def claim_findings(document: Document, engine: str) -> Iterator[Finding]:
    """Whether PP-LCNet is ahead of the others as the paper claims."""
    for number in document["tables"]:
        for claim in claims_of(document, number, engine):
            line = (
                f"Table {number} at {claim.variant} on {engine}, PP-LCNet against the others: of {claim.pairs} pairs "
                "in which the paper has it faster than another network and at least as accurate, it is faster here in "
                f"{claim.pairs - claim.tied - len(claim.lost)}, tied in {claim.tied} and slower in {len(claim.lost)}"
            )
            won = [f"{p.slower} beats {p.faster}, {p.here[1]:.2f} to {p.here[0]:.2f} ms" for p in claim.lost]
            sentence = f"{line}: {_first(won)}." if won else f"{line}."
            yield _holds(claim.pairs, claim.tied, len(won)), sentence


def front_findings(document: Document, engine: str) -> Iterator[Finding]:
    """Which networks are on the front of latency and accuracy, here and in the paper."""
    front = fronts(figure_points(document, engine))
    if front is not None:
        paper, here = front
        line = f"Figure 1 on {engine}: on the front of latency and the paper's accuracy are {listed(here)}"
        gone, new = [n for n in paper if n not in here], [n for n in here if n not in paper]
        if gone or new:
            yield False, f"{line}; gone from the paper's front: {listed(gone)}; new on it: {listed(new)}."
        else:
            yield True, f"{line}, as in the paper."


def findings_of(
    document: Document, parts: Sequence[ComparedTable], agreements: Sequence[Agreement]
) -> Iterator[Finding]:
    """Sentences on what agrees with the paper and what does not."""
    yield from value_findings(parts)
    for engine in document["engines"]:
        yield from claim_findings(document, engine)
        yield from front_findings(document, engine)
    yield from order_findings(agreements)
    for line in repeatability(document):
        yield False, line
    yield from repeat_lines(document, LISTED)


def _rows_with(parts: Sequence[ComparedTable], kind: str, status: str) -> list[tuple[int, str]]:
    """Table and label of the rows with a cell of this kind and status."""
    found = {
        (part.table.number, label): None
        for part in parts
        for label, cells in part.rows
        for column, cell in zip(part.columns, cells, strict=True)
        if (column.kind, cell.status) == (kind, status)
    }
    return list(found)


def missing_of(parts: Sequence[ComparedTable]) -> list[str]:
    """A sentence for each reason why values were not run, with the rows where they are few."""
    found: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        for label, cells in part.rows:
            for column, cell in zip(part.columns, cells, strict=True):
                if cell.status == "not run":
                    found.setdefault((column.kind, cell.reason), []).append(f"Table {part.table.number} {label}")
    lines = []
    for (kind, reason), where in found.items():
        rows = list(dict.fromkeys(where))
        lines.append(f"{kind}, {reason}: {listed(rows) if len(rows) <= LISTED else f'{len(where)} values'}.")
    return lines
