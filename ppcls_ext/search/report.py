"""What a calibration has found, as a page: how accurate the model is, and what blocks cost on this machine."""

from __future__ import annotations

from pathlib import Path

from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.search.figures import draw_block_costs, draw_channel_costs, draw_predictions, draw_title
from ppcls_ext.search.latency import CLOSE
from ppcls_ext.search.measurements import Calibration

NAMES = {"model": "latency model", "blocks": "sum of blocks alone", "flops": "multiply-adds", "params": "parameters"}


def write_report(calibration: Calibration, out: Path) -> Path:
    """Write the page and its pictures into a folder; gives the page.

    Files are `ENGINE-THREADS-SPACE.md`, `...-predicted.svg`, `...-blocks.svg` and `...-channels.svg`.
    """
    name = _name(calibration)
    atomic_write_text(out / f"{name}-predicted.svg", draw_predictions(calibration))
    atomic_write_text(out / f"{name}-blocks.svg", draw_block_costs(calibration))
    atomic_write_text(out / f"{name}-channels.svg", draw_channel_costs(calibration))
    page = out / f"{name}.md"
    atomic_write_text(page, page_of(calibration))
    return page


def _name(calibration: Calibration) -> str:
    target = calibration.target
    return f"{target.engine}-{target.threads}-{calibration.space}"


def page_of(calibration: Calibration) -> str:
    """The page, in Markdown; its pictures lie beside it."""
    target, title, name = calibration.target, draw_title(calibration), _name(calibration)
    probed, whole, unseen = (len(calibration.latencies(use)) for use in ("probe", "network", "unseen"))
    assert calibration.accuracy is not None
    versions = ", ".join(f"{package} {version}" for package, version in target.versions.items())
    lines = [
        f"# Latency model: {title}",
        "",
        f"`{calibration.command}`, {calibration.created}. {' '.join(target.cpu)}, "
        f"{calibration.machine['usable_cores']} usable cores; {versions}.",
        "",
        f"Fitted to {whole} networks and {probed} probes of single blocks, which took turns with "
        f"PPLCNet_x0_5 ({calibration.unit:.2f} ms). Judged by {unseen} other networks:",
        "",
        f"| predicted by | median error | within {CLOSE:.0%} | rank correlation |",
        "|---|---|---|---|",
    ]
    for what, found in calibration.accuracy.items():
        lines.append(f"| {NAMES[what]} | {found.median:.1%} | {found.close:.0%} | {found.spearman:.3f} |")
    failed = [one for one in calibration.measured if one.failure]
    lines += [
        "",
        f"![Predicted against measured milliseconds]({name}-predicted.svg)",
        "",
        f"![What a block costs in each stage, and a change of its kernel, gate or activation]({name}-blocks.svg)",
        "",
        f"![What a plain block costs in each stage against its channels]({name}-channels.svg)",
    ]
    if failed:
        lines += ["", "Not measured:", "", *(f"- `{one.arch}`: {one.failure}" for one in failed)]
    return "\n".join(lines) + "\n"
