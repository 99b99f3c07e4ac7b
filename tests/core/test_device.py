"""Training takes the cores that other processes leave free."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import pytest

from ppcls_ext.cli import train
from ppcls_ext.core import device
from ppcls_ext.core.config import LATEST_STATE, Config, dump_config, load_config
from ppcls_ext.core.cpu import Busy
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.run_folder import RunFolder
from ppcls_ext.upstream import paddle as paddle_module


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "PADDLE_LOCAL_SIZE", "PADDLE_TRAINERS_NUM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device, "LOOK_S", 0.0)


def machine_of(monkeypatch: pytest.MonkeyPatch, cores: int, usable: int, busy: float) -> None:
    class Others:
        def busy(self) -> Busy:
            return Busy(others=busy, stolen=0.0)

    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr(device, "usable_cpus", lambda: list(range(usable)))
    monkeypatch.setattr(device, "cores_left", lambda: float(usable))
    monkeypatch.setattr(device, "Watch", Others)


@pytest.mark.parametrize(
    ("cores", "usable", "busy", "free"),
    [
        (2, 2, 0.1, 2),
        (2, 2, 0.7, 2),
        (2, 2, 0.8, 1),
        (2, 2, 1.9, 1),
        (2, 2, 7.0, 1),
        (64, 4, 3.0, 4),
        (64, 4, 62.0, 2),
        (64, 1, 63.0, 1),
    ],
)
def test_cores_that_others_use_are_left_to_them(
    monkeypatch: pytest.MonkeyPatch, cores: int, usable: int, busy: float, free: int
) -> None:
    machine_of(monkeypatch, cores, usable, busy)
    assert device.free_cores() == free


def test_processes_of_one_job_are_not_each_others_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_of(monkeypatch, 4, 4, 2.0)
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", "2")
    assert device.free_cores() == 2  # its share


def test_the_threads_of_kernels_are_those_that_paddle_was_imported_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "paddle" in sys.modules
    assert device.set_threads(2) == 3
    assert device.kernel_threads() == 3


def test_what_an_engine_has_set_is_nobodys_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "usable_cpus", lambda: list(range(4)))
    monkeypatch.setattr(device, "cores_left", lambda: 4.0)
    monkeypatch.setitem(paddle_module._OVERWRITTEN, "1", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as `Predictor(folder, threads=1)` leaves it
    assert (device.cpu_threads(), device.kernel_threads()) == (4, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # by the caller, since then
    assert device.cpu_threads() == 3


@pytest.mark.parametrize(
    ("override", "environment", "threads", "said"),
    [
        ([], {}, 1, True),
        (["Global.threads=2"], {}, 2, False),
        ([], {"OMP_NUM_THREADS": "2"}, 2, False),
        (["Global.threads=1"], {"OMP_NUM_THREADS": "2"}, 1, False),
        ([], {"OMP_NUM_THREADS": "1", "PADDLE_LOCAL_SIZE": "1"}, 2, False),
    ],
    ids=["neither says", "the config says", "the environment says", "both say", "a launcher says"],
)
def test_training_takes_free_cores_unless_a_number_is_given(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    images: Path,
    override: list[str],
    environment: dict[str, str],
    threads: int,
    said: bool,
) -> None:
    machine_of(monkeypatch, 2, 2, 1.0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked: list[int | None] = []
    monkeypatch.setattr(train, "set_threads", asked.append)
    kept: list[int | None] = []
    monkeypatch.setattr(train, "_profile", lambda _, config: kept.append(config.global_section.threads) or 0)
    given = argparse.Namespace(
        config="my_images", resume=None, override=[f"Global.data_root={images}", *override], profile=1, nproc=1
    )
    assert train.run(given) == 0
    assert asked == [threads]
    assert ("1 of 2 cores are free" in capfd.readouterr().err) == said
    assert kept == [threads]  # by the run, which a resume goes on with


def test_a_resume_takes_as_many_threads_as_its_run(
    monkeypatch: pytest.MonkeyPatch, images: Path, tmp_path: Path
) -> None:
    trained: list[Config] = []
    monkeypatch.setattr("ppcls_ext.training.trainer.train", trained.append)
    monkeypatch.setattr(train, "set_threads", lambda threads: None)
    machine_of(monkeypatch, 2, 2, 1.0)
    settings = [f"Global.data_root={images}", f"Global.output_dir={tmp_path}"]
    first = argparse.Namespace(config="my_images", resume=None, override=settings, profile=0, nproc=1)
    assert train.run(first) == 0
    run = RunFolder.of(trained[0])
    run.path.mkdir()
    (run.path / "config.yaml").write_text(dump_config(trained[0]))
    machine_of(monkeypatch, 4, 4, 0.0)  # other processes have ended
    again = argparse.Namespace(config=None, resume=str(run.path), override=[], profile=0, nproc=1)
    (run.path / LATEST_STATE).touch()
    assert train.run(again) == 0
    assert [config.global_section.threads for config in trained] == [1, 1]


ONE, TWO = {"processes": 1, "usable_cores": 2}, {"processes": 2, "usable_cores": 1}


@pytest.mark.parametrize(
    ("run", "processes", "own", "threads"),
    [
        (ONE, 2, None, 1),  # two processes of two threads would want four cores
        (TWO, 1, None, 4),
        (ONE, 1, None, 2),
        ({**TWO, "usable_cores": 2}, 2, None, 2),  # asked for at its start: a resume is exact with that number alone
        (ONE, 2, 2, 2),
        ({}, 2, None, 2),
        ([], 2, None, 2),
        ({**ONE, "usable_cores": "2"}, 2, None, 2),
    ],
)
def test_the_threads_of_a_run_are_shared_by_another_number_of_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: object, processes: int, own: int | None, threads: int,
    images: Path, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    machine_of(monkeypatch, 2, 2, 0.0)
    if processes > 1:
        monkeypatch.setenv("PADDLE_LOCAL_SIZE", str(processes))
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", str(processes))
    config = load_config("my_images", [f"Global.data_root={images}", "Global.threads=2"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    (tmp_path / "environment.json").write_text(json.dumps(run))
    (tmp_path / LATEST_STATE).touch()
    trained: list[Config] = []
    asked: list[int | None] = []
    monkeypatch.setattr("ppcls_ext.training.trainer.train", trained.append)
    monkeypatch.setattr(train, "set_threads", asked.append)
    override = [] if own is None else [f"Global.threads={own}"]
    assert train.run(argparse.Namespace(config=None, resume=str(tmp_path), override=override, profile=0, nproc=1)) == 0
    assert asked == [trained[0].global_section.threads] == [threads]
    assert ("as large a share of the cores" in capfd.readouterr().err) == (threads != 2)


@pytest.mark.parametrize("users", [None, "passive", "active"])
def test_engines_in_processes_of_their_own_wait_as_the_user_says(
    monkeypatch: pytest.MonkeyPatch, users: str | None
) -> None:
    """Training has threads that sleep, which makes calls of small networks on two threads slower than on one."""
    monkeypatch.setattr(device, "_own_policy", {})
    monkeypatch.setenv(device.WAIT_POLICY, "")  # so that what is set below goes again
    monkeypatch.delenv(device.WAIT_POLICY)
    if users is not None:
        monkeypatch.setenv(device.WAIT_POLICY, users)
    device.set_threads(2)
    assert os.environ[device.WAIT_POLICY] == (users or "passive")
    assert device.environment_of_engines().get(device.WAIT_POLICY) == users


@pytest.mark.parametrize("given", ["abc", "0", "-1", "", "2.5", "²"])
@pytest.mark.parametrize("name", ["PADDLE_LOCAL_SIZE", "PADDLE_TRAINERS_NUM"])
def test_what_the_launcher_does_not_write_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, given: str) -> None:
    monkeypatch.setenv(name, given)
    with pytest.raises(UserError, match=f"{name}={given}: .*; unset it"):
        device.processes_of_job(name)
