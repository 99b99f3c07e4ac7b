"""Several processes train as one does: the same images a step, the same curve, one that saves, one clear end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_ext.cli import train as train_command
from ppcls_ext.cli.main import main
from ppcls_ext.core import distributed
from ppcls_ext.core.config import load_config
from ppcls_ext.core.distributed import share
from ppcls_ext.core.errors import PeerLost, UserError
from ppcls_ext.data.loader import Loader, Sampler, Workers
from ppcls_ext.models.weights import read_weights
from ppcls_ext.training.state import read_state
from ppcls_ext.training.trainer import train
from tests.helpers.configs import config_of, write_config
from tests.helpers.loaders import Draws, batches, stack
from tests.helpers.processes import CUT_BATCHES, ROOT, SECONDS, launched, ran, wait_until
from tests.helpers.runs import assert_same_curve, cut_alone, log_of
from tests.helpers.sets import write_set


def parts_of(count: int, batch: int, parts: int, **sampler: Any) -> list[Loader]:
    settings = Sampler(batch_size=batch, shuffle=True, **sampler)
    return [Loader(Draws(count), settings, Workers(num_workers=0), stack, 5, part, parts) for part in range(parts)]


@pytest.mark.parametrize(("count", "parts"), [(24, 2), (23, 2), (22, 3), (25, 4)])
def test_processes_share_the_batches_of_one(count: int, parts: int) -> None:
    (whole,) = parts_of(count, 12, 1)
    loaders = parts_of(count, 12 // parts, parts)
    assert {len(loader) for loader in loaders} == {len(whole)}
    for epoch in (0, 1):
        shares = [batches(loader, epoch) for loader in loaders]
        for number, batch in enumerate(batches(whole, epoch)):
            together = np.concatenate([own[number] for own in shares if number < len(own)])
            np.testing.assert_array_equal(together, batch)


def test_shares_are_even_and_complete() -> None:
    for count in range(9):
        shares = [share(count, part, 4) for part in range(4)]
        assert [i for own in shares for i in own] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_last_batch_that_leaves_a_process_without_images_is_refused_for_training() -> None:
    for loader in parts_of(25, 4, 3):
        with pytest.raises(UserError, match=r"last batch of an epoch has 1 images for 3 processes.*drop_last"):
            loader.check_shares()
    for loader in [*parts_of(25, 4, 3, drop_last=True), *parts_of(27, 4, 3)]:
        loader.check_shares()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 images to train on and 7 to evaluate on: no batch size below divides them."""
    root = write_set(tmp_path_factory.mktemp("odd") / "images", train=5, val=3)
    for name in ("red/02.png", "green/02.png"):
        (root / "val" / name).unlink()
    return root


def settle(odd: Path, output: Path, name: str, weights: Path, batch: int, epochs: int) -> Path:
    """A config that goes on from trained weights."""
    config = config_of(odd, output)
    config["Global"] |= {"epochs": epochs, "pretrained_model": str(weights), "threads": 1, "eval_interval": 2}
    config["Optimizer"]["lr"] |= {"warmup_epoch": 0, "learning_rate": 0.0005, "base_batch_size": 4}
    config["DataLoader"]["Train"]["sampler"]["batch_size"] = batch
    config["DataLoader"]["Eval"]["sampler"]["batch_size"] = batch
    return write_config(output / f"{name}.yaml", config)


EPOCHS = 6


@pytest.fixture(scope="module")
def alone(odd: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone")
    config = settle(odd, output, "one", trained / "best.pdparams", 4, EPOCHS)
    cut_alone(["train", "-c", str(config)], output / "stderr.txt")
    return output / "one"


@pytest.mark.slow
def test_two_processes_with_half_the_batch_give_the_curve_of_one(
    alone: Path, odd: Path, trained: Path, tmp_path: Path
) -> None:
    """Slow: a job of two processes beside a run of one."""
    config = settle(odd, tmp_path, "two", trained / "best.pdparams", 2, EPOCHS)
    done = ran(launched(2, tmp_path / "log", CUT_BATCHES, "train", "-c", config))
    assert "2 processes, a batch of 4 in all" in done.stdout
    assert "learning rate 0.0005: 0.0005 for a batch of 4, scaled to 4" in done.stdout
    assert_same_curve(tmp_path / "two", alone)
    said = (tmp_path / "log" / "workerlog.1").read_text()
    assert "epoch" not in said  # one process speaks
    lines = [(e["event"], e["step"]) for e in log_of(tmp_path / "two")]
    assert len(lines) == len(set(lines))  # and logs


def pid_of(rank: int, launcher: int) -> int | None:
    """The process of that number which a launcher has started, if it has by now."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        with contextlib.suppress(OSError):  # it ended in the meantime
            if f"PADDLE_TRAINER_ID={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                return int(child)
    return None


def errors_in(file: Path) -> list[str]:
    """The lines of a log or of an output with which a command of ours fails."""
    assert "Traceback" not in file.read_text()
    return [line for line in file.read_text().splitlines() if line.startswith("pplcnet train: ")]


def test_who_lost_a_peer_says_so_and_waits_for_the_launcher(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The launcher shows twice what has ended before it does."""

    def lost(_: object) -> int:
        raise PeerLost("gone")

    said: list[str] = []
    monkeypatch.setattr(train_command, "run", lost)
    monkeypatch.setattr(distributed, "wait_for_launcher", lambda: said.append(capfd.readouterr().err))
    assert main(["train", "-c", "my_images"]) == PeerLost.exit_status
    assert said == ["pplcnet train: gone\n"]


Job = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def job(odd: Path, trained: Path, tmp_path: Path) -> Iterator[Job]:
    """Starts the training of `alone` in two processes, which send themselves `SIGNALS` (see `signals.py`).

    What the job says goes to `output.txt`, the processes' logs to `log`, the run to `run`.
    """
    config = settle(odd, tmp_path, "run", trained / "best.pdparams", 2, EPOCHS)
    line = launched(2, tmp_path / "log", CUT_BATCHES, "train", "-c", config)
    with contextlib.ExitStack() as started:

        def start(signals: str) -> subprocess.Popen[bytes]:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "SIGNALS": signals}
            output = started.enter_context((tmp_path / "output.txt").open("w"))
            launcher = subprocess.Popen(line, stdout=output, stderr=subprocess.STDOUT, env=environment)
            started.callback(end, launcher)
            return launcher

        yield start


