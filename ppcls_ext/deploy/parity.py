"""Does an exported model give dygraph's output on each engine? Each engine runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppcls_ext.runtime.process import EngineFailed, EngineProcess

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
        """Whether the engine ran the model, and its outputs differ by at most `tolerance`."""
        return self.difference is not None and self.difference <= tolerance


def worse(a: Parity, b: Parity) -> Parity:
    """The one of two outcomes on the same engine that is further from what it should be."""
    if a.difference is None or b.difference is None:
        return a if a.difference is None else b
    return max(a, b, key=lambda outcome: outcome.difference or 0.0)


def check_parity(
    folder: Path,
    formats: Sequence[str],
    engine: str,
    batches: Sequence[Arrays],
    expected: Sequence[Arrays],
    difference: Callable[[Arrays, Arrays], float],
) -> list[Parity]:
    """Run `batches` through an engine on each format and measure the worst difference from `expected`.

    The formats follow each other in one process, since starting one takes longer than a handful of inputs. A format
    that fails after another gets a process of its own to show that it is not the other one's doing, and after one that
    fails there, which may have ended the process or left anything in it, the next one gets a new process.
    """
    checks: list[Parity] = []
    left = list(formats)
    while left:
        first = left[0]
        with EngineProcess(threads=1, seconds=SECONDS) as process:
            try:
                while left:
                    where = {"folder": str(folder.resolve()), "engine": engine, "model_format": left[0]}
                    process("open", **where, threads=1)
                    found = process("run", batches=batches)
                    checks.append(_compared(left.pop(0), engine, found, expected, difference))
            except EngineFailed as failed:
                if left[0] == first:
                    checks.append(Parity(left.pop(0), engine, None, str(failed)))
    return checks


def _compared(
    model_format: str,
    engine: str,
    found: Sequence[Arrays],
    expected: Sequence[Arrays],
    difference: Callable[[Arrays, Arrays], float],
) -> Parity:
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            if not np.isfinite(a).all():
                return Parity(model_format, engine, None, "it gives numbers that are not finite")
            if a.ndim != b.ndim:
                return Parity(model_format, engine, None, f"it gives shape {list(a.shape)} instead of {list(b.shape)}")
    return Parity(model_format, engine, max(difference(f, e) for f, e in zip(found, expected, strict=True)), "")
