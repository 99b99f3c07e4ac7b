"""An engine in a process of its own, seen from outside: commands in, values or a one-line reason out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

from ppcls_ext.core.device import environment_of_engines

ANSWER_SECONDS = 600.0  # an engine that takes longer for one command hangs


class EngineFailed(Exception):
    """An engine cannot run a model, hangs, or has crashed; the message is one line."""


class EngineProcess:
    """A process that obeys a `ppcls_ext.runtime.worker.Worker`.

    Args:
        threads: of the CPU, for libraries that read them from the environment.
        worker: module whose worker it runs.
        pin: cores to bind it to; empty leaves it free.
        verbose: oneDNN prints every operator that it runs; see `output`.
        seconds: within which a command has to be answered.

    Raises EngineFailed whenever the engine fails, hangs or crashes.
    """

    def __init__(
        self,
        threads: int,
        worker: str = "ppcls_ext.runtime.worker",
        pin: Sequence[int] = (),
        verbose: bool = False,
        seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._seconds = seconds
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in close
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in close
        self._scratch = tempfile.TemporaryDirectory(prefix="pplcnet-", ignore_cleanup_errors=True)
        ours, theirs = Pipe()
        self._pipe = ours
        package = str(Path(__file__).resolve().parents[2])  # found also where it is not installed
        environment = {
            **environment_of_engines(),
            "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": str(threads),
            "GLOG_minloglevel": "2",
            "TMPDIR": self._scratch.name,  # a process that crashes leaves nothing behind
            "ONEDNN_VERBOSE": "1" if verbose else "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", worker, str(theirs.fileno()), ",".join(map(str, pin))],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._errors,
            env=environment,
        )
        theirs.close()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Send a command with its keyword arguments; gives the value that the worker answers with."""
        try:
            self._pipe.send((command, arguments))
            if not self._pipe.poll(self._seconds):
                raise EngineFailed(f"no answer within {self._seconds:.0f} s")
            status, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise EngineFailed(self._ending()) from error
        if status == "failed":
            raise EngineFailed(value)
        return value

    def _ending(self) -> str:
        """How the process has ended, with the line of its stderr that says most."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        telling = [line for line in lines if "Error" in line or "not support" in line]
        if code < 0:
            crash = f"crashed with {signal.Signals(-code).name}"
            return crash + (f" ({telling[-1][:200]})" if telling else "")
        return f"ended with exit status {code}" + (f" ({(telling or lines)[-1][:200]})" if lines else "")

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def output(self) -> str:
        """What the process has written on stdout."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._errors.close()
        self._scratch.cleanup()
