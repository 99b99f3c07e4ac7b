"""A training state of another run, or a damaged one, is one line, and nothing is replaced before it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.cli.main import main
from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.run_folder import read_log
from ppcls_ext.training.state import read_state, save_state
from ppcls_ext.training.trainer import Trainer, train
from tests.helpers.configs import config_of, write_config
from tests.helpers.faults import fault_at, no_space
from tests.helpers.kills import soak

pytestmark = pytest.mark.slow

Fails = Callable[..., str]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step with an average, whose state is at the end of the only epoch. Read only."""
    folder = tmp_path_factory.mktemp("run")
    config = config_of(data, folder / "output")
    config["Global"] |= {"iters": 2, "image_shape": [3, 32, 32]}
    config["Optimizer"]["lr"]["warmup_epoch"] = 0
    config["EMA"] = {"decay": 0.9}
    return train(load_config(write_config(folder / "run.yaml", config))).path


def position(**changes: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda tensors, info: info["position"].update(changes)


def of_info(key: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda tensors, info: info.update({key: value})


def without(part: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(tensors: dict[str, Any], info: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.startswith(part)]:
            del tensors[name]

    return change


def cut(part: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(tensors: dict[str, Any], info: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.startswith(part) and tensors[name].ndim]:
            tensors[name] = tensors[name][:1].astype("int64")

    return change


CHANGES = {
    **{f"epoch {value!r}": position(epoch=value) for value in ("1", None, -1, 1.5, 10**30, [1], True, 7)},
    **{f"step {value!r}": position(step=value) for value in ("1", 5, 13)},
    **{f"total_steps {value!r}": position(total_steps=value) for value in (0, 10**12, {})},
    **{f"best {value!r}": position(best=value) for value in ("0.5", float("nan"), [], None)},
    "stopped": position(stopped="no"),
    "sums": position(sums={"loss": "x"}),
    "no losses": position(step=2, epoch=0, sums={}, images=8),
    "losses of no images": position(step=2, epoch=0, images=0, sums={"loss": 1.0}),
    "more": position(more=1),
    "no position": of_info("position", 5),
    "schedule": of_info("schedule", {"last_lr": "x"}),
    "schedule list": of_info("schedule", []),
    "run": of_info("run", [1]),
    "another run": of_info("run", {"task": "detection"}),
    "precision": of_info("precision", {"scale": 1.0}),
    "no optimizer": without("optimizer/"),
    "optimizer": cut("optimizer/"),
    "no average": without("ema/"),
    "average": cut("ema/"),
    "no model": without("model/"),
    "model": cut("model/"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_state_is_one_line_and_replaces_nothing(change: str, run: Path, fails: Fails) -> None:
    """With a checksum that fits, as someone's own program would write it."""
    latest, kept = run / "latest.safetensors", (run / "latest.safetensors").read_bytes()
    before = {file.name: file.read_bytes() for file in run.glob("*.pdparams")}
    tensors, info = read_state(latest)
    tensors, info = dict(tensors), json.loads(json.dumps(info))
    CHANGES[change](tensors, info)
    try:
        save_state(latest, tensors, info)
        message = fails("train", "--resume", run, "-o", "Global.iters=4", lines=None)
        assert str(latest) in message
        assert {file.name: file.read_bytes() for file in run.glob("*.pdparams")} == before
    finally:
        latest.write_bytes(kept)


def test_a_flipped_bit_is_one_line(run: Path, fails: Fails) -> None:
    latest, kept = run / "latest.safetensors", (run / "latest.safetensors").read_bytes()
    spoiled = bytearray(kept)
    spoiled[-100] ^= 4
    try:
        latest.write_bytes(spoiled)
        assert "damaged, its checksum differs; take a copy that is whole" in fails("train", "--resume", run, lines=None)
    finally:
        latest.write_bytes(kept)


def test_a_run_that_is_going_on_is_not_resumed_twice(run: Path, fails: Fails) -> None:
    held = FolderLock(run, "run folder")
    held.acquire()
    message = fails("train", "--resume", run, lines=None)
    assert f"run folder {run}: process {os.getpid()} on " in message
    assert "is still writing there" in message
    held.release()


def test_a_full_disk_is_one_line_and_the_last_state_is_whole(data: Path, tmp_path: Path, fails: Fails) -> None:
    config = config_of(data, tmp_path / "output")
    config["Global"] |= {"epochs": 2, "image_shape": [3, 32, 32]}
    file, folder = write_config(tmp_path / "run.yaml", config), tmp_path / "output" / "run"
    with fault_at(0, no_space) as taken:
        train(load_config(file))
    states = [number for number, name in enumerate(taken, start=1) if name == "fill"]
    train_again = load_config(file, [f"Global.output_dir={tmp_path / 'again'}"])
    with fault_at(states[-1], no_space), pytest.raises(OSError, match="no space left on the disk; free some"):
        train(train_again)
    again = tmp_path / "again" / "run"
    read_state(again / "latest.safetensors")
    train(load_config(again, [f"Global.checkpoints={again}"]))
    assert (again / "last.pdparams").read_bytes() == (folder / "last.pdparams").read_bytes()


def test_an_evaluation_before_a_kill_and_an_end_after_one_are_told_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill comes after the first evaluation and before the state that knows of it. Slow: it trains."""
    config = config_of(data, tmp_path / "output")
    config["Global"] |= {"epochs": 2, "image_shape": [3, 32, 32]}
    file, save, saved = write_config(tmp_path / "run.yaml", config), Trainer.save_latest, []

    def killed(trainer: Trainer) -> None:
        saved.append(trainer.position.epoch)
        if trainer.position.epoch:
            raise MemoryError("killed")
        save(trainer)

    monkeypatch.setattr(Trainer, "save_latest", killed)
    with pytest.raises(MemoryError, match="killed"):
        train(load_config(file))
    monkeypatch.undo()
    assert saved == [0, 1]
    run = tmp_path / "output" / "run"
    for _ in range(2):  # to the end, and once more
        assert main(["train", "--resume", str(run)]) == 0
        events = read_log(run / "log.jsonl")
        assert [event["epoch"] for event in events if event["event"] == "eval"] == [1, 2]
        assert events[-1]["event"] == "end"


def test_kills_at_random_points_leave_no_trace(tmp_path: Path) -> None:
    """A few of what `python -m tests.helpers.kills` does at length. Slow: processes that train."""
    outcome = soak("cls", tmp_path / "kills", kills=4, seed=1)
    assert outcome.kills == 4
    assert outcome.runs >= 1


def test_another_state_is_not_taken_for_weights_of_this_network(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training state there"):
        train(load_config(run, [f"Global.checkpoints={tmp_path}"]))
