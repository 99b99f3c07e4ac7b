"""The report of `pplcnet reproduce`: from its raw values to HTML and Markdown. Nothing is measured here."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from ppcls_ext.checkpoint import atomic_write_text
from ppcls_ext.compare import (
    NOT_GIVEN,
    RATIO_BOUND,
    STATUSES,
    TIE,
    Cell,
    Latency,
    Order,
    Pair,
    accuracy_cell,
    compare_order,
    count_cell,
    latency_cell,
    not_run,
    papers_conditions,
    pareto_front,
    ratio_cell,
)
from ppcls_ext.count import RULE
from ppcls_ext.reference import Procedure, Row, Table, Variant, procedure, table
from ppcls_ext.subjects import network_of

FIGURE = "figure1.svg"
FIGURE_TABLES = (3, 2)  # whose rows the paper's Figure 1 shows; of a network in both, the first one counts
LISTED_PAIRS = 6  # reversed pairs that the summary names for each engine

LISTED_ROWS = 8  # not run for one reason, that the summary names

FIELDS = {"params_m": "parameters", "flops_m": "multiply-adds", "top1": "top-1", "top5": "top-5"}
FIELDS |= {"coco_map": "mAP", "miou": "mIoU"}

Document = Mapping[str, Any]


class Column(NamedTuple):
    """`kind` is that of its cells over all tables, by which they are counted."""

    title: str
    detail: str
    kind: str


@dataclass(frozen=True)
class Part:
    """A table of the paper beside this machine: for each row its label and a cell for each column."""

    table: Table
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    remarks: tuple[str, ...]  # reasons of differences, warnings of benchmarks


class Agreement(NamedTuple):
    """The latencies of a table at an input size on an engine, and the paper's."""

    number: int
    variant: str
    engine: str
    order: Order
    compared: int  # ratios
    near: int  # of them within the bound


class View(NamedTuple):
    """All that the templates show."""

    document: Document
    machine: list[tuple[str, str]]
    counts: list[tuple[str, dict[str, int]]]  # cells of each kind by status
    agreements: list[Agreement]
    agrees: list[str]
    differs: list[str]
    missing: list[str]
    parts: list[Part]
    figure: str | None  # SVG
    rules: list[str]


def measured_latencies(document: Document, number: int, variant: Variant, engine: str) -> dict[str, Latency | str]:
    """For each network of a table its latency, or the reason why there is none."""
    names = {network_of(row, procedure(number), variant).name for row in table(number).rows}
    failures = {n: document["networks"].get(n, {}).get("failure") for n in names}
    record = _record(document, number, variant, engine)
    if "report" not in record:
        return {n: failures[n] or record["failure"] for n in names}
    results = record["report"]["results"]
    found: dict[str, Latency | str] = {n: failures[n] or "missing in the benchmark" for n in names}
    reference = network_of(table(number).reference_row, procedure(number), variant).name
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
    place = (number, variant.name, engine)
    found = (b for b in document["benchmarks"] if (b["table"], b["variant"], b["engine"]) == place)
    return next(found, {"failure": "stopped before its turn"})


def accuracy_of(document: Document, row: Row, way: Procedure, field: str) -> Cell:
    """What a run folder says about a column of accuracy. Runs under other conditions than the paper's do not count."""
    published = getattr(row, field)
    paper = NOT_GIVEN if published is None else f"{published:.2f} %"
    networks = [document["networks"].get(network_of(row, way, variant).name, {}) for variant in way.variants]
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
        else:
            return accuracy_cell(published, run["metrics"][way.metrics[field].name], way.metrics[field])
    return not_run(paper, reasons[0])


def columns_of(document: Document, t: Table, way: Procedure) -> tuple[Column, ...]:
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
    networks = [document["networks"].get(network_of(row, way, v).name, {}) for v in way.variants]
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
            found = measured_latencies(document, t.number, variant, engine)[network_of(row, way, variant).name]
            yield latency_cell(row, found, same)
            yield ratio_cell(row, t.reference_row, found)


def part_of(document: Document, number: int) -> Part:
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
    return Part(t, way.note, columns, rows, tuple(remarks))


def agreements_of(document: Document, part: Part) -> Iterator[Agreement]:
    t, way = part.table, procedure(part.table.number)
    for engine in document["engines"]:
        for variant in way.variants:
            found = measured_latencies(document, t.number, variant, engine)
            distinct = {network_of(row, way, variant).name: row for row in reversed(t.rows)}
            both = [
                (row.label, row.latency_ms, latency.median)
                for name, row in distinct.items()
                if isinstance(latency := found[name], Latency) and row.latency_ms is not None
            ]
            ratios = [ratio_cell(row, t.reference_row, found[name]).status for name, row in distinct.items()]
            near, far = ratios.count("matches"), ratios.count("differs")
            yield Agreement(t.number, variant.name, engine, compare_order(both), near + far, near)


