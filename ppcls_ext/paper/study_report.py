"""What the runs of a study say about its variants: mean, spread and difference, as `study.md` and `study.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.run_folder import environment
from ppcls_ext.core.text import one_line
from ppcls_ext.paper.documents import read_metrics
from ppcls_ext.paper.paired import Paired
from ppcls_ext.paper.study_plan import StudyPlan

SAME_IMAGES = (
    "on the same images: of all runs together, with a bootstrap over seeds and images, which is too narrow for few "
    "seeds (p is not)"
)
IMAGENET_VAL = 50000  # images on which the paper's tables are measured


@dataclass(frozen=True)
class VariantResult:
    """A variant's result. Values and differences are percent; None where there are too few runs.

    Attributes:
        values: by seed.
        spread: standard deviation over the seeds (n - 1).
        difference: mean over the seeds that both have, of this variant minus the reference.
        p: of a paired t test of those differences, two-sided, not corrected for the number of variants.
        paper, paper_difference: what the paper states for it.
        same_images: the difference on the same images, with an interval; None where it was not asked for.
    """

    variant: str
    values: Mapping[int, float]
    mean: float | None
    spread: float | None
    difference: float | None
    p: float | None
    paper: float | None
    paper_difference: float | None
    same_images: Paired | None = None


def result_of(
    variant: str,
    values: Mapping[int, float],
    reference: Mapping[int, float],
    paper: float | None = None,
    paper_reference: float | None = None,
) -> VariantResult:
    """The result of a variant, from its values and the reference's by seed.

    Args:
        values: percent, by seed; the same mapping as `reference` for the reference itself.
        paper, paper_reference: what the paper states for the variant and for the reference.
    """
    own = np.array(list(values.values()), np.float64)
    seeds = [seed for seed in values if seed in reference] if values is not reference else []
    differences = np.array([values[seed] - reference[seed] for seed in seeds])
    p = None
    if len(differences) > 1 and differences.std() > 0:
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return VariantResult(
        variant,
        dict(values),
        float(own.mean()) if len(own) else None,
        float(own.std(ddof=1)) if len(own) > 1 else None,
        float(differences.mean()) if len(differences) else None,
        p,
        paper,
        None if paper is None or paper_reference is None or values is reference else paper - paper_reference,
    )


def conditions(plan: StudyPlan) -> list[str]:
    """What was trained, on what, with what: a line each, without the machine's paths."""
    first = next(iter(plan.wanted.values()))
    here = environment()
    shape, epochs = first.global_section.image_shape, first.global_section.epochs
    overrides = " ".join(f"-o {_portable(o)}" for o in [*plan.section.overrides, *plan.overrides])
    return [
        f"config {_portable(str(plan.base))} {overrides}".rstrip(),
        f"{plan.metric} of the last evaluation, percent; {epochs} epochs at {shape[2]} x {shape[1]} px; "
        f"seeds {', '.join(map(str, plan.seeds))}",
        f"difference and p (paired t test over the seeds, two-sided, not corrected for the number of variants) are "
        f"to '{plan.reference}'",
        *([SAME_IMAGES] if plan.section.same_images else []),
        f"pplcnet {here['pplcnet']}, PaddlePaddle {here['packages']['paddlepaddle']}, "
        f"PaddleClas {here['packages']['paddleclas']}, Python {here['python']}, {here['cpu']}",
    ]


def _proxy(plan: StudyPlan) -> str | None:
    """A warning, unless the runs are on the images of the paper's tables."""
    found = [read_metrics(plan.run_folder(*run) / "eval" / "metrics.json") for run in plan.wanted]
    images = {metrics["images"] for metrics in found if metrics is not None}
    return None if IMAGENET_VAL in images else "A proxy at small scale, not the paper's numbers."


def write_report(plan: StudyPlan, rows: Sequence[VariantResult]) -> None:
    """Write `study.md` and `study.json`."""
    proxy = _proxy(plan)
    lines = [
        f"# {one_line(plan.section.title)}",
        "",
        *([proxy, ""] if proxy else []),
        "| " + " | ".join(table_heads(plan)) + " |",
    ]
    lines.append("|" + "---|" * len(table_heads(plan)))
    lines += ["| " + " | ".join(map(_in_markdown, cells)) + " |" for cells in table_cells(plan, rows)]
    lines += ["", *(f"- {one_line(line)}" for line in conditions(plan))]
    atomic_write_text(plan.output / "study.md", "\n".join(lines) + "\n")
    content = {
        "title": plan.section.title,
        "note": proxy,
        "metric": plan.metric,
        "reference": plan.reference,
        "conditions": conditions(plan),
        "rows": [asdict(row) for row in rows],
    }
    atomic_write_text(plan.output / "study.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def table_heads(plan: StudyPlan) -> list[str]:
    """Columns of `table_cells`."""
    paper = ["paper (%)", "paper's difference"] if plan.paper else []
    images = ["on the same images [95 %]"] if plan.section.same_images else []
    return ["variant", "n", f"{plan.metric} (%)", "difference", "p", *images, *paper]


def table_cells(plan: StudyPlan, rows: Sequence[VariantResult]) -> list[list[str]]:
    """The table as text."""
    table_rows = []
    for row in rows:
        spread = "" if row.spread is None else f" ± {row.spread:.2f}"
        cells = [
            row.variant,
            str(len(row.values)),
            "" if row.mean is None else f"{row.mean:.2f}{spread}",
            _signed(row.difference),
            "" if row.p is None else f"{row.p:.3f}" if row.p >= 0.001 else "< 0.001",
        ]
        if plan.section.same_images:
            cells.append("" if row.same_images is None else row.same_images.text)
        if plan.paper:
            cells += ["" if row.paper is None else f"{row.paper:.2f}", _signed(row.paper_difference)]
        table_rows.append(cells)
    return table_rows


def _in_markdown(text: str) -> str:
    """A cell of a table in Markdown, in which `|` ends one."""
    return one_line(text).replace("|", "\\|")


def _signed(number: float | None) -> str:
    return "" if number is None else f"{number:+.2f}"


def _portable(text: str) -> str:
    """A text without the folders of absolute paths, which mean nothing on another machine."""
    return re.sub(r"(?<![\w.])/(?:[^\s/,'\"}\]]+/)*", "", text)
