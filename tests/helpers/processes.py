"""Commands in processes of their own, alone or as a job of several."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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
