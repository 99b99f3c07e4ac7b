"""Training: it learns, it repeats, it stops and resumes exactly, and it says early what is wrong."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_ext.cls.task import Classification
from ppcls_ext.core.config import Config, load_config
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.run_folder import read_log
from ppcls_ext.models.weights import read_weights
from ppcls_ext.training.optimizers import LR_NUMBERS
from ppcls_ext.training.state import read_state
from ppcls_ext.training.trainer import Stopped, train
from tests.helpers.configs import config_of, write_config
from tests.helpers.processes import ROOT, SECONDS, SIGNALS, command, forked_to_its_end
from tests.helpers.runs import assert_same_run, log_of
from tests.helpers.sets import write_set
from tests.helpers.signals import send_signals

pytestmark = pytest.mark.slow

Fails = Callable[..., str]


def small(path: Path, data: Path, **changes: Any) -> Path:
    """A config of three epochs at 32 px, written to `path`; its run goes to `path`'s folder.

    On `few`, an epoch has 5 steps, the last of them half full.
    """
    config = config_of(data, path.parent / "output")
    config["Global"] |= {"epochs": 3, "image_shape": [3, 32, 32], **changes.pop("Global", {})}
    config.update(changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_config(path, config)


@pytest.fixture(scope="module")
def whole(few: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that were never stopped, without and with an average of the weights."""
    runs = {}
    for name, changes in (("plain", {}), ("ema", {"EMA": {"decay": 0.9}})):
        folder = tmp_path_factory.mktemp(name)
        runs[name] = train(load_config(small(folder / "run.yaml", few, **changes))).path
    return runs


def test_it_learns_an_easy_set(trained: Path) -> None:
    epochs = {e["epoch"]: e["loss"] for e in log_of(trained, "train")}
    assert epochs[max(epochs)] < 0.6 * epochs[1]
    assert max(e["top1"] for e in log_of(trained, "eval")) >= 0.8  # there are 15 images; chance is a third


def test_the_run_folder_is_complete(trained: Path) -> None:
    for name in (
        "config.yaml",
        "environment.json",
        "labels.txt",
        "latest.safetensors",
        "best.pdparams",
        "last.pdparams",
    ):
        assert (trained / name).stat().st_size > 0, name
    assert list((trained / "scalars").glob("vdlrecords*"))
    assert (trained / "eval" / "confusion.png").stat().st_size > 1000
    assert [e["event"] for e in log_of(trained)][-1] == "end"
    assert not list(trained.rglob("*.tmp"))


def test_two_runs_agree_bit_for_bit_whatever_loads_their_data(
    whole: dict[str, Path], few: Path, tmp_path: Path
) -> None:
    config = load_config(small(tmp_path / "run.yaml", few), ["DataLoader.Train.loader.num_workers=2"])
    assert_same_run(train(config).path, whole["plain"])


@contextlib.contextmanager
def sending(signals: str) -> Iterator[None]:
    """A process that trains and sends itself `signals` (see `signals.py`)."""
    send_signals(signals)
    yield


def signalled(signals: str, config: Path, *arguments: str) -> tuple[int, str]:
    """Train in a copy of this process that sends itself `signals`; its exit status, and what it says on stderr."""
    errors = config.parent / "stderr.txt"
    status = forked_to_its_end(["train", "-c", config, *arguments], errors, sending(signals))
    return status, errors.read_text()


