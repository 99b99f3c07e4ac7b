"""Ablation studies: variants of one config, several seeds each, in one table with spread and significance.

In the form of the paper's Tables 6 to 9; a study is a YAML file, and its variants may be a table of the paper.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
from scipy import stats

from ppcls_ext.core.config import LATEST_STATE, Config, Section, dump_config, find_config, load_config, parse, read_yaml
from ppcls_ext.core.display import say, show_table
from ppcls_ext.core.errors import CheckFailed, UserError, nearest
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.run_folder import environment, read_log
from ppcls_ext.paper.tables import table
from ppcls_ext.tasks.finding import load_task
from ppcls_ext.training.trainer import train

SETTINGS = "settings.yaml"  # beside a run folder: the config that the study asked for
IMAGENET_VAL = 50000  # images on which the paper's tables are measured
ABLATIONS = (6, 7, 8, 9)  # tables of the paper that compare networks under one recipe


class StudySection(Section):
    """A study file.

    config: what every variant trains: a shipped config's name or a file.
    overrides: `KEY=VALUE` for every run. variants: name -> its own overrides. reference: the variant to compare with.
    paper: number of a table of the paper, whose rows are then the variants, and its marked row the reference.
    metric: of the last evaluation; default: the one by which the task chooses its best weights.
    """

    title: str
    config: str
    overrides: tuple[str, ...] = ()
    paper: int | None = None
    variants: dict[str, tuple[str, ...]] = {}
    reference: str | None = None
    seeds: tuple[pydantic.NonNegativeInt, ...] = pydantic.Field(default=(0, 1, 2), min_length=1)
    metric: str | None = None


@dataclass(frozen=True)
class Row:
    """A variant's result. Values and differences are percent; None where there are too few runs.

    Attributes:
        values: by seed.
        spread: standard deviation over the seeds (n - 1).
        difference: mean over the seeds that both have, of this variant minus the reference.
        p: of a paired t test of those differences, two-sided, not corrected for the number of variants.
        paper, paper_difference: what the paper states for it.
    """

    variant: str
    values: Mapping[int, float]
    mean: float | None
    spread: float | None
    difference: float | None
    p: float | None
    paper: float | None
    paper_difference: float | None


def compare(
    variant: str,
    values: Mapping[int, float],
    reference: Mapping[int, float],
    paper: float | None = None,
    paper_reference: float | None = None,
) -> Row:
    """The row of a variant, from its values and the reference's by seed (the same mapping for the reference itself)."""
    own = np.array(list(values.values()), np.float64)
    seeds = [seed for seed in values if seed in reference] if values is not reference else []
    differences = np.array([values[seed] - reference[seed] for seed in seeds])
    p = None
    if len(differences) > 1 and differences.std() > 0:
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return Row(
        variant,
        dict(values),
        float(own.mean()) if len(own) else None,
        float(own.std(ddof=1)) if len(own) > 1 else None,
        float(differences.mean()) if len(differences) else None,
        p,
        paper,
        None if paper is None or paper_reference is None or values is reference else paper - paper_reference,
    )


