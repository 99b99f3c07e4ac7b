"""Fixtures that several packages' tests share."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

# Kernels of one thread, since others may add up in another order; Paddle reads it while it is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import ppcls_ext  # noqa: F401  (before Paddle, whose warnings it silences)
from ppcls_ext.cli.main import main
from ppcls_ext.core.device import usable_cores
from ppcls_ext.training.trainer import Trainer
from tests.helpers.configs import config_of, overrides, write_config
from tests.helpers.exports import classifier, detector, segmenter
from tests.helpers.sets import write_set

MOST_WORKERS = 4


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of `-n auto`: a worker for each core that this process may use, each of which takes a gigabyte or two."""
    return min(usable_cores(), MOST_WORKERS)


PROCESS_EVENTS = {"subprocess.Popen", "os.fork", "os.posix_spawn"}
_fast_test = ""  # under way, or none
refused: list[str] = []  # what that test may not do, and has tried


def _refuse(what: str) -> None:
    if _fast_test:
        refused.append(f"{_fast_test} {what}: mark it slow, since `make test-fast` takes no such test")
        pytest.fail(refused[-1])  # no Exception, which the package would take for a failure of the network


def _refuse_processes(event: str, arguments: tuple[object, ...]) -> None:
    if event in PROCESS_EVENTS:
        _refuse("starts a process")


sys.addaudithook(_refuse_processes)


@pytest.fixture(scope="session", autouse=True)
def no_training_in_fast_tests() -> Iterator[None]:
    """Training in a test that is not marked slow fails; so does a process that it starts (see `_refuse_processes`)."""
    fit = Trainer.fit

    def guarded(trainer: Trainer) -> dict[str, float]:
        _refuse("trains")
        return fit(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", guarded)
        yield


@pytest.fixture(autouse=True)
def nothing_was_refused() -> Iterator[None]:
    """Also what was refused in another thread, or caught, fails the test."""
    yield
    if refused:
        text = refused[0]
        refused.clear()
        pytest.fail(text)


@pytest.fixture(scope="module", autouse=True)
def freed_memory_is_given_back() -> Iterator[None]:
    """Training and engines have this process keep what they free, a gigabyte or more, which each fork has to copy."""
    yield
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    global _fast_test
    _fast_test = "" if item.get_closest_marker("slow") else item.name
    try:
        return (yield)
    finally:
        _fast_test = ""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_set(tmp_path / "images", train=4, val=3)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` has filled; all workers have the same, and the first that needs it makes it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = factory.mktemp(name)
        make(folder)
        return folder
    folder = factory.getbasetemp().parent / name
    with open(f"{folder}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.getsize(lock.name):
            shutil.rmtree(folder, ignore_errors=True)  # what a worker left that failed
            folder.mkdir()
            make(folder)
            lock.write("made")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: 96 training and 15 evaluation images of three classes."""
    return made_once(tmp_path_factory, "data", lambda folder: write_set(folder / "images")) / "images"


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: 36 training and 9 evaluation images of the same classes, for what need not learn."""
    return made_once(tmp_path_factory, "few", lambda folder: write_set(folder / "images", train=12, val=3)) / "images"


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of `easy.yaml`, trained on `data` without a stop, with VisualDL. Read only."""

    def make(folder: Path) -> None:
        config = config_of(data, folder / "output")
        config["Global"] |= {"use_visualdl": True, "epochs": 14}
        config["DataLoader"]["Train"]["sampler"]["batch_size"] = 16
        config["Optimizer"]["lr"]["learning_rate"] = 0.02
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert main(["train", "-c", str(write_config(folder / "easy.yaml", config))]) == 0

    return made_once(tmp_path_factory, "trained", make) / "output" / "easy"


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`trained` exported in all formats. Read only."""

    def make(folder: Path) -> None:
        place = overrides(f"Global.save_inference_dir={folder / 'inference'}")
        assert main(["export", "-c", str(trained), *place]) == 0

    return made_once(tmp_path_factory, "exported", make) / "inference"


@pytest.fixture(scope="session")
def exports(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained export of each task, by its name. Read only."""

    def make(folder: Path) -> None:
        classifier(folder / "cls", data)
        detector(folder / "det")
        segmenter(folder / "seg")

    folder = made_once(tmp_path_factory, "exports", make)
    names = {"classification": "cls", "detection": "det", "segmentation": "seg"}
    return {task: folder / name / "inference" for task, name in names.items()}


@pytest.fixture
def fails(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail: gives its message, which is the last line of stderr and the only one about it."""

    def run(*arguments: str | Path, status: int = 2, lines: int | None = 1) -> str:
        capfd.readouterr()
        assert main([str(a) for a in arguments]) == status
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        written = [line for line in err.splitlines() if line.strip()]
        assert lines is None or len(written) == lines, err
        assert written[-1].startswith(f"pplcnet {arguments[0]}: "), err
        return written[-1]

    return run
