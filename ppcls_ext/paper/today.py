"""Later light networks beside the paper's: published accuracy against latency here, in a table and a figure.

Each pair of an engine and a number of threads is measured by itself and kept: a run can be stopped and continued, and
a command for another engine adds to what is there.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from ppcls_ext.bench.benchmark import run_benchmark
from ppcls_ext.core.display import bar, say
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.pareto import pareto_front
from ppcls_ext.core.plots import STYLE, TICKS, plain_ticks, svg_text
from ppcls_ext.core.run_folder import environment
from ppcls_ext.core.text import counted
from ppcls_ext.deploy.export import chosen_formats
from ppcls_ext.deploy.untrained import BATCH, CONFIG, Network, formats_for
from ppcls_ext.paper.documents import RAW_TODAY as RAW
from ppcls_ext.paper.documents import read_today
from ppcls_ext.paper.reproduce import (
    SAME,
    Benchmark,
    ReproductionPlan,
    built_entry,
    measured_entry,
    own_folders,
)
from ppcls_ext.paper.tables import Variant

TABLE, FIGURE = "today.md", "today.svg"
VARIANT = Variant("224x224", (BATCH,), rounds=30, seconds=2.0, warmup=10)
MARKERS = {"plain": "o", "long": "s", "ssld": "^"}  # the figure marks each recipe by these


@dataclass(frozen=True)
class Published:
    """A published top-1 accuracy in percent; `recipe` is a key of `MARKERS`, `source` one of `Comparison.sources`."""

    top1: float
    recipe: str
    source: str


@dataclass(frozen=True)
class ComparedNetwork:
    """A network of the comparison; counts in millions, None where none are published."""

    label: str
    arch: str
    params_m: float | None
    flops_m: float | None
    published: tuple[Published, ...]
    reference: bool = False

    @property
    def network(self) -> Network:
        """What is built and timed."""
        return Network(f"{self.arch}-{VARIANT.name}", CONFIG, (f"Arch.name={self.arch}", *VARIANT.overrides))


@dataclass(frozen=True)
class Comparison:
    """What `today.yaml` says."""

    title: str
    conditions: str
    sources: dict[str, str]
    rows: tuple[ComparedNetwork, ...]


@functools.cache
def comparison() -> Comparison:
    """The networks, with what is published about them."""
    text = resources.files("ppcls_ext.paper.tables").joinpath("today.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    rows = [
        ComparedNetwork(**{**row, "published": tuple(Published(**value) for value in row["published"])})
        for row in data["rows"]
    ]
    return Comparison(data["title"], " ".join(data["conditions"].split()), data["sources"], tuple(rows))


def reproduce_today(plan: ReproductionPlan, benchmark: Benchmark = run_benchmark) -> dict[str, Any]:
    """Measure what is not yet there, and write today.json, .md and .svg into `plan.out` after every part.

    Of `plan`, tables, runs and resume do not count. Parts of an earlier command are kept where the machine and the
    versions are the same; those of `quick` are not kept by a full run.
    Raises:
        UserError: an unknown engine, a file of something else, one that another machine or version wrote, or another
            process that writes there.
    """
    formats_for(plan.engines)  # this refuses an engine that cannot run
    with own_folders(plan):
        return _reproduced(plan, benchmark)


def _reproduced(plan: ReproductionPlan, benchmark: Benchmark) -> dict[str, Any]:
    formats = chosen_formats(None)  # all of them: a command for another engine finds the networks built
    document = _earlier(plan)
    done = {(part["engine"], part["threads"]) for part in document["parts"] if "report" in part}
    missing = [engine for engine in plan.engines if (engine, plan.threads) not in done]
    if missing:
        entries = comparison().rows
        with bar(len(entries), "build") as progress:
            for entry in entries:
                document["networks"][entry.network.name] = built_entry(entry.network, plan.work, formats)
                progress.advance(1, entry.label)
    ready = [e.network for e in _reference_first() if "failure" not in document["networks"].get(e.network.name, {})]
    for engine in missing:
        say(f"{engine}, {counted(plan.threads, 'thread')}")
        found = measured_entry(ready, engine, plan, VARIANT, benchmark)
        part = {"engine": engine, "threads": plan.threads, **found}
        document["parts"] = [p for p in document["parts"] if (p["engine"], p["threads"]) != (engine, plan.threads)]
        document["parts"].append(part)
        save(plan, document)
    save(plan, document)
    say(f"report: {plan.out / TABLE}, {FIGURE}, {RAW}")
    return document


def _earlier(plan: ReproductionPlan) -> dict[str, Any]:
    """The document to add to: that in `plan.out`, or a new one."""
    file, now = plan.out / RAW, environment()
    if not file.is_file():
        return {"environment": now, "quick": plan.quick, "networks": {}, "parts": []}
    old = read_today(plan.out)
    same = all(old["environment"].get(key) == now[key] for key in SAME)
    if not same:
        raise UserError(f"{file}: it was measured on another machine or with other versions; give another --out")
    if old["quick"] != plan.quick:
        return {"environment": now, "quick": plan.quick, "networks": {}, "parts": []}
    return old


def save(plan: ReproductionPlan, document: dict[str, Any]) -> None:
    """Write the raw values, the table and the figure."""
    atomic_write_text(plan.out / RAW, json.dumps(document) + "\n")
    atomic_write_text(plan.out / TABLE, table_of(document))
    if any("report" in part for part in document["parts"]):
        atomic_write_text(plan.out / FIGURE, figure_of(document))


def _reference_first() -> list[ComparedNetwork]:
    return sorted(comparison().rows, key=lambda entry: not entry.reference)


def _name(part: dict[str, Any]) -> str:
    return f"{part['engine']}, {counted(part['threads'], 'thread')}"


def latencies_of(part: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of each network that was measured, by its arch; none of a part that failed.

    They are the reference's median times the ratio to it, which networks in turns are compared by; of a network without
    a ratio, its own median.
    """
    rows = _results(part)
    found = {entry.arch: _row(part, entry) for entry in comparison().rows}
    return {arch: _milliseconds(row, rows[0]) for arch, row in found.items() if row and row["failure"] is None}


