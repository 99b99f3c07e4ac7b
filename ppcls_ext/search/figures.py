"""What a calibration has found, as pictures: predicted against measured, and what a choice in a block costs here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppcls_ext.core.plots import STYLE, TICKS, plain_ticks, svg_text
from ppcls_ext.core.text import counted
from ppcls_ext.models.network_spec import STAGES, NetworkSpec
from ppcls_ext.search.latency import CLOSE, LatencyModel
from ppcls_ext.search.measurements import PROBE_SIZE, REPEATS, Calibration, Probe, probes
from ppcls_ext.search.space import space_named, with_width

PLAIN = "plain"


def draw_predictions(calibration: Calibration) -> str:
    """Predicted against measured latency of the networks that the model has not seen, beside multiply-adds, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    model, latencies = calibration.model, calibration.latencies("unseen")
    assert model is not None
    assert calibration.accuracy is not None
    measured = np.array(list(latencies.values()))
    predicted = np.array([model.predict(spec) for spec in latencies])
    work = np.array([spec.count().flops / 1e6 for spec in latencies])
    found = calibration.accuracy
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 4.0), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2)
        ends = np.array([0.9 * min(measured.min(), predicted.min()), 1.1 * max(measured.max(), predicted.max())])
        left.fill_between(ends, ends * (1 - CLOSE), ends * (1 + CLOSE), color="#eee", label=f"within {CLOSE:.0%}")
        left.plot(ends, ends, color="#999", linewidth=0.8)
        left.plot(measured, predicted, "o", color="#c22", markersize=4)
        left.set(
            xscale="log", yscale="log", xlabel="measured (ms)", ylabel="predicted (ms)", title=draw_title(calibration)
        )
        left.text(0.05, 0.84, _words(found["model"]), transform=left.transAxes)
        left.legend(frameon=False, loc="lower right")
        right.plot(measured, work, "s", color="#557", markersize=4)
        right.set(xscale="log", yscale="log", xlabel="measured (ms)", ylabel="multiply-adds (M)", title="multiply-adds")
        right.text(0.05, 0.84, _words(found["flops"]), transform=right.transAxes)
        plain_ticks(left.yaxis, TICKS)
        plain_ticks(right.yaxis, (1, 3, 10, 30, 100, 300, 1000, 3000))
        for ax in (left, right):
            plain_ticks(ax.xaxis, TICKS)
            ax.grid(color="#ddd", linewidth=0.5)
        return svg_text(figure)


def draw_title(calibration: Calibration) -> str:
    """What a calibration is of, in a few words."""
    target = calibration.target
    return f"{target.engine}, {counted(target.threads, 'thread')}, space {calibration.space}"


def _words(found: Any) -> str:
    return (
        f"median error {found.median:.1%}, {found.close:.0%} within {CLOSE:.0%}\nrank correlation {found.spearman:.3f}"
    )


def block_costs(calibration: Calibration) -> list[tuple[Probe, float, float]]:
    """For each measured probe, microseconds of one of its blocks beyond the plain one of its stage and width, measured
    and by the model; for the plain one itself, those of the block.
    """
    model, latencies = calibration.model, calibration.latencies("probe", "network")
    assert model is not None
    found = []
    tried = [probe for probe in probes(space_named(calibration.space)) if probe.spec in latencies]
    plain = {(probe.stage, probe.width): probe for probe in tried if not probe.change}
    for probe in tried:
        base = plain.get((probe.stage, probe.width))
        if base is None:
            continue
        if probe is base:
            one = _block_us(model, probe.spec, probe.stage)
            found.append((probe, one, one))
            continue
        blocks = REPEATS + 1
        measured = (latencies[probe.spec] - latencies[base.spec]) / blocks
        predicted = (model.predict(probe.spec) - model.predict(base.spec)) / blocks
        found.append((probe, 1e3 * measured, 1e3 * predicted))
    return found


