"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Kernels of one thread: other numbers of them may add up in another order."""
    os.environ["OMP_NUM_THREADS"] = "1"


PROCESS_EVENTS = {"subprocess.Popen", "os.fork", "os.posix_spawn"}
_fast_test = ""  # under way, or none


def _refuse(what: str) -> None:
    if _fast_test:
        raise AssertionError(f"{_fast_test} {what}: mark it slow, since `make test-fast` takes no such test")


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


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: 96 training and 15 evaluation images of three classes."""
    return write_set(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of `easy.yaml`, trained on `data` without a stop, with VisualDL. Read only."""
    folder = tmp_path_factory.mktemp("trained")
    config = config_of(data, folder / "output")
    config["Global"] |= {"use_visualdl": True, "epochs": 14}
    config["DataLoader"]["Train"]["sampler"]["batch_size"] = 16
    config["Optimizer"]["lr"]["learning_rate"] = 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["train", "-c", str(write_config(folder / "easy.yaml", config))]) == 0
    return folder / "output" / "easy"


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`trained` exported in both formats. Read only."""
    folder = tmp_path_factory.mktemp("exported") / "inference"
    assert main(["export", "-c", str(trained), *overrides(f"Global.save_inference_dir={folder}")]) == 0
    return folder


@pytest.fixture(scope="session")
def exports(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained export of each task, by its name. Read only."""
    folder = tmp_path_factory.mktemp("exports")
    return {
        "classification": classifier(folder / "cls", data),
        "detection": detector(folder / "det"),
        "segmentation": segmenter(folder / "seg"),
    }


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
