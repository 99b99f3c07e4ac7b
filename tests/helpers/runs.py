"""Small image sets, configs and runs that the tests of the classification core share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import ppcls_ext  # noqa: F401  (before Paddle, whose warnings it silences)
from ppcls_ext.models.weights import read_weights
from ppcls_ext.training.state import read_state

CLASSES = ("blue", "green", "red")
ROOT = Path(__file__).resolve().parents[2]
CUT_BATCHES = ROOT / "tests" / "helpers" / "cut_batches.py"
SECONDS = 120  # no command of these tests takes a quarter of it

NORMALIZE = {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.25] * 3, "order": ""}}


def picture(kind: int, rng: np.random.Generator, size: tuple[int, int] = (48, 48)) -> np.ndarray:
    """A noisy colour, uint8 RGB, in which channel `2 - kind` is the brightest: blue, green, red."""
    image = rng.integers(0, 40, 3) + rng.integers(0, 40, (*size, 3))
    image[..., 2 - kind] += 160
    return image.astype(np.uint8)


def write_split(root: Path, counts: Sequence[int], seed: int = 0, ending: str = "png") -> None:
    """Class folders `root/<class>/` with so many pictures of each class."""
    rng = np.random.default_rng(seed)
    for kind, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(picture(kind, rng)).save(root / name / f"{number:02d}.{ending}")


def write_set(root: Path, train: int = 32, val: int = 5) -> Path:
    """`root/train` and `root/val`."""
    write_split(root / "train", [train] * 3, seed=1)
    write_split(root / "val", [val] * 3, seed=2)
    return root


def config_of(data: Path, out: Path) -> dict[str, Any]:
    """A config that learns such a set in seconds; random crops and flips, so that a run has chance in it."""
    dataset: dict[str, Any] = {"name": "ImageFolder"}
    loader = {"num_workers": 0}
    return {
        "Global": {
            "device": "cpu",
            "epochs": 4,
            "image_shape": [3, 48, 48],
            "print_batch_step": 1,
            "output_dir": str(out),
            "data_root": str(data),
            "use_visualdl": False,
            "seed": 7,
        },
        "Arch": {"name": "PPLCNet_x0_25", "class_num": "auto", "dropout_prob": 0.1},
        "Loss": {"Train": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {
            "name": "Momentum",
            "momentum": 0.9,
            "lr": {"name": "Cosine", "learning_rate": 0.02, "warmup_epoch": 1},
            "regularizer": {"name": "L2", "coeff": 1e-4},
        },
        "DataLoader": {
            "Train": {
                "dataset": {
                    **dataset,
                    "transform_ops": [
                        {"RandCropImage": {"size": "auto", "scale": [0.5, 1.0]}},
                        {"RandFlipImage": {"flip_code": 1}},
                        NORMALIZE,
                    ],
                },
                "sampler": {"batch_size": 8, "shuffle": True, "drop_last": False},
                "loader": loader,
            },
            "Eval": {
                "dataset": {**dataset, "transform_ops": [{"ResizeImage": {"size": "auto"}}, NORMALIZE]},
                "sampler": {"batch_size": 4},
                "loader": loader,
            },
        },
        "Infer": {"PostProcess": {"topk": 2}},
    }


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def wait_until(happened: Callable[[], object]) -> None:
    """Wait for something that another process does; fails where it does not come within `SECONDS`."""
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"nothing happened in {SECONDS} seconds"
        time.sleep(0.02)


def overrides(*assignments: str) -> list[str]:
    return [part for assignment in assignments for part in ("-o", assignment)]


def command(*arguments: str | Path, cwd: Path | None = None, check: bool = False) -> subprocess.CompletedProcess[str]:
    """`pplcnet ...` in a process of its own."""
    line = [sys.executable, "-m", "ppcls_ext.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, cwd=cwd, env=environment, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def launched(processes: int, logs: Path, script: Path, *arguments: str | Path) -> list[str]:
    """The command line that runs a script in several processes of this machine, as Paddle's launcher does it."""
    line = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", processes, "--log_dir", logs]
    return [str(part) for part in (*line, "--log_level", "ERROR", script, *arguments)]


def ran(line: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A command that works, with this checkout, whatever its script is."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def log_of(folder: Path, event: str | None = None) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [e for e in events if event in (None, e["event"])]


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
            for name in set(values) - {"event", "time", "images_per_s"}:
                assert values[name] == pytest.approx(theirs[step][name], rel=1e-4, abs=1e-6), (step, name)
    weights, others = (read_weights(f / "last.pdparams") for f in (folder, other))
    for name, tensor in weights.items():
        np.testing.assert_allclose(tensor, others[name], rtol=1e-3, atol=1e-4, err_msg=name)


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
        alone = [sys.executable, str(CUT_BATCHES), *arguments]
        ran(alone if processes == 1 else launched(2, folder / "log", CUT_BATCHES, *arguments))
        runs.append(folder / str(processes) / Path(config).name)
    assert_same_curve(runs[1], runs[0])
    return runs[1]
