"""Ablation studies: variants of one config, several seeds each, in one table with spread and significance.

In the form of the paper's Tables 6 to 9; a study is a YAML file, and its variants may be a table of the paper.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ppcls_ext.core.config import LATEST_STATE, Config, dump_config, load_config, read_yaml
from ppcls_ext.core.display import say, show_table
from ppcls_ext.core.errors import CheckFailed, UserError, nearest
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.run_folder import LOG, discard_unsaved, read_log
from ppcls_ext.core.text import assignment
from ppcls_ext.paper.paired import Answers, paired_difference, right_answers
from ppcls_ext.paper.study_plan import StudyPlan
from ppcls_ext.paper.study_report import VariantResult, result_of, table_cells, table_heads, write_report
from ppcls_ext.training.trainer import train

SETTINGS = "settings.yaml"  # the config that the study asked for; it lies beside the run folder


class Study:
    """The runs of a study: those that are done, and training the others."""

    def __init__(self, plan: StudyPlan) -> None:
        self.plan = plan

    def run(self) -> list[VariantResult]:
        """Train what is not trained yet, and write the report after each run; gives its rows.

        A run that is finished is left alone, one that was stopped goes on. One that diverges is left out.
        Raises:
            UserError: wrong data; a folder that holds runs with other settings, or in which another process writes.
            Stopped: interrupted.
        """
        with FolderLock(self.plan.output, "study folder", "study.lock"):
            return self._run()

    def _run(self) -> list[VariantResult]:
        for done, ((variant, seed), config) in enumerate(self.plan.wanted.items(), start=1):
            self._check_settings(variant, seed, config)
            if self.value(variant, seed) is None:
                say(f"run {done} of {len(self.plan.wanted)}: {variant}, seed {seed}")
                try:
                    self._train(variant, seed, config)
                except CheckFailed as error:
                    say(f"{variant}, seed {seed}: left out, {error}")
            write_report(self.plan, self.rows())
        rows = self._on_the_same_images(self.rows())
        write_report(self.plan, rows)
        return rows

    def _on_the_same_images(self, rows: list[VariantResult]) -> list[VariantResult]:
        """The rows with differences image by image, where the study asks for them.

        Raises:
            UserError: runs that are evaluated on different images.
        """
        plan = self.plan
        if not plan.section.same_images:
            return rows
        theirs = {seed: right_answers(plan.run_folder(plan.reference, seed)) for seed in self.values(plan.reference)}
        seen = {(plan.reference, seed): answers for seed, answers in theirs.items()}
        found = []
        for row in rows:
            seeds = [seed for seed in row.values if seed in theirs]
            if row.variant != plan.reference and seeds:
                ours = [right_answers(plan.run_folder(row.variant, seed)) for seed in seeds]
                seen |= {(row.variant, seed): answers for seed, answers in zip(seeds, ours, strict=True)}
                self._check_images(seen)
                pairs = [one.right for one in ours], [theirs[seed].right for seed in seeds]
                row = replace(row, same_images=paired_difference(*pairs))
            found.append(row)
        return found

    def _check_images(self, seen: Mapping[tuple[str, int], Answers]) -> None:
        """Raise UserError unless all runs (variant, seed) were evaluated on the same images."""
        (first, expected), *others = seen.items()
        for run, found in others:
            count, other = len(expected.right), len(found.right)
            if found.images != expected.images:
                sets = f"{other} images and {first[0]}, seed {first[1]} on {count}"
                if other == count:
                    sets = f"other images, or in another order, than {first[0]}, seed {first[1]}"
                raise UserError(
                    f"study {self.plan.output}: same_images needs one evaluation set, but {run[0]}, seed {run[1]} is "
                    f"evaluated on {sets}; give all variants the same, or leave same_images out"
                )

    def _train(self, variant: str, seed: int, config: Config) -> None:
        folder = self.plan.run_folder(variant, seed)
        if (folder / LATEST_STATE).is_file():
            train(load_config(folder, [assignment("Global.checkpoints", folder)]))
            return
        discard_unsaved(folder)
        train(config)

    def _check_settings(self, variant: str, seed: int, config: Config) -> None:
        """Write down what a run is made with; or refuse to take one that was made with something else for it."""
        file = self.plan.folder(variant, seed) / SETTINGS
        wanted = {**config, "Global": {k: v for k, v in config["Global"].items() if k != "output_dir"}}
        if not file.is_file():
            atomic_write_text(file, dump_config(wanted))
            return
        found = read_yaml(file)
        for key in sorted({*_flat(found), *_flat(wanted)}):
            was, now = _flat(found).get(key), _flat(wanted).get(key)
            if json.dumps(was) != json.dumps(now):  # tuples and lists are the same here
                raise UserError(
                    f"study {self.plan.output}: {variant}, seed {seed} was run with {key}={was}, now it is {now}; "
                    "give another --output, or remove that folder"
                )

    def value(self, variant: str, seed: int) -> float | None:
        """The metric of a run's last evaluation, percent; None if the run is not finished.

        Raises:
            UserError: the run has no such metric, or something else than a number for it.
        """
        log = self.plan.run_folder(variant, seed) / LOG
        events = read_log(log) if log.is_file() else []
        if not events or events[-1]["event"] != "end":
            return None
        evaluations = [event for event in events if event["event"] == "eval"]
        if not evaluations or self.plan.metric not in evaluations[-1]:
            known = evaluations[-1] if evaluations else {}
            raise UserError(f"study: no '{self.plan.metric}' in {log}; {nearest(self.plan.metric, known)}")
        value = evaluations[-1][self.plan.metric]
        if type(value) not in (int, float) or not math.isfinite(value):
            raise UserError(
                f"study: {self.plan.metric} of the last evaluation in {log} is {str(value)[:40]!r}, expected a number; "
                "the file is damaged, remove that run folder to train it again"
            )
        return 100 * float(value)

    def values(self, variant: str) -> dict[int, float]:
        """The values of a variant by seed, as far as its runs are finished."""
        found = {seed: self.value(variant, seed) for seed in self.plan.seeds}
        return {seed: value for seed, value in found.items() if value is not None}

    def rows(self) -> list[VariantResult]:
        """The result of each variant, from the runs that are finished."""
        plan, reference = self.plan, self.values(self.plan.reference)
        rows = []
        for variant in plan.variants:
            values = reference if variant == plan.reference else self.values(variant)
            rows.append(result_of(variant, values, reference, plan.paper.get(variant), plan.paper.get(plan.reference)))
        return rows


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{prefix}.{name}".lstrip(".")).items()}


def show(study: Study) -> None:
    """`pplcnet study`: run a study to its end, or go on with it, and show its table."""
    rows = study.run()
    show_table(study.plan.section.title, table_heads(study.plan), table_cells(study.plan, rows))
    say(f"report: {study.plan.output / 'study.md'}")