class Study:
    """A study, understood: every run's config is read before the first one starts."""

    def __init__(
        self,
        path: str,
        base: str | None = None,
        overrides: Sequence[str] = (),
        seeds: Sequence[int] | None = None,
        output: Path | None = None,
    ) -> None:
        """
        Args:
            path: the study file, or the name of one that is shipped.
            base: trains this config instead of the study's.
            overrides: `KEY=VALUE` for every run, after those of the study and the variant.
            seeds: instead of the study's.
            output: folder of the runs and the report; default: `output/<name of the study file>`.
        Raises:
            UserError: a file that is not a study, a reference that is no variant, a wrong config or override.
        """
        file = find_config(path)
        self.name, self.section = file.stem, parse(StudySection, read_yaml(file), f"study {file.name}")
        self.base = base or self.section.config
        self.overrides = tuple(overrides)
        self.seeds = tuple(seeds or self.section.seeds)
        self.output = output or Path("output") / self.name
        self.paper: dict[str, float] = {}
        variants, reference = dict(self.section.variants), self.section.reference
        if self.section.paper is not None:
            if variants or self.section.paper not in ABLATIONS:
                raise UserError(f"study {file.name}: give either variants, or as paper one of the tables {ABLATIONS}")
            rows = table(self.section.paper).rows
            variants = {row.label: (f"Arch.name={row.arch}",) for row in rows}
            reference = reference or next(row.label for row in rows if row.reference)
            self.paper = {row.label: row.top1 for row in rows if row.top1 is not None}
        if reference not in variants:
            known = nearest(str(reference), variants)
            raise UserError(f"study {file.name}: reference '{reference}' is no variant; {known}")
        self.variants, self.reference = variants, str(reference)
        slugs = {_slug(name) for name in variants}
        if len(slugs) < len(variants):
            raise UserError(f"study {file.name}: names of variants must differ in letters or digits")
        # Seed by seed, so that a study that is not finished yet compares variants with the same seeds.
        self.wanted = {(name, seed): self._config(name, seed) for seed in self.seeds for name in variants}
        first = next(iter(self.wanted.values()))
        self.metric = self.section.metric or load_task(first.global_section.task).primary

    def _config(self, variant: str, seed: int) -> Config:
        given = [*self.section.overrides, *self.variants[variant], *self.overrides]
        for key, instead in {"Global.seed": "--seeds", "Global.output_dir": "--output"}.items():
            if any(assignment.partition("=")[0].strip() == key for assignment in given):
                raise UserError(f"study {self.name}: {key} is set for each run of a study; give {instead} instead")
        own = [f"Global.seed={seed}", f"Global.output_dir={self.folder(variant, seed)}"]
        config = load_config(self.base, [*given, *own])
        config.pop("Expect", None)  # what the base promises does not hold for its variants
        return config

    def folder(self, variant: str, seed: int) -> Path:
        """Where a run's folder and settings go."""
        return self.output / _slug(variant) / f"seed{seed}"

    def run(self) -> list[Row]:
        """Train what is not trained yet, and write the report after each run; gives its rows.

        A run that is finished is left alone, one that was stopped goes on. One that diverges is left out.
        Raises:
            UserError: wrong data; a folder that holds runs with other settings. Stopped: interrupted.
        """
        for done, ((variant, seed), config) in enumerate(self.wanted.items(), start=1):
            self._check_settings(variant, seed, config)
            if self.value(variant, seed) is None:
                say(f"run {done} of {len(self.wanted)}: {variant}, seed {seed}")
                try:
                    self._train(variant, seed, config)
                except CheckFailed as error:
                    say(f"{variant}, seed {seed}: left out, {error}")
            self.report()
        return self.rows()

    def _run_folder(self, variant: str, seed: int) -> Path:
        return self.folder(variant, seed) / self.wanted[variant, seed].path.stem

    def _train(self, variant: str, seed: int, config: Config) -> None:
        folder = self._run_folder(variant, seed)
        if (folder / LATEST_STATE).is_file():
            train(load_config(folder, [f"Global.checkpoints={folder}"]))
            return
        if folder.exists():
            shutil.rmtree(folder)  # it ended before it had saved anything to go on from
        train(config)

    def _check_settings(self, variant: str, seed: int, config: Config) -> None:
        """Write down what a run is made with; or refuse to take one that was made with something else for it."""
        file = self.folder(variant, seed) / SETTINGS
        wanted = {**config, "Global": {k: v for k, v in config["Global"].items() if k != "output_dir"}}
        if not file.is_file():
            atomic_write_text(file, dump_config(wanted))
            return
        found = read_yaml(file)
        for key in sorted({*_flat(found), *_flat(wanted)}):
            was, now = _flat(found).get(key), _flat(wanted).get(key)
            if json.dumps(was) != json.dumps(now):  # tuples and lists are the same here
                raise UserError(
                    f"study {self.output}: {variant}, seed {seed} was run with {key}={was}, now it is {now}; "
                    "give another --output, or remove that folder"
                )

    def value(self, variant: str, seed: int) -> float | None:
        """Percent, of the last evaluation of a run that is finished; None for any other. Raises UserError."""
        log = self._run_folder(variant, seed) / "log.jsonl"
        events = read_log(log) if log.is_file() else []
        if not events or events[-1]["event"] != "end":
            return None
        evaluations = [event for event in events if event["event"] == "eval"]
        if not evaluations or self.metric not in evaluations[-1]:
            known = evaluations[-1] if evaluations else {}
            raise UserError(f"study: no '{self.metric}' in {log}; {nearest(self.metric, known)}")
        return 100 * float(evaluations[-1][self.metric])

    def values(self, variant: str) -> dict[int, float]:
        """By seed, of the runs that are finished."""
        found = {seed: self.value(variant, seed) for seed in self.seeds}
        return {seed: value for seed, value in found.items() if value is not None}

    def rows(self) -> list[Row]:
        reference = self.values(self.reference)
        rows = []
        for variant in self.variants:
            values = reference if variant == self.reference else self.values(variant)
            rows.append(compare(variant, values, reference, self.paper.get(variant), self.paper.get(self.reference)))
        return rows

    # The report

    def conditions(self) -> list[str]:
        """What was trained, on what, with what: a line each, without the machine's paths."""
        first = next(iter(self.wanted.values()))
        here = environment()
        shape, epochs = first.global_section.image_shape, first.global_section.epochs
        overrides = " ".join(f"-o {_portable(o)}" for o in [*self.section.overrides, *self.overrides])
        return [
            f"config {_portable(str(self.base))} {overrides}".rstrip(),
            f"{self.metric} of the last evaluation, percent; {epochs} epochs at {shape[2]} x {shape[1]} px; "
            f"seeds {', '.join(map(str, self.seeds))}",
            f"difference and p (paired t test over the seeds, two-sided, not corrected for the number of variants) are "
            f"to '{self.reference}'",
            f"pplcnet {here['pplcnet']}, PaddlePaddle {here['packages']['paddlepaddle']}, "
            f"PaddleClas {here['packages']['paddleclas']}, Python {here['python']}, {here['cpu']}",
        ]

    def _proxy(self) -> str | None:
        """A warning, unless the runs are on the images of the paper's tables."""
        files = [self._run_folder(*run) / "eval" / "metrics.json" for run in self.wanted]
        found = [json.loads(file.read_text(encoding="utf-8"))["images"] for file in files if file.is_file()]
        return None if IMAGENET_VAL in found else "A proxy at small scale, not the paper's numbers."

    def report(self) -> None:
        """Write `study.md` and `study.json`."""
        rows, proxy = self.rows(), self._proxy()
        lines = [f"# {self.section.title}", "", *([proxy, ""] if proxy else []), "| " + " | ".join(self.heads) + " |"]
        lines.append("|" + "---|" * len(self.heads))
        lines += ["| " + " | ".join(cells) + " |" for cells in self.cells(rows)]
        lines += ["", *(f"- {line}" for line in self.conditions())]
        atomic_write_text(self.output / "study.md", "\n".join(lines) + "\n")
        content = {
            "title": self.section.title,
            "note": proxy,
            "metric": self.metric,
            "reference": self.reference,
            "conditions": self.conditions(),
            "rows": [asdict(row) for row in rows],
        }
        atomic_write_text(self.output / "study.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @property
    def heads(self) -> list[str]:
        """Columns of `cells`."""
        paper = ["paper (%)", "paper's difference"] if self.paper else []
        return ["variant", "n", f"{self.metric} (%)", "difference", "p", *paper]

    def cells(self, rows: Sequence[Row]) -> list[list[str]]:
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
            if self.paper:
                cells += ["" if row.paper is None else f"{row.paper:.2f}", _signed(row.paper_difference)]
            table_rows.append(cells)
        return table_rows


def _signed(number: float | None) -> str:
    return "" if number is None else f"{number:+.2f}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _portable(text: str) -> str:
    """Without the folders of absolute paths, which mean nothing elsewhere."""
    return re.sub(r"(?<![\w.])/(?:[^\s/,'\"}\]]+/)*", "", text)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{prefix}.{name}".lstrip(".")).items()}


def show(study: Study) -> None:
    """`pplcnet study`: run a study to its end, or go on with it, and show its table."""
    rows = study.run()
    show_table(study.section.title, study.heads, study.cells(rows))
    say(f"report: {study.output / 'study.md'}")