def test_an_interrupted_run_resumes_exactly(whole: dict[str, Path], few: Path, tmp_path: Path) -> None:
    """Slow: two processes of their own, as users start them."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "SIGNALS": "0:7:SIGINT"}
    line = [sys.executable, str(SIGNALS), "train", "-c", str(small(tmp_path / "run.yaml", few))]
    settings = {"capture_output": True, "text": True, "timeout": SECONDS, "env": environment}
    stopped = subprocess.run(line, start_new_session=True, check=False, **settings)
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    run = tmp_path / "output" / "run"
    assert log_of(run, "stop")[0]["step"] == 7
    done = command("train", "--resume", run, check=True)
    assert done.stderr.splitlines()[2].startswith("resuming ")  # after the two about the data: no warning before it
    assert_same_run(run, whole["plain"])


def test_an_interrupted_run_with_an_average_resumes_exactly(whole: dict[str, Path], few: Path, tmp_path: Path) -> None:
    status, said = signalled("0:7:SIGINT", small(tmp_path / "run.yaml", few, EMA={"decay": 0.9}))
    assert status == 130, said
    run = tmp_path / "output" / "run"
    assert log_of(run, "stop")[0]["step"] == 7
    train(load_config(run, [f"Global.checkpoints={run}"]))
    assert_same_run(run, whole["ema"])


def test_sigterm_to_a_whole_group_leaves_the_loaders_to_the_run(
    whole: dict[str, Path], few: Path, tmp_path: Path
) -> None:
    path = small(tmp_path / "run.yaml", few)
    run = tmp_path / "output" / "run"
    status, said = signalled("0:7:SIGTERM", path, "-o", "DataLoader.Train.loader.num_workers=2")
    assert status == 143, said
    assert said.splitlines()[-1].startswith("stopping after this step")
    train(load_config(run, [f"Global.checkpoints={run}"]))
    assert_same_run(run, whole["plain"])


@contextlib.contextmanager
def killed_in_a_write(name: str, times: int, part: float) -> Iterator[None]:
    """A process that is killed while it writes a file for the `times`-th time.

    The temporary file is there whole, or a `part` of it, and not yet in its place.
    """
    replace, left = os.replace, times

    def replace_or_die(source: Path, target: Path) -> None:
        nonlocal left
        left -= os.path.basename(target) == name
        if left == 0:
            os.truncate(source, int(part * os.path.getsize(source)))
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die  # type: ignore[assignment]
    yield


@pytest.mark.parametrize(
    ("name", "times", "part"),
    [("latest.safetensors", 2, 0.5), ("latest.safetensors", 3, 1.0), ("last.pdparams", 2, 0.5)],
)
def test_a_run_killed_while_it_saves_resumes_exactly(
    name: str, times: int, part: float, whole: dict[str, Path], few: Path, tmp_path: Path
) -> None:
    path, errors = small(tmp_path / "run.yaml", few), tmp_path / "stderr.txt"
    status = forked_to_its_end(["train", "-c", path], errors, killed_in_a_write(name, times, part))
    assert status == -signal.SIGKILL, errors.read_text()
    run = tmp_path / "output" / "run"
    assert len(list(run.glob(f".{name}.*.tmp"))) == 1
    train(load_config(run, [f"Global.checkpoints={run}"]))
    assert_same_run(run, whole["plain"])
    assert not list(run.rglob("*.tmp"))
    steps = [e["step"] for e in read_log(run / "log.jsonl") if e["event"] == "train"]
    assert steps == list(range(1, 16))  # each once, though some were taken twice


def test_a_run_killed_before_it_saved_anything_starts_anew(whole: dict[str, Path], few: Path, tmp_path: Path) -> None:
    path = small(tmp_path / "run.yaml", few)
    run = tmp_path / "output" / "run"
    assert signalled("0:3:SIGKILL", path)[0] == -signal.SIGKILL
    assert len(log_of(run, "train")) == 2
    train(load_config(path))
    assert_same_run(run, whole["plain"])
    assert [e["step"] for e in log_of(run, "train")] == list(range(1, 16))


def test_a_killed_run_resumes_exactly(whole: dict[str, Path], few: Path, tmp_path: Path) -> None:
    run = tmp_path / "output" / "run"
    assert signalled("0:9:SIGKILL", small(tmp_path / "run.yaml", few))[0] == -signal.SIGKILL
    train(load_config(run, [f"Global.checkpoints={run}"]))
    assert_same_run(run, whole["plain"])


@pytest.fixture(scope="module")
def by_epoch(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run whose rate changes after each epoch."""
    return train(load_config(small(tmp_path_factory.mktemp("by") / "run.yaml", few), BY_EPOCH)).path


BY_EPOCH = ["Optimizer.lr={name: Piecewise, decay_epochs: [1, 2], values: [0.02, 0.01, 0.005], by_epoch: true}"]


def test_the_log_has_the_rate_that_a_step_was_made_with(by_epoch: Path) -> None:
    rates = {e["step"]: e["lr"] for e in log_of(by_epoch, "train")}
    assert [rates[step] for step in (1, 5, 6, 10, 11, 15)] == [0.02, 0.02, 0.01, 0.01, 0.005, 0.005]


