"""The paper's Figure 1, top-1 against latency, beside the same with the latencies of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ppcls_ext.core.pareto import pareto_front
from ppcls_ext.core.plots import STYLE, TICKS, plain_ticks, svg_text
from ppcls_ext.core.text import counted
from ppcls_ext.paper.networks import network_of_row
from ppcls_ext.paper.report.cells import Document, measured_latencies
from ppcls_ext.paper.tables import procedure, table
from ppcls_ext.paper.verdicts import Latency

COLUMNS = 3  # panels beside each other, so that the figure can be read on a page
FIGURE_TABLES = (3, 2)  # whose rows the paper's Figure 1 shows; of a network in both, the first one counts


class Point(NamedTuple):
    """A network in the figure; the paper's accuracy in percent on both latencies in ms (None: not there)."""

    label: str
    top1: float
    paper: float | None
    here: float | None

    @property
    def family(self) -> str:
        """The name of the network without its scale."""
        return self.label.rsplit("-", 1)[0]


def figure_points(document: Document, engine: str) -> list[Point]:
    """The networks of Tables 2 and 3 that were trained without distillation."""
    points: dict[str, Point] = {}
    for number in FIGURE_TABLES:
        if number in document["tables"]:
            way = procedure(number)
            found = measured_latencies(document, number, way.variants[0], engine)
            for row in table(number).rows:
                name = network_of_row(row, way, way.variants[0]).name
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
    both.sort(key=lambda p: p.top1)
    paper = pareto_front({p.label: (p.paper or 0.0, p.top1) for p in both})
    here = pareto_front({p.label: (p.here or 0.0, p.top1) for p in both})
    return [p.label for p in both if p.label in paper], [p.label for p in both if p.label in here]


def draw_figure(document: Document) -> str | None:
    """The paper's Figure 1, top-1 against latency, beside the same with the latencies of each engine here, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    by_engine = {engine: figure_points(document, engine) for engine in document["engines"]}
    panels = [
        ("the paper: oneDNN, 10 threads of a Xeon Gold 6148", [(p, p.paper) for p in next(iter(by_engine.values()))])
    ]
    threads = counted(document["threads"], "thread")
    panels += [(f"here: {engine}, {threads}", [(p, p.here) for p in points]) for engine, points in by_engine.items()]
    if not any(ms is not None for _, points in panels[1:] for _, ms in points):
        return None
    families = list(dict.fromkeys(p.family for p, _ in panels[0][1]))
    families.sort(key=lambda family: family == "PP-LCNet")  # drawn last, on top
    with matplotlib.rc_context(STYLE):
        columns = min(COLUMNS, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(4.2 * columns, 4.2 * rows), layout="constrained", facecolor="white")
        every = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
        axes = every[: len(panels)]
        for ax in every[len(panels) :]:
            ax.set_axis_off()
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
            plain_ticks(ax.xaxis, TICKS)
            ax.grid(color="#ddd", linewidth=0.5)
        for ax in axes[::columns]:
            ax.set_ylabel("ImageNet top-1 in the paper (%)")
        axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
        return svg_text(figure)