def counts_of(parts: Sequence[Part]) -> list[tuple[str, dict[str, int]]]:
    """How many cells of each kind have each status, over all tables."""
    found: dict[str, Counter[str]] = {}
    for part in parts:
        for _, cells in part.rows:
            for column, cell in zip(part.columns, cells, strict=True):
                found.setdefault(column.kind, Counter())[cell.status] += 1
    return [(kind, {status: counter[status] for status in STATUSES}) for kind, counter in found.items()]


class Point(NamedTuple):
    """A network in the figure; the paper's accuracy in percent on both latencies in ms (None: not there)."""

    label: str
    top1: float
    paper: float | None
    here: float | None

    @property
    def family(self) -> str:
        return self.label.rsplit("-", 1)[0]


def figure_points(document: Document, engine: str) -> list[Point]:
    """The networks of Tables 2 and 3 that were trained without distillation."""
    points: dict[str, Point] = {}
    for number in FIGURE_TABLES:
        if number in document["tables"]:
            way = procedure(number)
            found = measured_latencies(document, number, way.variants[0], engine)
            for row in table(number).rows:
                name = network_of(row, way, way.variants[0]).name
                latency = found[name]
                if row.top1 is not None and not row.distilled and name not in points:
                    here = latency.median if isinstance(latency, Latency) else None
                    points[name] = Point(row.label, row.top1, row.latency_ms, here)
    return list(points.values())


def fronts(points: Sequence[Point]) -> tuple[list[str], list[str]] | None:
    """Networks that none beats in both latency and accuracy, in the paper and here; None without two to compare."""
    both = [p for p in points if p.paper is not None and p.here is not None]
    if len(both) < 2:
        return None
    paper = pareto_front({p.label: (p.paper or 0.0, p.top1) for p in both})
    here = pareto_front({p.label: (p.here or 0.0, p.top1) for p in both})
    return [p.label for p in both if p.label in paper], [p.label for p in both if p.label in here]


