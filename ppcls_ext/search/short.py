"""The quality of a network by a short training of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppcls_ext.core.config import LAST_WEIGHTS, LATEST_STATE, dump_config, load_config
from ppcls_ext.core.display import say
from ppcls_ext.core.errors import CheckFailed
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.run_folder import discard_unsaved
from ppcls_ext.core.text import assignment
from ppcls_ext.models.factory import SEARCHED
from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.search.judge import Judge, Quality
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.training.trainer import train


class ShortTraining:
    """Trains each network in a run folder of its own, which goes on where it was stopped.

    Args:
        config: with the images to fit to and to judge by, and the length of a training.
        folder: of the run folders; a network's has the network's name.
    """

    def __init__(self, config: dict[str, Any], folder: Path, judge: Judge) -> None:
        self.config, self.folder, self.judge = config, folder, judge

    def __call__(self, spec: NetworkSpec) -> Quality:
        """The quality after training; 0 where the training diverges."""
        run = self.folder / spec.name
        if not (run / LAST_WEIGHTS).is_file():
            try:
                self._train(spec, run)
            except CheckFailed as error:
                say(f"{spec.name}: left behind, {error}")
                return Quality(0.0, 0.0)
        task = make_task(load_config(run))
        model = task.made_fast(task.build_model())
        task.load_trained(model, str(run / LAST_WEIGHTS))
        return self.judge.quality(model, own_statistics=True)

    def _train(self, spec: NetworkSpec, run: Path) -> None:
        if (run / LATEST_STATE).is_file():
            train(load_config(run, [assignment("Global.checkpoints", run)]))
            return
        discard_unsaved(run)
        file = self.folder / f"{spec.name}.yaml"
        arch = {"name": SEARCHED, "arch": spec.text, "class_num": self.config["Arch"]["class_num"]}
        # Judged after its last step alone: without evaluations in between, none can stop it early.
        section = {**self.config["Global"], "output_dir": str(self.folder)}
        section.update(eval_during_train=False, early_stop=None)
        atomic_write_text(file, dump_config({**self.config, "Global": section, "Arch": arch}))
        train(load_config(file))
