"""The front of a search: measured for real, shown, and the config of its best network."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.core.config import BEST_WEIGHTS, dump_config
from ppcls_ext.core.display import say
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.plots import STYLE, svg_text
from ppcls_ext.core.text import assignment
from ppcls_ext.deploy.untrained import build, formats_for, network_of_spec
from ppcls_ext.models.factory import SEARCHED
from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.search.calibrate import Benchmark, run_lean
from ppcls_ext.search.evolution import SearchedNetwork, front_of
from ppcls_ext.search.folder import SearchFolder
from ppcls_ext.search.latency import CLOSE

MOST_MEASURED = 9  # networks of a front; of a longer one those spread over it, and always the last
WITHIN = 1.02  # times the bound still meet it, since a measurement is off by as much
MEASURING = Settings(rounds=30, processes=3, seconds=2.0, warmup=10, iterations=None)


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network of the front, or one that it is compared with.

    Attributes:
        name: of a scale of PP-LCNet, or the short one of its spec.
        predicted, measured: milliseconds; `low` and `high` are a 95 % interval of what was measured.
        expected, top1: see `ppcls_ext.search.judge.Quality`; None of a network that was not judged.
        params, flops: with the classes of the task, at the size of the images.
    """

    name: str
    arch: str
    predicted: float
    measured: float
    low: float
    high: float
    expected: float | None
    top1: float | None
    params: int
    flops: int


@dataclass(frozen=True)
class Front:
    """What a search has found.

    Attributes:
        bound: milliseconds: as asked for, or as measured of the network that is to be as fast.
        rows: the fastest first.
        others: scales of PP-LCNet that took turns with them, and what the latency was asked for by; the fastest first.
        chosen: the best network whose measured latency meets the bound, or the fastest.
        conditions: what was searched and measured how, and why it may be wrong, a line each.
        by_score: no network was trained: `expected` of a row is its Zen score, and `top1` says nothing.
        learned: what was judged is better than guessing, so that the order of networks says something.
    """

    bound: float
    rows: Sequence[MeasuredNetwork]
    others: Sequence[MeasuredNetwork]
    chosen: MeasuredNetwork
    conditions: Sequence[str]
    by_score: bool = False
    learned: bool = True

    @property
    def pace(self) -> float:
        """How many times as long as predicted all networks took, in the median: the state that the machine was in."""
        return float(np.median([row.measured / row.predicted for row in (*self.rows, *self.others)]))

    def off(self, row: MeasuredNetwork) -> float:
        """By which share of the measured latency the prediction was off, at the pace of this machine."""
        return self.pace * row.predicted / row.measured - 1

    def as_good(self) -> list[tuple[MeasuredNetwork, MeasuredNetwork]]:
        """Each network that the front was measured beside and that was judged, with the fastest of the front that was
        judged no worse; none where that is not clearly faster.
        """
        pairs = []
        for beside in self.others:
            goal = beside.expected
            if goal is None:
                continue
            good = [row for row in self.rows if row.expected is not None and row.expected >= goal]
            if good and WITHIN * good[0].measured < beside.measured:  # the fastest come first
                pairs.append((beside, good[0]))
        return pairs


def thinned(front: Sequence[SearchedNetwork]) -> list[SearchedNetwork]:
    """At most `MOST_MEASURED` networks of a front, spread over it."""
    if len(front) <= MOST_MEASURED:
        return list(front)
    step = (len(front) - 1) / (MOST_MEASURED - 1)
    return [front[round(k * step)] for k in range(MOST_MEASURED)]


@dataclass(frozen=True)
class Measuring:
    """Where and how networks are measured.

    Attributes:
        work: folder that networks are exported to.
    """

    engine: str
    threads: int
    class_num: int
    work: Path
    benchmark: Benchmark = run_lean

    def milliseconds(self, specs: Mapping[str, NetworkSpec]) -> tuple[dict[str, tuple[float, float, float]], list[str]]:
        """Median and a 95 % interval of each network, in milliseconds; the interval is that of its ratio to the first.
        With them what disturbed the measurement, a line each.

        Raises:
            UserError: a network that the engine does not run.
        """
        formats = formats_for([self.engine], "--engine")
        networks = {name: network_of_spec(spec, self.class_num) for name, spec in specs.items()}
        for network in networks.values():
            build(network, self.work, formats)
        subjects = [
            Subject(self.work / network.name, self.engine, name, threads=self.threads)
            for name, network in networks.items()
        ]
        report = self.benchmark(subjects, MEASURING)
        warnings, rows = [f"warning: {warning}" for warning in report["warnings"]], report["results"]
        for warning in warnings:
            say(warning)
        found = {}
        for name, row in zip(networks, rows, strict=True):
            if row["failure"] is not None:
                raise UserError(f"engine {self.engine} does not run {name}: {row['failure']}")
            ratio, first = row["ratio_to_first"], rows[0]["ms"]["median"]
            found[name] = (ratio["ratio"] * first, ratio["low"] * first, ratio["high"] * first)
        return found, warnings