def _milliseconds(row: dict[str, Any], first: dict[str, Any]) -> float:
    ratio = row["ratio_to_first"]
    return float(row["ms"]["median"] if ratio is None else ratio["ratio"] * first["ms"]["median"])


def front_of(part: dict[str, Any], recipe: str) -> set[str]:
    """Networks that no other of the same recipe beats in both accuracy and latency."""
    found = latencies_of(part)
    points = {
        entry.label: (found[entry.arch], value.top1)
        for entry in comparison().rows
        for value in entry.published
        if value.recipe == recipe and entry.arch in found
    }
    return pareto_front(points)


# Table


def table_of(document: dict[str, Any]) -> str:
    """The report as Markdown."""
    data, parts = comparison(), [part for part in document["parts"] if "report" in part]
    heads = [_name(part) for part in parts]
    lines = [f"# {data.title}", "", data.conditions, ""]
    lines += ["Made by too few calls to rely on (`--quick`).", ""] if document["quick"] else []
    lines += _machine_lines(document, parts)
    lines += [
        "",
        "Milliseconds: the median of the reference times the ratio to it; in brackets the interquartile range of a",
        "network's own calls over their median. Bold: on the front among networks of the same recipe, where no other",
        "is both faster and more accurate.",
        "",
    ]
    lines.append("| network | recipe | top-1 (%) | params (M) | multiply-adds (M) | " + " | ".join(heads) + " |")
    lines.append("|---|---|---|---|---|" + "---|" * len(heads))
    for entry in data.rows:
        network = document["networks"].get(entry.network.name, {})
        counts = [f"{network[key] / 1e6:.1f}" if network.get(key) is not None else "" for key in ("params", "flops")]
        for value in entry.published:
            cells = [entry.label, value.recipe, f"{value.top1:g}", *counts]
            cells += [_cell(part, entry, value.recipe) for part in parts]
            lines.append("| " + " | ".join(cells) + " |")
    lines += _ratio_lines(parts)
    lines += [
        "Recipes: plain, labels alone; ssld, distilled by a large teacher, worth about 3 points; long, many more",
    ]
    lines += [
        "epochs and stronger augmentation. Compare networks within a recipe. Branches of training are folded. Sources:"
    ]
    used = dict.fromkeys((entry.label, value.recipe, value.source) for entry in data.rows for value in entry.published)
    for source, words in data.sources.items():
        of = [f"{label} ({recipe})" for label, recipe, name in used if name == source]
        lines += [f"{words}: {', '.join(of)}." for _ in of[:1]]
    failed = [f"{_name(part)}: {part['failure']}." for part in document["parts"]
              if "failure" in part]  # fmt: skip
    return "\n".join([*lines, *failed, ""])


