"""Kills at random points, each followed by going on: the end must be that of a run that was never killed, bit for bit.

    python -m tests.helpers.kills cls --kills 50 --folder FOLDER --seed 0

What is run, and killed again and again until it is whole, is one of `KILLED`. Half of the kills come after a random
time, half before or after a random step of a write (see `tests.helpers.faults`). After each chain of kills the result
is compared with the one of a process that was left alone. Each process is forked off one that has imported everything,
since an import takes longer than what is to be killed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import det.demo
import seg.demo
from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.core.config import LATEST_STATE, RUN_CONFIG
from ppcls_ext.core.run_folder import read_log
from ppcls_ext.deploy import export as exporting
from ppcls_ext.deploy import results_file
from ppcls_ext.paper import study  # noqa: F401  (imported before processes are forked)
from ppcls_ext.runtime.exported import read_exported
from ppcls_ext.search import calibrate as calibrating
from ppcls_ext.search import report as _report  # noqa: F401  (imported before processes are forked)
from ppcls_ext.search.measurements import read_calibration
from ppcls_ext.training import distillation
from tests.helpers.configs import config_of, overrides, write_config
from tests.helpers.faults import fault_at, kill
from tests.helpers.processes import forked
from tests.helpers.runs import read_state, small_run
from tests.helpers.sets import write_set


class Killed(NamedTuple):
    """What is killed.

    Attributes:
        prepare: makes what all runs need in a folder.
        command: the command line that begins or goes on in the second folder.
        result: what must be equal in the end, by name.
        check: what must hold after each kill, in the second folder.
    """

    prepare: Callable[[Path], None]
    command: Callable[[Path, Path], list[str]]
    result: Callable[[Path], dict[str, str]]
    check: Callable[[Path], None] = lambda _: None


class Outcome(NamedTuple):
    """How many kills there were, and how many runs came to their end and were compared."""

    kills: int
    in_writes: int
    runs: int


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run_result(run: Path) -> dict[str, str]:
    """The state, the weights, and the log of a run, in which each step stands once."""
    tensors, info = read_state(run / LATEST_STATE)
    found = {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()}
    found["info"] = json.dumps(info)
    found |= {name: digest(run / name) for name in ("best.pdparams", "last.pdparams")}
    found["metrics"] = (run / "eval" / "metrics.json").read_text()
    events = read_log(run / "log.jsonl")
    found["steps"] = str([event["step"] for event in events if event["event"] == "train"])
    found["evaluations"] = str([(event["epoch"], event["step"]) for event in events if event["event"] == "eval"])
    assert not list(run.rglob("*.tmp")), "a temporary file was left behind"
    return found


def training(run: Path, config: str | Path, *settings: str) -> list[str]:
    """Go on with the run where it has saved, else begin it."""
    if (run / LATEST_STATE).exists():
        return ["train", "--resume", str(run)]
    return ["train", "-c", str(config), *overrides(*settings)]


def run_check(name: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        run = folder / name
        if (run / LATEST_STATE).exists():
            read_state(run / LATEST_STATE)
            assert (run / RUN_CONFIG).is_file()

    return check


def prepare_cls(common: Path) -> None:
    write_set(common / "images", train=16, val=4)
    config = config_of(common / "images", common / "unused")
    config["Global"] |= {"epochs": 3, "image_shape": [3, 32, 32]}
    write_config(common / "run.yaml", config)


def prepare_det(common: Path) -> None:
    for split, count in (("train", 24), ("val", 6)):
        det.demo.make_scenes(common, split, count, side=96)


def prepare_seg(common: Path) -> None:
    for split, count in (("train", 24), ("val", 6)):
        seg.demo.make_scenes(common, split, count, side=64)


def small_scenes(common: Path, place: Path, side: int) -> list[str]:
    often = ["Global.print_batch_step=1", "Global.eval_interval=1", "DataLoader.Train.sampler.batch_size=8"]
    return [*small_run(common, place, side), *often]


def det_command(common: Path, place: Path) -> list[str]:
    settings = [*small_scenes(common, place, 96), "Arch.width=32", "Global.epochs=3"]
    return training(place / "demo", "det/demo", *settings)


def seg_command(common: Path, place: Path) -> list[str]:
    settings = [*small_scenes(common, place, 64), "Arch.backbone.scale=0.25", "Global.iters=9"]
    return training(place / "demo", "seg/demo", *settings)


def prepare_cache(common: Path) -> None:
    prepare_cls(common)
    assert finished([*cls_command(common, common), *overrides("Global.epochs=2", "Global.seed=1")]) == 0


def cls_command(common: Path, place: Path) -> list[str]:
    return training(place / "run", common / "run.yaml", f"Global.output_dir={place}")


def cache_command(common: Path, place: Path) -> list[str]:
    distill = f"Distill={{teacher: {common / 'run'}, cache: {place / 'cache'}, cache_epochs: 2}}"
    return training(place / "run", common / "run.yaml", f"Global.output_dir={place}", "Global.epochs=2", distill)


def cache_result(place: Path) -> dict[str, str]:
    """The cache is at another place in each chain, but that is not in what is compared."""
    return {**run_result(place / "run"), "cache": digest(place / "cache" / "logits.npy")}


def prepare_study(common: Path) -> None:
    prepare_cls(common)
    content = {"title": "two", "config": str(common / "run.yaml"), "seeds": [0, 1], "reference": "a"}
    content["variants"] = {"a": ["Global.epochs=2"], "b": ["Global.epochs=2", "Arch.dropout_prob=0.0"]}
    (common / "two.yaml").write_text(json.dumps(content))


def study_command(common: Path, place: Path) -> list[str]:
    return ["study", "-c", str(common / "two.yaml"), "--output", str(place / "study")]


def study_result(place: Path) -> dict[str, str]:
    files = sorted(place.rglob("last.pdparams"))
    assert len(files) == 4
    found = {str(file.relative_to(place)): digest(file) for file in files}
    return {**found, "table": json.dumps(json.loads((place / "study" / "study.json").read_text()).get("rows"))}


def prepare_export(common: Path) -> None:
    prepare_cls(common)
    assert finished([*cls_command(common, common), *overrides("Global.epochs=2")]) == 0


def export_command(common: Path, place: Path) -> list[str]:
    """Without the check on engines, whose processes would be what is killed."""
    exporting._check = lambda *_: []  # type: ignore[assignment]
    place_of = f"Global.save_inference_dir={place / 'inference'}"
    return ["export", "-c", str(common / "run"), "--formats", "json", *overrides(place_of)]


def export_check(place: Path) -> None:
    """At every moment after the first export there is one, and it is whole."""
    if (place / "exported_once").exists() or (place / "inference").exists():
        (place / "exported_once").touch()
        exported = read_exported(place / "inference")
        assert len(exported.checksums) > 2
        for name in exported.checksums:
            assert (place / "inference" / name).is_file(), name
        exported.verify(exported.checksums)


def export_result(place: Path) -> dict[str, str]:
    export_check(place)
    return {"weights": digest(place / "inference" / "inference.pdiparams")}


def prepare_infer(common: Path) -> None:
    prepare_export(common)
    assert finished(export_command(common, common)) == 0
    (common / "photos").mkdir()
    images = sorted((common / "images").rglob("*.png"))
    for number in range(600):
        shutil.copy(images[number % len(images)], common / "photos" / f"{number:04d}.png")
    (common / "photos" / "0300.png").write_bytes(b"no image")


def infer_command(common: Path, place: Path) -> list[str]:
    line = ["infer", "-m", str(common / "inference"), "--engine", "native", "-i", str(common / "photos")]
    return [*line, "--threads", "1", "--format", "csv", "--save", str(place / "rows.csv"), "--resume"]


def made_up(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
    """A benchmark whose figures follow from the names: what is measured is not what is killed here."""
    time.sleep(0.02)
    rows = []
    for subject in subjects:
        ratio = 1 + int(hashlib.sha256(subject.name.encode()).hexdigest()[:4], 16) / 2**16
        rows.append({"failure": None, "ms": {"median": ratio}, "rounds": [{"min": ratio}]})
    return {"results": rows, "warnings": []}


def calibrate_command(_: Path, place: Path) -> list[str]:
    calibrating.build = lambda *_: None  # type: ignore[assignment]
    calibrating.calibrate.__defaults__ = (made_up,)
    calibrating.check_accuracy = lambda *_: None  # the figures are no times  # type: ignore[assignment]
    folders = ["--calibration", str(place / "found.json"), "--out", str(place / "out"), "--work", str(place / "work")]
    return ["search", "--calibrate", "--quick", *folders]


def calibrate_check(place: Path) -> None:
    """At every moment the file is whole, if it is there."""
    if (place / "found.json").exists():
        read_calibration(place / "found.json")


def calibrate_result(place: Path) -> dict[str, str]:
    found = json.loads((place / "found.json").read_text())
    assert len({one["arch"] for one in found["measured"]}) == len(found["measured"])
    return {name: json.dumps(found[name]) for name in ("measured", "anchor_ms", "model", "accuracy")}


KILLED = {
    "cls": Killed(prepare_cls, cls_command, lambda place: run_result(place / "run"), run_check("run")),
    "det": Killed(prepare_det, det_command, lambda place: run_result(place / "demo"), run_check("demo")),
    "seg": Killed(prepare_seg, seg_command, lambda place: run_result(place / "demo"), run_check("demo")),
    "cache": Killed(prepare_cache, cache_command, cache_result, run_check("run")),
    "study": Killed(prepare_study, study_command, study_result),
    "export": Killed(prepare_export, export_command, export_result, export_check),
    "calibrate": Killed(lambda _: None, calibrate_command, calibrate_result, calibrate_check),
    "infer": Killed(prepare_infer, infer_command, lambda place: {"rows": digest(place / "rows.csv")}),
}
GOOD_ENDS = (0, 2)  # 2: of `infer`, where an image has no result, or where all was written before the kill


@contextlib.contextmanager
def interruptible(write: int | None, after: bool) -> Iterator[None]:
    """A process that saves often, and is killed at a step of a write if `write` numbers one."""
    distillation.SAVE_SECONDS = results_file.COMMIT_SECONDS = 0.02
    with contextlib.nullcontext() if write is None else fault_at(write, kill, after):
        yield


def started(line: Sequence[str], write: int | None = None, after: bool = False) -> int:
    """Start a command in a process of its own; see `interruptible`. Gives its id."""
    return forked(line, Path(os.environ["KILLS_LOG"]), interruptible(write, after))


def finished(line: Sequence[str]) -> int:
    """Run a command to its end in a process of its own; gives its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(started(line), 0)[1])