def measured_front(
    judged: Sequence[SearchedNetwork],
    scales: Mapping[str, NetworkSpec],
    latency: Callable[[NetworkSpec], float],
    bound: float,
    measuring: Measuring,
    conditions: Sequence[str],
    like: str | None = None,
    by_score: bool = False,
    learned: bool = True,
) -> Front:
    """Measure the front of judged networks beside scales of PP-LCNet, which may be among them.

    Args:
        like: the one of `scales` whose measured latency is the bound. It took turns with the others, so the bound holds
            in whatever state the machine is.
        by_score, learned: see `Front`.
    """
    known, names = {one.arch: one for one in judged}, {spec.text: name for name, spec in scales.items()}
    of_front = thinned(front_of(judged))
    specs = dict(scales)
    for one in of_front:
        specs.setdefault(names.get(one.arch, one.spec.name), one.spec)
    rows, (found, warnings) = [], measuring.milliseconds(specs)
    for name, spec in specs.items():
        own, count = known.get(spec.text), spec.count(measuring.class_num)
        expected, top1 = (None, None) if own is None else (own.expected, own.top1)
        ms, low, high = found[name]
        rows.append(
            MeasuredNetwork(name, spec.text, latency(spec), ms, low, high, expected, top1, count.params, count.flops)
        )
    rows.sort(key=lambda row: row.measured)
    archs = {one.arch for one in of_front}
    front, others = [row for row in rows if row.arch in archs], [row for row in rows if row.arch not in archs]
    bound = bound if like is None else found[like][0]
    fitting = [row for row in front if row.measured <= WITHIN * bound]
    chosen = max(fitting, key=lambda row: row.expected or 0.0) if fitting else front[0]
    return Front(bound, front, others, chosen, [*conditions, *warnings], by_score, learned)


# Files


def write_front(
    front: Front, judged: Sequence[SearchedNetwork], config: Mapping[str, Any], folder: SearchFolder
) -> None:
    """Write the front as JSON, page and picture, and the chosen config, which `pplcnet train -c` takes.

    Args:
        judged: every network that was judged.
        config: of the user, resolved; only its network is changed, and where its run goes: into the folder of the
            search, where no other search's network is.
    """
    content = {**asdict(front), "candidates": len(judged)}
    atomic_write_text(folder.front_json, json.dumps(content, indent=1) + "\n")
    atomic_write_text(folder.front_picture, draw_front(front, judged))
    arch = {"name": SEARCHED, "arch": front.chosen.arch, "class_num": config["Arch"]["class_num"]}
    section = {**config["Global"], "output_dir": str(folder.path)}
    chosen = {**config, "Global": section, "Arch": arch}
    atomic_write_text(folder.chosen_config, dump_config(chosen))
    atomic_write_text(folder.front_page, _page(front, len(judged), folder))


def misses(front: Front) -> list[str]:
    """Where the latency model was off, a line each."""
    lines = []
    if abs(front.pace - 1) > CLOSE:
        lines.append(f"all took {front.pace:.2f} times as long as predicted, in the median; the rest is beside that")
    return lines + [
        f"{row.name}: {front.pace * row.predicted:.3f} ms predicted, {row.measured:.3f} measured "
        f"({front.off(row):+.0%})"
        for row in (*front.rows, *front.others)
        if abs(front.off(row)) > CLOSE
    ]


def missed(front: Front) -> str:
    """A line where no network of the front was measured to be fast enough; empty where one was."""
    if front.chosen.measured <= WITHIN * front.bound:
        return ""
    return (
        f"no network of the front was measured within {front.bound:.3g} ms; the fastest is chosen, which takes "
        f"{front.chosen.measured:.3g} ms. The same command measures again, which helps where the machine was busy"
    )


def gains(front: Front) -> list[str]:
    """What is as good as PP-LCNet and faster, a line each; none where no training has told networks apart."""
    if front.by_score or not front.learned:
        return []
    return [
        f"{network.name} ({network.expected:.2%}) takes {network.measured / beside.measured:.2f} times as long as "
        f"{beside.name} ({beside.expected:.2%})"
        for beside, network in front.as_good()
    ]


