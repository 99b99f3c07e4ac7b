"""What a study trains: its file read, and the config of every run made, before the first one starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pydantic

from ppcls_ext.core.config import Config, Section, find_config, load_config, parse, read_yaml, shipped_studies
from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.text import assignment
from ppcls_ext.paper.tables import table
from ppcls_ext.tasks.finding import load_task

ABLATIONS = (6, 7, 8, 9)  # tables of the paper that compare networks under one recipe


class StudySection(Section):
    """A study file.

    Attributes:
        config: what every variant trains: a shipped config's name or a file.
        overrides: `KEY=VALUE` for every run.
        variants: name -> its own overrides.
        reference: the variant that the others are compared with.
        paper: number of a table of the paper, whose rows are then the variants, and its marked row the reference.
        metric: of the last evaluation; default: the one by which the task chooses its best weights.
        same_images: compare classifiers image by image as well, with the weights of the last evaluation.
    """

    title: str
    config: str
    overrides: tuple[str, ...] = ()
    paper: int | None = None
    variants: dict[str, tuple[str, ...]] = {}
    reference: str | None = None
    seeds: tuple[pydantic.NonNegativeInt, ...] = pydantic.Field(default=(0, 1, 2), min_length=1)
    metric: str | None = None
    same_images: bool = False


class StudyPlan:
    """A study, understood.

    Attributes:
        variants: name -> its own overrides.
        reference: the variant that the others are compared with.
        paper: what the paper states for the variants, percent; empty where they are none of its rows.
        wanted: (variant, seed) -> the config of that run, in the order of the runs.
        metric: by which the variants are compared.
    """

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
        file = find_config(path, study=True)
        content = read_yaml(file)
        if "title" not in content and "variants" not in content:  # a config, or that of a run folder
            raise UserError(f"study {path}: this file is not a study; {nearest(file.stem, shipped_studies())}")
        self.name, self.section = file.stem, parse(StudySection, content, f"study {file.name}")
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
        task = load_task(first.global_section.task)
        self.metric = self.section.metric or task.primary
        if self.metric not in task.metric_names:
            raise UserError(f"study {file.name}: no metric '{self.metric}'; {nearest(self.metric, task.metric_names)}")
        if self.section.same_images and first.global_section.task != "classification":
            raise UserError(
                f"study {file.name}: same_images compares classifiers, not {first.global_section.task}; leave it out"
            )

    def _config(self, variant: str, seed: int) -> Config:
        given = [*self.section.overrides, *self.variants[variant], *self.overrides]
        for key, instead in {"Global.seed": "--seeds", "Global.output_dir": "--output"}.items():
            if any(assignment.partition("=")[0].strip() == key for assignment in given):
                raise UserError(f"study {self.name}: {key} is set for each run of a study; give {instead} instead")
        own = [f"Global.seed={seed}", assignment("Global.output_dir", self.folder(variant, seed))]
        config = load_config(self.base, [*given, *own])
        config.pop("Expect", None)  # what the base promises does not hold for its variants
        return config

    def folder(self, variant: str, seed: int) -> Path:
        """The folder that holds a run's run folder and its settings."""
        return self.output / _slug(variant) / f"seed{seed}"

    def run_folder(self, variant: str, seed: int) -> Path:
        """The run folder of a run, which training makes."""
        return self.folder(variant, seed) / self.wanted[variant, seed].path.stem


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