def channel_costs(calibration: Calibration) -> dict[str, list[tuple[int, float]]]:
    """For each stage, microseconds of a plain block by the model at each width that the space has: (channels, us).

    The images have the size that those of the probes have.
    """
    model = calibration.model
    assert model is not None
    space = space_named(calibration.space)
    smallest = space.smallest().replace(input_size=PROBE_SIZE)
    found: dict[str, list[tuple[int, float]]] = {}
    for stage, (name, allowed) in enumerate(zip(STAGES, space.stages, strict=True)):
        found[name] = []
        for width in allowed.widths:
            wide = with_width(allowed.blocks[0], width)
            stages = list(smallest.stages)
            stages[stage] = (wide, wide)
            found[name].append((width, _block_us(model, smallest.replace(stages=tuple(stages)), stage)))
    return found


def draw_channel_costs(calibration: Calibration) -> str:
    """What a plain block costs in each stage against its channels, by the model, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 4.0), layout="constrained", facecolor="white")
        ax = figure.subplots()
        for name, costs in channel_costs(calibration).items():
            widths, microseconds = zip(*costs, strict=True)
            ax.plot(widths, microseconds, "o-", markersize=2.5, linewidth=1.0, label=name)
        ax.set(xscale="log", yscale="log", xlabel="channels of the block", ylabel="microseconds, by the model")
        ax.set_title(f"{draw_title(calibration)}: a plain block at {PROBE_SIZE} px")
        plain_ticks(ax.xaxis, (8, 16, 32, 64, 128, 256, 512, 1024))
        plain_ticks(ax.yaxis, (1, 3, 10, 30, 100, 300, 1000, 3000, 10000))
        ax.grid(color="#ddd", linewidth=0.5)
        ax.legend(frameon=False)
        return svg_text(figure)


def _block_us(model: LatencyModel, spec: NetworkSpec, stage: int) -> float:
    """Microseconds of the last block of a stage, by the model."""
    fewer = spec.replace(stages=tuple(b[:-1] if k == stage else b for k, b in enumerate(spec.stages)))
    return 1e3 * (model.predict(spec) - model.predict(fewer))


def draw_block_costs(calibration: Calibration) -> str:
    """What a block and a change in it cost in each stage on this machine, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    costs = block_costs(calibration)
    changes = list(dict.fromkeys(probe.change or PLAIN for probe, _, _ in costs))
    groups = list(dict.fromkeys((probe.stage, probe.width) for probe, _, _ in costs))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 1.0 + 1.5 * ((len(groups) + 1) // 2)), layout="constrained", facecolor="white")
        axes = figure.subplots((len(groups) + 1) // 2, 2, squeeze=False)
        for ax, group in zip(axes.flat, groups, strict=False):
            of_group = {p.change or PLAIN: (m, by) for p, m, by in costs if (p.stage, p.width) == group}
            _draw_group(ax, changes, of_group)
            stage, width = group
            ax.set_title(f"{STAGES[stage]}, {width} channels", fontsize=9)
        for ax in list(axes.flat)[len(groups) :]:
            ax.set_axis_off()
        figure.supxlabel("microseconds of a block; of a change: beyond the plain block (bar: measured, line: model)")
        return svg_text(figure)


def _draw_group(ax: Any, changes: Sequence[str], costs: dict[str, tuple[float, float]]) -> None:
    rows = [change for change in changes if change in costs]
    for row, change in enumerate(rows):
        measured, predicted = costs[change]
        ax.barh(row, measured, color="#c22" if change == PLAIN else "#88a", height=0.7)
        ax.plot([predicted, predicted], [row - 0.4, row + 0.4], color="black", linewidth=1.2)
    ax.set_yticks(range(len(rows)), rows)
    ax.invert_yaxis()
    ax.axvline(0, color="#999", linewidth=0.8)
    ax.grid(axis="x", color="#ddd", linewidth=0.5)