def _page(front: Front, judged: int, folder: SearchFolder) -> str:
    lines = ["# Networks for this CPU", "", *(f"- {line}" for line in front.conditions), ""]
    heads = ["Zen score"] if front.by_score else ["expected", "top-1"]
    expected = "mean score of the right class, on images held out from training"
    columns = ["network", "measured (ms)", "predicted (ms)", "off", *heads, "params (k)", "multiply-adds (M)"]
    lines += [
        f"The front of {judged} networks, measured, and scales of PP-LCNet that took turns with them."
        + ("" if front.by_score else f" Expected: {expected}."),
        "Off: the prediction, at the median pace of all these networks.",
        f"Bold: chosen, for at most {front.bound:.3g} ms as measured here, give or take {WITHIN - 1:.0%}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    for row in sorted((*front.rows, *front.others), key=lambda row: row.measured):
        name = f"**{row.name}**" if row == front.chosen else row.name
        if row.expected is None:
            quality = ["not judged"] * len(heads)
        else:
            quality = [f"{row.expected:.2f}"] if front.by_score else [f"{row.expected:.2%}", f"{row.top1:.2%}"]
        cells = [name, f"{row.measured:.3f} [{row.low:.3f}, {row.high:.3f}]", f"{row.predicted:.3f}"]
        cells += [f"{front.off(row):+.1%}", *quality, f"{row.params / 1e3:.0f}", f"{row.flops / 1e6:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"![Quality against latency]({folder.front_picture.name})", ""]
    lines += [f"Warning: {missed(front)}.", ""] if missed(front) else []
    lines += [f"`{row.name}`: `{row.arch}`\n" for row in front.rows]
    gained = gains(front)
    if gained:
        lines += ["The fastest that was judged no worse than a network that was measured beside the front:", ""]
        lines += [f"- {line}" for line in gained]
        train = ["pplcnet", "train", "-c", str(folder.chosen_config)]
        commands = []
        for network in dict.fromkeys(network for _, network in front.as_good()):
            own = assignment("Global.output_dir", folder.path / network.name)  # the chosen one's run is in the folder
            commands.append(shlex.join([*train, "-o", assignment("Arch.arch", network.arch), "-o", own]))
        lines += ["", "Train them from nothing:", "", *_fenced("", *commands)]
    off = misses(front)
    lines += ["Where the latency model was off:", "", *(f"- {line}" for line in off)] if off else []
    return "\n".join([*lines, "", *_uses(front.chosen, folder)])


def _uses(chosen: MeasuredNetwork, folder: SearchFolder) -> list[str]:
    """What to do with the network that was chosen, as lines of the page."""
    train = ["pplcnet", "train", "-c", str(folder.chosen_config)]
    share, run = folder.chosen_weights, folder.chosen_run
    lines = ["Train the chosen network from nothing, then export it:", ""]
    lines += _fenced("", shlex.join(train), shlex.join(["pplcnet", "export", "-c", str(run)]))
    if share.is_file():
        from_share = [*train, "-o", assignment("Global.pretrained_model", share)]
        lines += ["Or train it from its share of the supernet:", "", *_fenced("", shlex.join(from_share))]
    best = shlex.join(["-o", assignment("Global.pretrained_model", run / BEST_WEIGHTS)])
    lines += [f"As the backbone of a detector or a segmenter, which `{best}` starts from the trained classifier:", ""]
    backbone = ["Arch:", "  backbone:", "    _replace_: true", f"    name: {SEARCHED}", f"    arch: {chosen.arch}"]
    return lines + _fenced("yaml", *backbone)


def _fenced(language: str, *lines: str) -> list[str]:
    return [f"```{language}", *lines, "```", ""]


def draw_front(front: Front, judged: Sequence[SearchedNetwork]) -> str:
    """Quality against latency as SVG: of all networks (predicted, at the pace of the front) and of the front."""
    import matplotlib
    from matplotlib.figure import Figure

    percent = 1 if front.by_score else 100
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained", facecolor="white")
        ax = figure.subplots()
        ax.scatter(
            [front.pace * one.ms for one in judged], [percent * one.expected for one in judged],
            color="#999", s=9, label="tried (predicted)",
        )  # fmt: skip
        ax.plot(
            [row.measured for row in front.rows], [percent * (row.expected or 0) for row in front.rows],
            "o-", color="#c22", markersize=5, linewidth=0.8, label="front (measured)",
        )  # fmt: skip
        for row in (*front.rows, *front.others):
            if row.name.startswith("PPLCNet") and row.expected is not None:
                ax.plot(row.measured, percent * row.expected, "s", color="#28c")
                ax.annotate(row.name, (row.measured, percent * row.expected), (5, -9), textcoords="offset points")
        ax.plot(
            front.chosen.measured,
            percent * (front.chosen.expected or 0),
            "*",
            color="#c22",
            markersize=13,
            label="chosen",
        )
        ax.axvline(front.bound, color="#999", linewidth=0.8, linestyle="--")
        quality = "Zen score" if front.by_score else "expected top-1 on held-out images (%)"
        ax.set(xlabel="latency of an image (ms)", ylabel=quality)
        ax.margins(x=0.15)  # room for the names
        ax.grid(color="#ddd", linewidth=0.5)
        ax.legend(frameon=False, loc="best")
        return svg_text(figure)
