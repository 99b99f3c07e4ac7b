"""`ppcls_ext.training.learner`: when memory begins to stay with the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_ext.core.config import load_config
from ppcls_ext.tasks.task import Task
from ppcls_ext.training.precision import Precision
from ppcls_ext.training.trainer import train
from tests.helpers.configs import config_of, write_config


@pytest.mark.slow
def test_memory_is_kept_from_the_end_of_the_first_step_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lives as long as the run is there by then, and lies together."""
    happened: list[str] = []
    own_step = Precision.step
    monkeypatch.setattr(Precision, "step", lambda *given: (happened.append("step"), own_step(*given)))
    monkeypatch.setattr(Task, "keep_memory", lambda _: happened.append("keep"))
    path = write_config(tmp_path / "run.yaml", config_of(data, tmp_path / "output"))
    train(load_config(path, ["Global.iters=3", "Optimizer.lr=0.1", "Global.eval_during_train=False"]))
    assert happened == ["step", "keep", "step", "step"]
