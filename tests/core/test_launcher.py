"""A job says once why it failed, whoever notices first, and passes on what it is sent."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ppcls_ext.core.errors import CheckFailed, PeerLost, UserError
from ppcls_ext.core.launcher import run_job

# Processes of a job that each do what a line of `WHAT` says, and know no Paddle.
RANK = """
import os, signal, sys, time
rank = int(os.environ["PADDLE_TRAINER_ID"])
print("rank", rank, "begins", flush=True)
exec(sys.argv[1 + rank])
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
WAITS = "time.sleep(600)"
LOST = f"print('do: {PeerLost.BEGINNING}', flush=True); sys.exit(1)"


def run(logs: Path, *what: str) -> int:
    script = logs.parent / "rank.py"
    script.write_text(RANK)
    return run_job(len(what), [str(script), *what], logs, "do: ")


@pytest.mark.slow
@pytest.mark.parametrize("other", [WAITS, LOST, f"time.sleep(1); {LOST}"], ids=["later", "before", "at once"])
def test_a_killed_process_is_told_of_once(other: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Slow: Paddle's launcher and two processes."""
    with pytest.raises(CheckFailed, match=r"one that is killed.*logs.*--resume"):
        run(tmp_path / "logs", other, KILLED)
    assert capfd.readouterr().err.splitlines() == ["rank 0 begins"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "status", "failure"), [(WAITS, 2, UserError), (LOST, 1, CheckFailed)], ids=["input", "check"]
)
def test_the_reason_of_one_process_is_that_of_the_job(
    other: str, status: int, failure: type[Exception], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Slow: Paddle's launcher and two processes."""
    said = repr(str(tmp_path / "said"))  # is there once rank 1 has said its reason, before which nobody can lose it
    waits = f"while not os.path.exists({said}): time.sleep(0.02)\n{other}"
    with pytest.raises(failure, match=r"^no such image$"):
        run(tmp_path / "logs", waits, f"print('do: no such image', flush=True); open({said}, 'w'); sys.exit({status})")
    assert capfd.readouterr().err.splitlines() == ["rank 0 begins"]


@pytest.mark.slow
def test_a_signal_reaches_the_processes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Slow: Paddle's launcher and two processes."""
    saves = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved', flush=True)));"
    ready = tmp_path / "ready"  # is there once rank 0 is prepared for the signal
    asks = f"while not os.path.exists({str(ready)!r}): time.sleep(0.02)\nos.kill({os.getpid()}, signal.SIGTERM);"
    ranks = (f"{saves} open({str(ready)!r}, 'w').close(); {WAITS}", f"{saves}\n{asks} {WAITS}")
    assert run(tmp_path / "logs", *ranks) == 128 + signal.SIGTERM
    assert capfd.readouterr().err.splitlines() == ["rank 0 begins", "saved"]