@pytest.mark.parametrize("step", [1, 5, 6, 14, 15])
def test_a_run_stopped_right_after_any_step_resumes_exactly(
    step: int, by_epoch: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 15 steps, 5 an epoch: after the last of an epoch, the rate and the evaluation are left to do."""
    taken = 0
    take = Classification.step

    def stop_in(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(*arguments)

    config = load_config(small(tmp_path / "run.yaml", few), BY_EPOCH)
    with monkeypatch.context() as patched:
        patched.setattr(Classification, "step", stop_in)
        with pytest.raises(Stopped) as stopped:
            train(config)
    assert stopped.value.exit_status == 143
    run = tmp_path / "output" / "run"
    assert log_of(run, "stop")[0]["step"] == step
    train(load_config(run, [f"Global.checkpoints={run}"]))
    assert_same_run(run, by_epoch)
    assert (run / "eval" / "metrics.json").read_text() == (by_epoch / "eval" / "metrics.json").read_text()


def test_a_config_of_the_name_that_run_folders_use_is_not_overwritten(few: Path, tmp_path: Path) -> None:
    path = small(tmp_path / "mine" / "config.yaml", few, Global={"iters": 1})
    text = path.read_text()
    run = train(load_config(path, ["Optimizer.lr=0.01"])).path
    assert run == tmp_path / "mine" / "output" / "config"
    assert path.read_text() == text


def test_a_run_of_steps_ends_within_an_epoch(few: Path, tmp_path: Path) -> None:
    run = train(load_config(small(tmp_path / "run.yaml", few, Global={"iters": 7}))).path
    assert log_of(run, "end")[0]["step"] == 7
    assert log_of(run, "eval")[-1]["step"] == 7


@pytest.mark.parametrize("changes", [[], BY_EPOCH], ids=["by step", "by epoch"])
def test_a_run_of_steps_can_be_lengthened_any_number_of_times(
    changes: list[str], few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the images of a run that was as long from the beginning; stopped in between it can be resumed, too."""
    constant = changes or ["Optimizer.lr=0.01"]  # a rate that does not depend on the length
    whole = train(load_config(small(tmp_path / "whole" / "run.yaml", few, Global={"iters": 12}), constant)).path
    run = train(load_config(small(tmp_path / "run.yaml", few, Global={"iters": 3}), constant)).path
    for iters in (7, 12):
        stopped_in_step(1, monkeypatch, load_config(run, [f"Global.checkpoints={run}", f"Global.iters={iters}"]))
        train(load_config(run, [f"Global.checkpoints={run}", f"Global.iters={iters}"]))
    weights, expected = read_weights(run / "last.pdparams"), read_weights(whole / "last.pdparams")
    for name, array in expected.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


def test_a_run_that_is_lengthened_goes_on_at_the_rate_of_its_new_length(few: Path, tmp_path: Path) -> None:
    """Paddle's own cosine would stay at the 0 with which the run had ended."""
    cosine = ["Optimizer.lr={name: Cosine, learning_rate: 0.02}"]
    run = train(load_config(small(tmp_path / "run.yaml", few, Global={"epochs": 1}), cosine)).path
    train(load_config(run, [f"Global.checkpoints={run}", "Global.epochs=2"]))
    rates = {e["step"]: e["lr"] for e in log_of(run, "train")}
    expected = {step: 0.01 * (1 + math.cos(math.pi * (step - 1) / 10)) for step in range(6, 11)}
    assert {step: rates[step] for step in expected} == pytest.approx(expected)


def test_a_metric_that_is_no_number_is_not_the_best(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Classification.evaluate
    results = iter([{}, {"loss": math.nan}])
    monkeypatch.setattr(Classification, "evaluate", lambda *arguments: {**own(*arguments), **next(results)})
    with pytest.raises(CheckFailed, match="loss is nan in the evaluation after epoch 2: training diverged"):
        train(load_config(small(tmp_path / "run.yaml", few)))
    run = tmp_path / "output" / "run"
    assert [e["epoch"] for e in log_of(run, "eval")] == [1]
    assert read_state(run / "latest.safetensors")[1]["position"]["best_epoch"] == 1


def test_an_evaluation_that_fails_is_left_to_do(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last step, with an average: what is saved are the weights of training, and a resume evaluates them."""
    settings = {"Global": {"epochs": 2, "eval_interval": 2}, "EMA": {"decay": 0.9}}
    whole = train(load_config(small(tmp_path / "whole" / "run.yaml", few, **settings), BY_EPOCH)).path

    def fails(*_: Any) -> Any:
        raise UserError("val/03.png: cannot be read")

    config = load_config(small(tmp_path / "run.yaml", few, **settings), BY_EPOCH)
    with monkeypatch.context() as patched:
        patched.setattr(Classification, "evaluate", fails)
        with pytest.raises(UserError, match="cannot be read"):
            train(config)
    run = tmp_path / "output" / "run"
    assert not (run / "last.pdparams").exists()
    train(load_config(run, [f"Global.checkpoints={run}"]))
    assert_same_run(run, whole)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_lets_go_of_its_images(few: Path, tmp_path: Path) -> None:
    """Though nothing collects its objects, which hold each other: a study has many runs in one process."""

    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count("/dev/zero (deleted)")

    gc.collect()
    before = mappings()
    gc.disable()
    try:
        train(load_config(small(tmp_path / "run.yaml", few, Global={"epochs": 2})))
    finally:
        gc.enable()
    assert mappings() == before


def test_a_run_folder_is_not_overwritten(fails: Fails, whole: dict[str, Path]) -> None:
    before = (whole["plain"] / "best.pdparams").read_bytes()
    message = fails("train", "-c", whole["plain"], lines=None)
    assert "already holds a run" in message
    assert "--resume" in message
    assert (whole["plain"] / "best.pdparams").read_bytes() == before


def test_a_job_leaves_the_logs_of_another_run_alone(fails: Fails, whole: dict[str, Path]) -> None:
    """Of one that ended, and of one that is going on and writes them."""
    log = whole["plain"] / "log" / "workerlog.0"
    log.parent.mkdir()
    log.write_text("what it said\n")
    job = ("train", "--nproc", "2")
    try:
        assert "already holds a run" in fails(*job, "-c", whole["plain"], lines=None)
        held = FolderLock(whole["plain"], "run folder")
        held.acquire()
        assert "is still writing there" in fails(*job, "--resume", whole["plain"], lines=None)
        held.release()
        assert log.read_text() == "what it said\n"
    finally:
        shutil.rmtree(log.parent)


def test_resuming_with_another_batch_is_refused(whole: dict[str, Path]) -> None:
    overrides = [f"Global.checkpoints={whole['plain']}", "DataLoader.Train.sampler.batch_size=4"]
    with pytest.raises(UserError, match=r"batch_size 8, this config has 4; .* times --nproc"):
        train(load_config(whole["plain"], overrides))


@pytest.mark.parametrize(
    ("change", "clue"),
    [
        ("Arch.name=PPLCNet_x0_35", "network PPLCNet_x0_25, this config has PPLCNet_x0_35"),
        ("Global.image_shape=[3,64,64]", r"image_shape \[3, 32, 32\], this config has \[3, 64, 64\]"),
    ],
)
def test_resuming_with_another_network_or_size_is_refused(change: str, clue: str, whole: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=clue):
        train(load_config(whole["plain"], [f"Global.checkpoints={whole['plain']}", change]))


def test_a_finished_run_is_left_alone(whole: dict[str, Path]) -> None:
    before = (whole["plain"] / "latest.safetensors").read_bytes()
    train(load_config(whole["plain"], [f"Global.checkpoints={whole['plain']}"]))
    assert (whole["plain"] / "latest.safetensors").read_bytes() == before


STILL = ["Global.freeze=['*.bn']", "Arch.dropout_prob=0.0"]  # nothing depends on what else is in a batch


def test_accumulated_batches_train_as_a_large_one(few: Path, tmp_path: Path) -> None:
    """36 images: batches of 20 and 16, or of five in groups of four, of which the last ends with a single image."""
    runs = []
    for name, batch, freq in (("large", 20, 1), ("parts", 5, 4)):
        overrides = [*STILL, f"DataLoader.Train.sampler.batch_size={batch}", f"Global.update_freq={freq}"]
        overrides += ["Optimizer.lr.base_batch_size=10"]
        runs.append(train(load_config(small(tmp_path / name / "run.yaml", few), overrides)).path)
    large, parts = (read_weights(run / "last") for run in runs)
    for name, weight in large.items():
        np.testing.assert_allclose(parts[name], weight, rtol=1e-4, atol=1e-5, err_msg=name)
    steps = [[(e["step"], e["lr"]) for e in log_of(run, "train")] for run in runs]
    assert steps[0] == steps[1]  # the schedule counts steps, and is for the batch of both
    assert [s for s, _ in steps[0]] == list(range(1, 7))
    losses = [[e["loss"] for e in log_of(run, "train")] for run in runs]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_accumulation_resumes_exactly(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change = {"Global": {"update_freq": 2}}
    whole = train(load_config(small(tmp_path / "whole" / "run.yaml", few, **change))).path
    stopped_in_step(8, monkeypatch, load_config(small(tmp_path / "run.yaml", few, **change)))
    run = tmp_path / "output" / "run"
    assert log_of(run, "stop")[0]["step"] == 5  # both of its batches are done
    with pytest.raises(UserError, match="update_freq 2, this config has None"):
        train(load_config(run, [f"Global.checkpoints={run}", "Global.update_freq=1"]))
    train(load_config(run, [f"Global.checkpoints={run}"]))
    assert_same_run(run, whole)


def stopped_in_step(call: int, monkeypatch: pytest.MonkeyPatch, config: Config) -> None:
    """Train until a SIGTERM in the forward pass number `call`."""
    taken, take = 0, Classification.step

    def stop_in(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Classification, "step", stop_in)
        with pytest.raises(Stopped):
            train(config)


def test_training_stops_when_nothing_gets_better_and_a_resume_agrees(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the head is frozen and the rate is next to nothing: the first evaluation stays the best."""
    overrides = ["Global.freeze=[conv1, 'blocks*', last_conv]", "Optimizer.lr=1e-12", "Optimizer.regularizer=null"]
    overrides += ["Global.epochs=9", "Global.early_stop=2"]
    whole = train(load_config(small(tmp_path / "whole" / "run.yaml", few), overrides)).path
    assert [e["epoch"] for e in log_of(whole, "eval")] == [1, 2, 3]
    assert log_of(whole, "end")[0]["step"] == 15
    assert (whole / "eval" / "metrics.json").is_file()  # that of the last evaluation
    before = (whole / "latest.safetensors").read_bytes()
    train(load_config(whole, [f"Global.checkpoints={whole}"]))
    assert (whole / "latest.safetensors").read_bytes() == before
    stopped_in_step(12, monkeypatch, load_config(small(tmp_path / "run.yaml", few), overrides))
    run = tmp_path / "output" / "run"
    train(load_config(run, [f"Global.checkpoints={run}"]))
    assert_same_run(run, whole)
    with pytest.raises(UserError, match="early_stop: it needs evaluation"):
        train(load_config(small(tmp_path / "a.yaml", few), [*overrides, "Global.eval_during_train=false"]))


def test_frozen_layers_and_their_statistics_stay(few: Path, tmp_path: Path) -> None:
    """Also after an evaluation, which puts the network into eval mode and back."""
    whole = train(load_config(small(tmp_path / "a.yaml", few, Global={"epochs": 2}))).path
    frozen = [f"Global.pretrained_model={whole / 'last'}", "Global.freeze=[conv1, blocks2, 'blocks3.*.dw_conv']"]
    run = train(load_config(small(tmp_path / "b.yaml", few, Global={"epochs": 2}), frozen)).path
    before, after = read_weights(whole / "last"), read_weights(run / "last")
    for name in before:
        inside = name.startswith(("conv1.", "blocks2.")) or (name.startswith("blocks3.") and ".dw_conv." in name)
        assert np.array_equal(before[name], after[name]) == inside, name


def missing(root: Path) -> str:
    (root / "list.txt").write_text("train/red/00.png 0\ntrain/red/nothing.png 1\n")
    return "nothing.png"


def cut_short(root: Path) -> str:
    file = root / "train/red/00.png"
    file.write_bytes(file.read_bytes()[:200])
    (root / "list.txt").write_text("train/red/00.png 0\ntrain/red/01.png 1\n")
    return "00.png"


def wrong_label(root: Path) -> str:
    (root / "list.txt").write_text("train/red/00.png 0\n\ntrain/red/01.png 7\n")
    return "line 3"


def empty(root: Path) -> str:
    (root / "list.txt").write_text("\n")
    return "split is empty"


@pytest.mark.parametrize("spoil", [missing, cut_short, wrong_label, empty])
@pytest.mark.parametrize("split", ["Train", "Eval"])
def test_wrong_data_is_found_before_the_first_step(
    spoil: Callable[[Path], str], split: str, tmp_path: Path, fails: Fails
) -> None:
    data = write_set(tmp_path / "images", train=4, val=3)
    clue = spoil(data)
    (data / "good.txt").write_text(
        "".join(f"train/{c}/03.png {i}\n" for i, c in enumerate(("blue", "green", "red"))) * 4
    )
    config = config_of(data, tmp_path / "output")
    config["Arch"]["class_num"] = 3
    for name, section in config["DataLoader"].items():
        lists = "list.txt" if name == split else "good.txt"
        section["dataset"] |= {"name": "ImageNetDataset", "image_root": ".", "cls_label_path": lists}
    message = fails("train", "-c", write_config(tmp_path / "run.yaml", config), lines=None)
    assert clue in message
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("average", [{}, {"EMA": {"decay": 0.5}}])
def test_a_run_without_evaluation_leaves_its_last_weights(average: dict[str, Any], few: Path, tmp_path: Path) -> None:
    """They are what a run that evaluates would have saved, and what other commands read from the run folder."""
    kept = {}
    for name, evaluates in (("with", True), ("without", False)):
        settings = {"epochs": 2, "eval_during_train": evaluates}
        file = small(tmp_path / name / "run.yaml", few, Global=settings, **average)
        run = train(load_config(file)).path
        kept[name] = read_weights(run / "last")
    assert not (run / "best.pdparams").exists()
    assert load_config(run)["Global"]["pretrained_model"] == str(run / "last.pdparams")
    for name, array in kept["with"].items():
        np.testing.assert_array_equal(array, kept["without"][name], err_msg=name)


def test_the_weights_that_a_stopped_run_started_from_are_not_taken_for_its_own(
    whole: dict[str, Path], few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    start = whole["plain"] / "best.pdparams"
    config = load_config(small(tmp_path / "run.yaml", few), [f"Global.pretrained_model={start}"])
    stopped_in_step(3, monkeypatch, config)
    run = tmp_path / "output" / "run"
    message = fails("export", "-c", run)
    assert "no best.pdparams or last.pdparams in it yet" in message
    assert f"--resume {run}" in message
    assert fails("eval", "-c", run, "-o", "Global.pretrained_model=other").startswith("pplcnet eval: weights other: ")


def test_divergence_is_said_and_nothing_saved_is_lost(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LR_NUMBERS, "learning_rate", (0, 1e31))  # no config may have such a rate
    config = load_config(small(tmp_path / "run.yaml", few), ["Optimizer.lr.learning_rate=1.0e+30"])
    with pytest.raises(CheckFailed, match="diverged"):
        train(config)


def test_fine_tuning_takes_the_trunk_and_a_new_head(whole: dict[str, Path], tmp_path: Path) -> None:
    data = write_set(tmp_path / "images", train=4, val=3)
    for split in ("train", "val"):
        (data / split / "red").rename(data / split / "another")
        (data / split / "green").rename(data / "unused")
        (data / "unused").rename(data / f"unused_{split}")
    start_from = [f"Global.pretrained_model={whole['plain'] / 'best'}"]
    with pytest.raises(UserError, match=r"3 classes, but the model is PPLCNet 0.25x with 2 classes.*new_head"):
        train(load_config(small(tmp_path / "a.yaml", data), start_from))
    frozen = [*start_from, "Global.new_head=True", "Optimizer.lr.learning_rate=1e-12", "Optimizer.regularizer=null"]
    tuned = read_weights(train(load_config(small(tmp_path / "b.yaml", data), frozen)).best)
    source = read_weights(whole["plain"] / "best")
    assert tuned["fc.weight"].shape == (1280, 2)
    trunk = "blocks6.1.pw_conv.conv.weight"
    np.testing.assert_allclose(tuned[trunk], source[trunk], rtol=1e-5)