def kill_one(line: Sequence[str], rng: random.Random, seconds: float, writes: int) -> tuple[int, bool]:
    """Start a command and kill it at a random moment; gives its exit status, and whether a write was to be killed."""
    in_write = rng.random() < 0.5
    if in_write:
        child = started(line, rng.randint(1, writes), rng.random() < 0.5)
    else:
        child = started(line)
        deadline = time.monotonic() + rng.uniform(0, seconds)
        while time.monotonic() < deadline:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status), False
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), in_write


def soak(name: str, folder: Path, kills: int, seed: int, seconds: float = 1e9) -> Outcome:
    """Kill one of `KILLED` `kills` times, or until `seconds` have passed, in chains that end with a run that is whole.

    Raises:
        AssertionError: what came out is not what an undisturbed run gives.
    """
    killed, rng, end = KILLED[name], random.Random(seed), time.monotonic() + seconds
    common, alone = folder / "common", folder / "alone"
    folder.mkdir(parents=True)
    os.environ["KILLS_LOG"] = str(folder / "stderr.txt")
    common.mkdir()
    killed.prepare(common)
    alone.mkdir()
    begun = time.monotonic()
    assert finished(killed.command(common, alone)) in GOOD_ENDS
    lasts, expected = time.monotonic() - begun, killed.result(alone)
    writes = 12 if name in ("export", "infer", "calibrate") else 40
    count = in_writes = runs = 0
    while count < kills and time.monotonic() < end:
        place = folder / "killed"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        while True:
            last = count >= kills or time.monotonic() >= end
            line = killed.command(common, place)
            status, write = (finished(line), False) if last else kill_one(line, rng, lasts, writes)
            killed.check(place)
            if status != -signal.SIGKILL:
                break
            count += 1
            in_writes += write
        assert status in GOOD_ENDS, (status, line)
        runs += 1
        found = killed.result(place)
        assert found == expected, {key for key in expected if found.get(key) != expected[key]}
    return Outcome(count, in_writes, runs)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.kills", description=__doc__)
    parser.add_argument("killed", choices=KILLED)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9)
    given = parser.parse_args(argv)
    outcome = soak(given.killed, given.folder, given.kills, given.seed, given.seconds)
    print(f"{given.killed}: {outcome.kills} kills ({outcome.in_writes} of them in a write), {outcome.runs} runs equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
