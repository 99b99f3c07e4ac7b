"""What a run folder holds, and when two runs are the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ppcls_ext  # noqa: F401  (before Paddle, whose warnings it silences)
from ppcls_ext.models.weights import read_weights
from ppcls_ext.training.state import read_state
from tests.helpers.configs import overrides
from tests.helpers.cut_batches import same_for_any_cut
from tests.helpers.processes import CUT_BATCHES, forked_to_its_end, launched, ran


def small_run(data: Path, output: Path, side: int) -> list[str]:
    """Settings of a short run on square images, without processes that load them."""
    return [
        f"Global.data_root={data}",
        f"Global.output_dir={output}",
        f"Global.image_shape=[3,{side},{side}]",
        "Global.use_visualdl=false",
        "DataLoader.Train.loader.num_workers=0",
        "DataLoader.Eval.loader.num_workers=0",
    ]


def log_of(folder: Path, event: str | None = None) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [e for e in events if event in (None, e["event"])]


def assert_only_the_backbone_stayed(start: Path, end: Path) -> None:
    """Of two training states the weights of the backbone are equal, and others are not."""
    before, after = read_weights(start), read_weights(end)
    changed = {name for name, weight in before.items() if not np.array_equal(after[name], weight)}
    assert changed
    assert not [name for name in changed if name.startswith("backbone.")]


def assert_same_run(folder: Path, other: Path) -> None:
    """Training state, weights and metrics are equal bit for bit."""
    tensors, info = read_state(folder / "latest.safetensors")
    other_tensors, other_info = read_state(other / "latest.safetensors")
    assert info == other_info
    assert set(tensors) == set(other_tensors)
    for name, tensor in tensors.items():
        assert tensor.tobytes() == other_tensors[name].tobytes(), name
    for name in ("best.pdparams", "last.pdparams"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    keep = ("epoch", "step", "top1", "loss")
    evals, others = ({e["step"]: [e[k] for k in keep] for e in log_of(f, "eval")} for f in (folder, other))
    assert evals == others


def assert_same_curve(folder: Path, other: Path) -> None:
    """Losses, metrics and weights are equal but for sums in another order, whose differences grow from step to step."""
    for event in ("train", "eval"):
        ours, theirs = ({e["step"]: e for e in log_of(f, event)} for f in (folder, other))
        assert set(ours) == set(theirs)
        for step, values in ours.items():
            for name in set(values) - {"event", "time", "images_per_s", "waiting_for_data"}:
                assert values[name] == pytest.approx(theirs[step][name], rel=1e-4, abs=1e-6), (step, name)
    weights, others = (read_weights(f / "last.pdparams") for f in (folder, other))
    for name, tensor in weights.items():
        np.testing.assert_allclose(tensor, others[name], rtol=1e-3, atol=1e-4, err_msg=name)


def cut_alone(arguments: Sequence[str], errors: Path) -> None:
    """One process that does what a job of `cut_batches.py` does in several."""
    assert forked_to_its_end(arguments, errors, same_for_any_cut()) == 0, errors.read_text()


def trained_alone_and_in_two(config: str, folder: Path, changes: Sequence[str], batch: int) -> Path:
    """Asserts that two processes with half the batch train as one does; gives the run folder of the two.

    Dropout is off and norms are fixed: see `cut_batches.py`.
    """
    changes = [*changes, "Global.eval_interval=1", "Global.threads=1", "Global.print_batch_step=1"]
    changes += ["DataLoader.Train.sampler.drop_last=false", "DataLoader.Eval.sampler.batch_size=3"]
    runs = []
    for processes in (1, 2):
        own = [f"DataLoader.Train.sampler.batch_size={batch // processes}"]
        own.append(f"Global.output_dir={folder / str(processes)}")
        arguments = ["train", "-c", config, *overrides(*changes, *own)]
        if processes == 1:
            cut_alone(arguments, folder / "alone.txt")
        else:
            ran(launched(2, folder / "log", CUT_BATCHES, *arguments))
        runs.append(folder / str(processes) / Path(config).name)
    assert_same_curve(runs[1], runs[0])
    return runs[1]