def draw_figure(document: Document) -> str | None:
    """The paper's Figure 1, top-1 against latency, beside the same with the latencies of each engine here, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    by_engine = {engine: figure_points(document, engine) for engine in document["engines"]}
    panels = [
        ("the paper: oneDNN, 10 threads of a Xeon Gold 6148", [(p, p.paper) for p in next(iter(by_engine.values()))])
    ]
    threads = f"{document['threads']} thread{'s' * (document['threads'] != 1)}"
    panels += [(f"here: {engine}, {threads}", [(p, p.here) for p in points]) for engine, points in by_engine.items()]
    if not any(ms is not None for _, points in panels[1:] for _, ms in points):
        return None
    families = list(dict.fromkeys(p.family for p, _ in panels[0][1]))
    families.sort(key=lambda family: family == "PP-LCNet")  # drawn last, on top
    with matplotlib.rc_context({"svg.hashsalt": "pplcnet", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.2 * len(panels), 4.2), layout="constrained", facecolor="white")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (title, points) in zip(axes, panels, strict=True):
            for k, family in enumerate(families):
                line = sorted((ms, p.top1) for p, ms in points if p.family == family and ms is not None)
                ours = family == "PP-LCNet"
                colour = "#c22" if ours else f"C{(0, 1, 2, 4, 5, 6, 7, 8, 9)[k % 9]}"
                style = {
                    "marker": "o" if ours else "s",
                    "color": colour,
                    "linewidth": 2 if ours else 1,
                    "markersize": 4,
                }
                ax.plot(*(zip(*line, strict=True) if line else ((), ())), label=family, **style)
            ax.set(title=title, xlabel="latency (ms, log scale)", xscale="log")
            ax.xaxis.set_major_formatter(ScalarFormatter())
            ax.xaxis.set_minor_formatter(NullFormatter())
            low, high = ax.get_xlim()
            ax.set_xticks([t for t in (0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100) if low <= t <= high])
            ax.grid(color="#ddd", linewidth=0.5)
        axes[0].set_ylabel("ImageNet top-1 in the paper (%)")
        axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


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


def _pair_text(number: int, variant: str, pair: Pair) -> str:
    return (
        f"Table {number} at {variant}: {pair.faster} is faster than {pair.slower} in the paper "
        f"({pair.paper[0]:g} and {pair.paper[1]:g} ms), but not here ({pair.here[0]:.2f} and {pair.here[1]:.2f} ms)"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def summarise(
    document: Document, parts: Sequence[Part], agreements: Sequence[Agreement]
) -> tuple[list[str], list[str]]:
    """Sentences on what agrees, and on what does not."""
    agrees: list[str] = []
    differs: list[str] = []
    for kind, by_status in counts_of(parts):
        compared = by_status["matches"] + by_status["differs"]
        if compared:
            line = f"{kind}: {by_status['matches']} of {compared} values that the paper gives"
            (agrees if by_status["matches"] == compared else differs).append(f"{line} match.")
    for engine in document["engines"]:
        own = [a for a in agreements if a.engine == engine]
        pairs, same = sum(a.order.pairs for a in own), sum(a.order.same for a in own)
        if pairs:
            tied = sum(a.order.tied for a in own)
            line = f"Order on {engine}: {same} of {pairs} pairs of rows are in the paper's order"
            (agrees if same == pairs else differs).append(f"{line}, {tied} are tied, {pairs - same - tied} reversed.")
        turned = [(a.number, a.variant, pair) for a in own for pair in a.order.reversed]
        turned.sort(key=lambda entry: entry[2].strength, reverse=True)
        differs += [f"{engine}: {_pair_text(*entry)}." for entry in turned[:LISTED_PAIRS]]
        if len(turned) > LISTED_PAIRS:
            differs.append(f"{engine}: {len(turned) - LISTED_PAIRS} more pairs are in the other order.")
        front = fronts(figure_points(document, engine))
        if front is not None:
            paper, here = front
            line = f"Figure 1 on {engine}: on the front of latency and the paper's accuracy are {_listed(here)}"
            if paper == here:
                agrees.append(f"{line}, as in the paper.")
            else:
                gone, new = [n for n in paper if n not in here], [n for n in here if n not in paper]
                differs.append(f"{line}; gone from the paper's front: {_listed(gone)}; new on it: {_listed(new)}.")
    return agrees, differs


def missing_of(parts: Sequence[Part]) -> list[str]:
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
        lines.append(f"{kind}, {reason}: {_listed(rows) if len(rows) <= LISTED_ROWS else f'{len(where)} values'}.")
    return lines


def view_of(document: Document) -> View:
    parts = [part_of(document, number) for number in document["tables"]]
    agreements = [agreement for part in parts for agreement in agreements_of(document, part)]
    agrees, differs = summarise(document, parts, agreements)
    environment = document["environment"]
    reports = [b["report"] for b in document["benchmarks"] if "report" in b]
    machine = reports[-1]["machine"] if reports else {"cpu": environment["cpu"], "platform": environment["platform"]}
    shown = [("command", environment["command"]), ("made", document["created"])]
    shown += [(key.replace("_", " "), _listed(v) if isinstance(v, list) else str(v)) for key, v in machine.items()]
    versions = {"pplcnet": environment["pplcnet"], "python": environment["python"], **environment["packages"]}
    shown += [
        ("threads", str(document["threads"])),
        ("versions", ", ".join(f"{k} {v}" for k, v in versions.items() if v)),
    ]
    rules = [
        f"Counts match if they round to the published digits. Counted are {RULE}.",
        "Accuracies come from run folders, evaluated on the paper's data at its input size; bounds in percent points: "
        + ", ".join(f"{FIELDS[f]} {m.bound:g}" for n in (2, 4, 5) for f, m in procedure(n).metrics.items())
        + ".",
        "Latency is the median of a call with batch 1; untrained weights, whose batch norms have the statistics of "
        "their inputs, so that activations are of unit scale. Milliseconds are compared only under the paper's "
        "conditions (Xeon Gold 6148, 10 threads, oneDNN).",
        "Elsewhere ratios to the table's reference row are compared: here with a 95 % bootstrap interval in brackets; "
        f"a match is within {RATIO_BOUND:.0%} of the paper's ratio. Pairs of rows are tied if their latencies are "
        f"within {TIE:.0%} of each other; those that are tied in the paper do not count.",
    ]
    if document["quick"]:
        rules.append("This is a quick run: too few calls for figures to rely on.")
    figure = draw_figure(document)
    return View(
        document,
        shown,
        counts_of(parts),
        agreements,
        agrees,
        [*differs, *repeatability(document)],
        missing_of(parts),
        parts,
        figure,
        rules,
    )


def write_reports(out: Path, document: Document) -> None:
    """Write reproduce.html, which needs no other file, reproduce.md, and the figure that it shows."""
    view = view_of(document)
    values = {**view._asdict(), "figure_file": FIGURE, "statuses": STATUSES}
    for name, escape in (("reproduce.html", True), ("reproduce.md", False)):
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("ppcls_ext"),
            undefined=jinja2.StrictUndefined,
            autoescape=escape,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        atomic_write_text(out / name, environment.get_template(name).render(values))
    if view.figure is not None:
        atomic_write_text(out / FIGURE, view.figure)
