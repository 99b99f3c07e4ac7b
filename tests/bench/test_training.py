"""`ppcls_ext.bench.training`."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ppcls_ext.bench import training
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.spec import SPECS


def test_layers_for_pytorch_are_those_of_the_network() -> None:
    layers = training.layers_of(SPECS["PPLCNet_x0_5"])
    assert [layer["kind"] for layer in layers].count("block") == 27
    assert [layer["kind"] for layer in layers].count("se") == 2
    assert layers[-1] == {"kind": "head", "channels": 256, "out": 1280}
    assert all(one["out"] == other["channels"] for one, other in itertools.pairwise(layers))


def test_the_report_compares_each_with_the_first() -> None:
    first, other = (training.Trainee(name, "", {}) for name in ("a", "b"))
    first.rounds, other.rounds = [[0.5, 0.5], [0.4, 0.4]], [[1.0, 1.0], [0.8, 0.8]]
    rows = training.report([first, other], batch=32)
    assert rows[0]["first_is_faster"]["ratio"] == 1
    assert rows[1]["first_is_faster"]["ratio"] == pytest.approx(2)
    assert (rows[1]["least"], rows[1]["most"]) == (32, 40)


@pytest.mark.slow  # one of them tries to start a process
@pytest.mark.parametrize(
    ("arguments", "clue"),
    [
        (["--rounds", "0"], "--rounds 0: expected 1 or more"),
        (["--batch", "-1"], "--batch -1: expected 1 or more"),
        (["--other-threads", "0"], "numbers of threads"),
        (["--processor-time", "--other-threads", "2"], "cannot compare numbers of them"),
        (["--torch-python", "/nowhere/python"], "--torch-python /nowhere/python: No such file"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], clue: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(arguments) == UserError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert clue in line


@pytest.mark.slow
def test_what_cannot_be_had_is_left_out() -> None:
    names = [c.name for c in training.trainees("PPLCNet_x0_25", 1, 2, 32, "/bin/false")]
    assert names == ["pplcnet", "pplcnet, Global.fast_cpu=false"]


@pytest.mark.slow
def test_a_trainee_that_dies_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    broken = training.Trainee("broken", sys.executable, {"network": "PPLCNet_x9"})
    with pytest.raises(UserError, match="broken: its process ended with status 1"):
        broken.turn(1)
    assert "KeyError" in capfd.readouterr().err


@pytest.mark.slow
def test_a_trainee_that_died_before_its_turn_is_named() -> None:
    """Slow: it starts a process."""
    gone = training.Trainee("gone", sys.executable, {})
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    gone.process = subprocess.Popen([sys.executable, "-c", "exit(3)"], text=True, **pipes)
    gone.process.wait()
    with pytest.raises(UserError, match="gone: its process ended with status 3"):
        gone.turn(1)
    gone.close()


def test_a_trainee_that_dies_is_one_line_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def dies(trainee: training.Trainee, steps: int) -> list[float]:
        raise UserError(f"{trainee.name}: its process ended")

    monkeypatch.setattr(training.Trainee, "turn", dies)
    assert training.main(["--other-threads", "2"]) == 2
    assert capfd.readouterr().err == "training: pplcnet: its process ended\n"


@pytest.mark.slow
def test_the_command_measures(tmp_path: Path) -> None:
    """Two processes that import Paddle: 10 s."""
    small = ["--network", "PPLCNet_x0_25", "--batch", "2", "--size", "32", "--rounds", "2", "--steps", "1"]
    training.main([*small, "--processor-time", "--torch-python", "/bin/false", "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["name"] for row in found["results"]] == ["pplcnet", "pplcnet, Global.fast_cpu=false"]
    assert all(row["images_per_s"] > 0 and row["peak_mb"] > 0 for row in found["results"])


@pytest.mark.slow
def test_it_compares_with_itself_on_other_threads_beside_busy_processes() -> None:
    names = [c.name for c in training.trainees("PPLCNet_x0_25", 1, 2, 32, "/bin/false", other_threads=[2])]
    assert names == ["pplcnet", "pplcnet, 2 threads"]
    before = set(psutil.Process().children())  # other tests may have left helpers of Python's own
    with training.busy_processes(1):
        (busy,) = set(psutil.Process().children()) - before
    assert not busy.is_running()