def _machine_lines(document: dict[str, Any], parts: Sequence[dict[str, Any]]) -> list[str]:
    reports = [part["report"] for part in parts]
    if not reports:
        return ["Nothing has been measured yet."]
    machine = reports[-1]["machine"]
    versions: dict[str, Any] = {}
    for report in reports:
        versions |= report["versions"]
    commands = dict.fromkeys(f"`{report['command']}`" for report in reports)
    warnings = [row["warnings"] for report in reports for row in report["results"]]
    wide = sum(any(warning.startswith("spread ") for warning in found) for found in warnings)
    return [
        f"Machine: {machine['cpu']}, {machine['usable_cores']} cores, {', '.join(machine['flags'])}, "
        f"{machine['platform']}.",
        f"Versions: {', '.join(f'{name} {number}' for name, number in versions.items() if number)}.",
        f"Commands: {', '.join(commands)}.",
        f"Measured {reports[0]['created']} to {reports[-1]['created']}; "
        f"{sum(map(bool, warnings))} of {len(warnings)} values have a warning, {wide} of a wide spread, which {RAW} "
        "holds.",
        *(f"{_name(part)}: {warning}." for part in parts for warning in part["report"]["warnings"]),
    ]


def _ratio_lines(parts: Sequence[dict[str, Any]]) -> list[str]:
    """The table of ratios, which a machine that changes its speed falsifies least."""
    entries = _reference_first()
    lines = [
        "",
        f"Times the latency of {entries[0].label} on the same engine and threads, with a 95 % interval; all networks "
        "of a column took turns.",
        "",
        "| network | " + " | ".join(_name(part) for part in parts) + " |",
        "|---|" + "---|" * len(parts),
    ]
    for entry in entries[1:]:
        lines.append("| " + " | ".join([entry.label, *(_ratio_cell(part, entry) for part in parts)]) + " |")
    return [*lines, ""]


def _ratio_cell(part: dict[str, Any], entry: ComparedNetwork) -> str:
    row, first = _row(part, entry), [row["label"] for row in _results(part)[:1]]
    ratio = None if row is None else row["ratio_to_first"]
    if ratio is None or first != [_reference_first()[0].network.name]:  # one that could not be built is not there
        return "not compared"
    return f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def _row(part: dict[str, Any], entry: ComparedNetwork) -> dict[str, Any] | None:
    return next((row for row in _results(part) if row["label"] == entry.network.name), None)


def _results(part: dict[str, Any]) -> list[dict[str, Any]]:
    return list(part["report"]["results"]) if "report" in part else []


def _cell(part: dict[str, Any], entry: ComparedNetwork, recipe: str) -> str:
    row = _row(part, entry)
    if row is None:
        return "not built"
    if row["failure"] is not None:
        return "fails"
    text = f"{latencies_of(part)[entry.arch]:.2f}"
    shown = f"**{text}**" if entry.label in front_of(part, recipe) else text
    return f"{shown} ({row['ms']['spread']:.0%})"


# Figure


def figure_of(document: dict[str, Any]) -> str:
    """A panel for each part: accuracy against latency; a line joins the front of each recipe. SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    parts = [part for part in document["parts"] if "report" in part]
    columns = min(4, len(parts))
    rows = -(-len(parts) // columns)
    with matplotlib.rc_context({**STYLE, "font.size": 8}):
        figure = Figure(figsize=(4.4 * columns, 4.2 * rows), layout="constrained", facecolor="white")
        axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
        for ax in axes[len(parts) :]:
            ax.set_axis_off()
        for ax, part in zip(axes, parts, strict=False):
            _draw(ax, part)
        axes[0].legend(frameon=False, loc="lower right", title="recipe")
        return svg_text(figure)


def _draw(ax: Any, part: dict[str, Any]) -> None:
    found = latencies_of(part)
    for (recipe, marker), colour in zip(MARKERS.items(), ("#666", "#28c", "#c82"), strict=True):
        points = [
            (found[entry.arch], value.top1, entry)
            for entry in comparison().rows
            for value in entry.published
            if value.recipe == recipe and entry.arch in found
        ]
        front = front_of(part, recipe)
        line = sorted((ms, top1) for ms, top1, entry in points if entry.label in front)
        ax.plot(*(zip(*line, strict=True) if line else ((), ())), color=colour, linewidth=0.8)
        ax.scatter([p[0] for p in points], [p[1] for p in points], marker=marker, color=colour, s=22, label=recipe)
        for ms, top1, entry in points:
            ours = "#c22" if entry.label.startswith("PP-LCNet-") else "#333"
            ax.annotate(entry.label, (ms, top1), (4, -3), textcoords="offset points", fontsize=6, color=ours)
    ax.set(
        title=_name(part),
        xlabel="latency here (ms, log scale)",
        xscale="log",
    )
    ax.set_ylabel("published ImageNet top-1 (%)")
    low, high = ax.get_xlim()
    ax.set_xlim(low, high * 1.35)  # leaves room for the names
    plain_ticks(ax.xaxis, TICKS)
    ax.grid(color="#ddd", linewidth=0.5)
