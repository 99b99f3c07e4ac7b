"""Does an exported model give dygraph's output on each engine? Each engine runs in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppcls_ext.runtime.engine import read_arrays, write_arrays

Arrays = list[np.ndarray]
SECONDS = 300  # an engine that takes longer for a handful of inputs hangs


@dataclass(frozen=True)
class Parity:
    """The outcome for one engine on one format."""

    model_format: str
    engine: str
    difference: float | None  # None: it did not run
    reason: str  # why it did not run, else empty

    def holds(self, tolerance: float) -> bool:
        return self.difference is not None and self.difference <= tolerance


def worse(a: Parity, b: Parity) -> Parity:
    """The one of two outcomes on the same engine that is further from what it should be."""
    if a.difference is None or b.difference is None:
        return a if a.difference is None else b
    return max(a, b, key=lambda outcome: outcome.difference or 0.0)


def check_parity(
    folder: Path,
    model_format: str,
    engine: str,
    batches: Sequence[Arrays],
    expected: Sequence[Arrays],
    compare: Callable[[Arrays, Arrays], float],
) -> Parity:
    """Run `batches` through an engine and measure the worst difference from `expected`."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        write_arrays(work / "inputs.npz", batches)
        job = {
            "folder": str(folder.resolve()),
            "engine": engine,
            "format": model_format,
            "threads": 1,
            "inputs": str(work / "inputs.npz"),
            "outputs": str(work / "outputs.npz"),
        }
        (work / "job.json").write_text(json.dumps(job))
        command = [sys.executable, "-m", "ppcls_ext.runtime.engine", str(work / "job.json")]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=work, env=_environment()
            )
        except subprocess.TimeoutExpired:
            return Parity(model_format, engine, None, f"no answer within {SECONDS} s")
        if done.returncode != 0:
            return Parity(model_format, engine, None, _reason(done))
        found = read_arrays(work / "outputs.npz")
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            if not np.isfinite(a).all():
                return Parity(model_format, engine, None, "it gives numbers that are not finite")
            if a.ndim != b.ndim:
                return Parity(model_format, engine, None, f"it gives shape {list(a.shape)} instead of {list(b.shape)}")
    return Parity(model_format, engine, max(compare(f, e) for f, e in zip(found, expected, strict=True)), "")


def _environment() -> dict[str, str]:
    """This process's environment, in which the package is found also where it is not installed."""
    package = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """One line for why the process failed: its signal, and the line of its output that says most."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "not support" in line]
    text = (telling or lines or [""])[-1]
    if done.returncode < 0:
        crash = signal.Signals(-done.returncode).name
        return f"crashed with {crash}" + (f" ({text[:200]})" if telling else "")
    return text[:300] or f"exit status {done.returncode}"
