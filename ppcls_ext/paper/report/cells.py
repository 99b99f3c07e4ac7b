"""The cells of the report of `pplcnet reproduce`, table by table, from its raw values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ppcls_ext.paper.networks import network_of_row
from ppcls_ext.paper.tables import Procedure, Row, Table, Variant, procedure, table
from ppcls_ext.paper.verdicts import (
    NOT_GIVEN,
    STATUSES,
    Cell,
    Latency,
    accuracy_cell,
    count_cell,
    latency_cell,
    not_run,
    papers_conditions,
    ratio_cell,
)

FIELDS = {"params_m": "parameters", "flops_m": "multiply-adds", "top1": "top-1", "top5": "top-5"}
FIELDS |= {"coco_map": "mAP", "miou": "mIoU"}

Document = Mapping[str, Any]


class Column(NamedTuple):
    """`kind` is that of its cells over all tables, by which they are counted."""

    title: str
    detail: str
    kind: str


@dataclass(frozen=True)
class ComparedTable:
    """A table of the paper beside this machine: for each row its label and a cell for each column."""

    table: Table
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    remarks: tuple[str, ...]  # reasons of differences, warnings of benchmarks


def measured_latencies(document: Document, number: int, variant: Variant, engine: str) -> dict[str, Latency | str]:
    """The latency of each network of a table, or the reason why there is none."""
    names = {network_of_row(row, procedure(number), variant).name for row in table(number).rows}
    failures = {n: document["networks"].get(n, {}).get("failure") for n in names}
    record = _record(document, number, variant, engine)
    if "report" not in record:
        return {n: failures[n] or record["failure"] for n in names}
    results = record["report"]["results"]
    found: dict[str, Latency | str] = {n: failures[n] or "missing in the benchmark" for n in names}
    reference = network_of_row(table(number).reference_row, procedure(number), variant).name
    for row in results:
        if row["failure"] is not None:
            found[row["label"]] = row["failure"]
            continue
        found[row["label"]] = Latency(row["ms"]["median"])
        ratio = row["ratio_to_first"]
        if ratio is not None and results[0]["label"] == reference:
            found[row["label"]] = Latency(row["ms"]["median"], ratio["ratio"], ratio["low"], ratio["high"])
    return found


def _record(document: Document, number: int, variant: Variant, engine: str) -> Mapping[str, Any]:
    key = (number, variant.name, engine)
    found = (b for b in document["benchmarks"] if (b["table"], b["variant"], b["engine"]) == key)
    return next(found, {"failure": "stopped before its turn"})


def accuracy_of(document: Document, row: Row, way: Procedure, field: str) -> Cell:
    """What a run folder says about a column of accuracy. Runs under other conditions than the paper's do not count."""
    published = getattr(row, field)
    paper = NOT_GIVEN if published is None else f"{published:.2f} %"
    networks = [document["networks"].get(network_of_row(row, way, variant).name, {}) for variant in way.variants]
    if not document["runs"]:
        return not_run(paper, "no run folder given")
    runs = [
        run
        for run in document["runs"]
        if run["distilled"] == row.distilled and any(run["arch"] == network.get("arch") for network in networks)
    ]
    if not runs:
        return not_run(paper, "no run of this network given")
    reasons = []
    for run in runs:
        if run["metrics"] is None:
            reasons.append(f"run {run['name']} was not evaluated")
        elif (run["images"], run["classes"]) != (way.images, way.classes):
            reasons.append(
                f"run {run['name']} is on other data ({run['images']:,} images of {run['classes']:,} classes), "
                f"not {way.dataset}"
            )
        elif all(run["input"] != network.get("input") for network in networks):
            reasons.append(f"run {run['name']} has inputs of {' x '.join(map(str, run['input']))}")
        elif type(value := run["metrics"].get(way.metrics[field].name)) not in (int, float):
            reasons.append(f"run {run['name']} has no {way.metrics[field].name}")
        else:
            return accuracy_cell(published, value, way.metrics[field])
    return not_run(paper, reasons[0])


def columns_of(document: Document, t: Table, way: Procedure) -> tuple[Column, ...]:
    """The columns that a document has for a table."""
    sizes = [variant.name for variant in way.variants]
    columns = [Column("parameters", "", "parameters")]
    columns += [Column("multiply-adds", size, "multiply-adds") for size in sizes]
    columns += [Column(FIELDS[field], "", "accuracy") for field in way.metrics if field not in t.absent_columns]
    for engine in document["engines"]:
        for size in sizes:
            columns.append(Column("latency", f"{engine}, {size}", f"latency, {engine}"))
            columns.append(Column("ratio", f"{engine}, {size}", f"ratio of latencies, {engine}"))
    return tuple(columns)


def cells_of(document: Document, t: Table, way: Procedure, row: Row) -> Iterator[Cell]:
    """The cells of a row, in the order of `columns_of`."""
    networks = [document["networks"].get(network_of_row(row, way, v).name, {}) for v in way.variants]
    failures = [network.get("failure") or ("" if network else "stopped before its turn") for network in networks]

    def count(field: str, which: int) -> Cell:
        if failures[which]:
            published = getattr(row, field)
            return not_run(NOT_GIVEN if published is None else f"{published:g} M", failures[which])
        exact = networks[which]["params" if field == "params_m" else "flops"]
        return count_cell(t, row, field, exact)

    yield count("params_m", 0)
    for which in range(len(way.variants)):
        yield count("flops_m", which)
    for field in way.metrics:
        if field not in t.absent_columns:
            yield accuracy_of(document, row, way, field)
    for engine in document["engines"]:
        same = papers_conditions(document["environment"]["cpu"], document["threads"], engine)
        for variant in way.variants:
            found = measured_latencies(document, t.number, variant, engine)[network_of_row(row, way, variant).name]
            yield latency_cell(row, found, same)
            yield ratio_cell(row, t.reference_row, found)


def compared_table(document: Document, number: int) -> ComparedTable:
    """A table of the paper beside what the document measured, with remarks on it."""
    t, way = table(number), procedure(number)
    columns = columns_of(document, t, way)
    rows = tuple((row.label, tuple(cells_of(document, t, way, row))) for row in t.rows)
    remarks = [
        f"{label}, {column.title}: {cell.reason}"
        for label, cells in rows
        for column, cell in zip(columns, cells, strict=True)
        if cell.status == "differs" and cell.reason
    ]
    for engine in document["engines"]:
        for variant in way.variants:
            report = _record(document, number, variant, engine).get("report")
            if report is not None:
                warnings = [*report["warnings"]]
                warnings += [f"{row['label']}: {warning}" for row in report["results"] for warning in row["warnings"]]
                remarks += [f"{engine}, {variant.name}: {warning}" for warning in warnings]
    return ComparedTable(t, way.note, columns, rows, tuple(remarks))


def counts_of(parts: Sequence[ComparedTable]) -> list[tuple[str, dict[str, int]]]:
    """How many cells of each kind have each status, over all tables."""
    found: dict[str, Counter[str]] = {}
    for part in parts:
        for _, cells in part.rows:
            for column, cell in zip(part.columns, cells, strict=True):
                found.setdefault(column.kind, Counter())[cell.status] += 1
    return [(kind, {status: counter[status] for status in STATUSES}) for kind, counter in found.items()]