def end(launcher: subprocess.Popen[bytes]) -> None:
    """End a launcher whatever state it is in; it ends its processes."""
    launcher.send_signal(signal.SIGCONT)
    launcher.terminate()
    launcher.wait(SECONDS)


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_one_process_goes_on_from_what_was_saved(
    job: Job, alone: Path, tmp_path: Path
) -> None:
    """The other one finds out before the launcher does. Slow: a job of two processes, and the one that goes on."""
    launcher = job("1:10:SIGKILL")
    wait_until(lambda: pid_of(1, launcher.pid))
    launcher.send_signal(signal.SIGSTOP)
    log = tmp_path / "log" / "workerlog.0"
    wait_until(lambda: log.exists() and errors_in(log))
    launcher.send_signal(signal.SIGCONT)
    assert launcher.wait(SECONDS) != 0
    (message,) = errors_in(tmp_path / "output.txt")
    assert "another process of this job ended" in message
    assert "--resume" in message
    _, info = read_state(tmp_path / "run" / "latest.safetensors")
    assert info["position"]["epoch"] == 2
    resume = ["train", "--resume", str(tmp_path / "run"), "-o", "DataLoader.Train.sampler.batch_size=4"]
    cut_alone(resume, tmp_path / "stderr.txt")
    assert_same_curve(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_process_that_the_launcher_ends_for_a_killed_one_says_why_in_its_log(job: Job, tmp_path: Path) -> None:
    """The launcher finds out before the other process does. Slow: a job of two processes."""
    launcher = job("1:10:SIGKILL,0:10:SIGSTOP")
    output = tmp_path / "output.txt"
    wait_until(lambda: pid_of(0, launcher.pid))
    other = pid_of(0, launcher.pid)
    wait_until(lambda: "Container failed" in output.read_text())
    os.kill(other, signal.SIGCONT)
    assert launcher.wait(SECONDS) != 0
    (message,) = errors_in(tmp_path / "log" / "workerlog.0")
    assert "another process of this job ended" in message
    assert errors_in(output) == []  # the launcher, which names the process that was killed, follows no log any more


@pytest.mark.slow
def test_running_statistics_are_the_mean_over_processes(odd: Path, tmp_path: Path) -> None:
    """Of the first layer, whose input does not depend on other statistics, that is the mean of the whole batch.

    Slow: a job of two processes.
    """
    # One step of the same batch, with the layers as they are.
    first = {}
    for processes, batch in ((1, 8), (2, 4)):
        name = f"run{processes}"
        config = config_of(odd, tmp_path)
        config["Global"] |= {"iters": 1, "threads": 1, "eval_during_train": False, "check_seconds": 0}
        config["Optimizer"]["lr"]["warmup_epoch"] = 0
        config["DataLoader"]["Train"]["sampler"]["batch_size"] = batch
        path = write_config(tmp_path / f"{name}.yaml", config)
        if processes == 1:
            train(load_config(path))
        else:
            ran(launched(2, tmp_path / "log", ROOT / "tools" / "train.py", "-c", path))
        first[processes] = read_weights(tmp_path / name / "latest.safetensors")
    one, two = ({key: w[f"conv1.bn.{key}"] for key in ("_mean", "_variance")} for w in (first[1], first[2]))
    np.testing.assert_allclose(two["_mean"], one["_mean"], rtol=1e-4, atol=1e-6)
    # The means of the halves differ: what is left of the variance is less, and here not much.
    assert (two["_variance"] < one["_variance"]).mean() > 0.9
    np.testing.assert_allclose(two["_variance"], one["_variance"], rtol=0.1)


@pytest.mark.slow
def test_what_one_process_cannot_read_ends_all_with_its_reason(odd: Path, tmp_path: Path) -> None:
    """Slow: a job of two processes."""
    data = write_set(tmp_path / "images", train=5, val=3)
    config = config_of(data, tmp_path)
    config["Global"] |= {"threads": 1, "check_seconds": 0, "eval_during_train": False}
    config["DataLoader"]["Train"]["sampler"] |= {"batch_size": 7, "shuffle": False, "drop_last": True}
    broken = data / "train" / "red" / "03.png"  # the second of the two processes reads it
    broken.write_bytes(broken.read_bytes()[:200])
    path = write_config(tmp_path / "run.yaml", config)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = launched(2, tmp_path / "log", ROOT / "tools" / "train.py", "-c", path)
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    assert done.returncode != 0
    for number in (0, 1):
        said = (tmp_path / "log" / f"workerlog.{number}").read_text()
        assert "Traceback" not in said
        assert said.splitlines()[-1].startswith("pplcnet train: image ")
        assert "03.png" in said
