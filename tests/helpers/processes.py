"""Commands in processes of their own, alone or as a job of several."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CUT_BATCHES = ROOT / "tests" / "helpers" / "cut_batches.py"
SIGNALS = ROOT / "tests" / "helpers" / "signals.py"
SECONDS = 600  # far more than any command of these tests takes, on a busy machine too


def wait_until(happened: Callable[[], object]) -> None:
    """Wait for something that another process does; fails where it does not come within `SECONDS`."""
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"nothing happened in {SECONDS} seconds"
        time.sleep(0.02)


def python_run(code: str, *options: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """A program in a Python of its own, with options of Python and an argument."""
    line = [sys.executable, *options, "-c", code, given]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)


def command(*arguments: str | Path, cwd: Path | None = None, check: bool = False) -> subprocess.CompletedProcess[str]:
    """`pplcnet ...` in a process of its own."""
    line = [sys.executable, "-m", "ppcls_ext.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, cwd=cwd, env=environment, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def forked(line: Sequence[str | Path], errors: Path, around: contextlib.AbstractContextManager[object]) -> int:
    """Start `pplcnet ...` in a copy of this process; gives its id.

    A copy has imported everything already, which takes longer than what most tests run in a process of its own. It
    has a session of its own, so that a signal to its group reaches nobody else.
    Args:
        errors: its stderr is added to this file.
        around: the command runs inside it.
    """
    from ppcls_ext.cli.main import main

    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        sys.stdout, sys.stderr = open(os.devnull, "w"), open(errors, "a", buffering=1)  # noqa: SIM115
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        with around:
            status = main([str(part) for part in line])
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def forked_to_its_end(
    line: Sequence[str | Path], errors: Path, around: contextlib.AbstractContextManager[object] | None = None
) -> int:
    """Run `pplcnet ...` as `forked` does; gives its exit status, below zero the signal that ended it."""
    child = forked(line, errors, around or contextlib.nullcontext())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


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
