"""Engines with made-up timings."""

from __future__ import annotations

import numpy as np

from ppcls_ext.runtime.contest import Batches
from ppcls_ext.runtime.process import EngineFailed


class Fake:
    """A contender that takes so many milliseconds, with some noise, and gives one number."""

    def __init__(self, ms: float, noise: float = 0.0, output: float = 0.0, dies_after: int | None = None) -> None:
        self.ms, self.noise, self.output, self.dies_after = ms, noise, output, dies_after
        self.turns = 0
        self.closed = False
        self._rng = np.random.default_rng(round(1000 * ms))

    def outputs(self, batches: Batches) -> list[list[np.ndarray]]:
        return [[np.array([self.output])] for _ in batches]

    def turn(self, calls: int, discarded: int) -> list[float]:
        self.turns += 1
        if self.dies_after is not None and self.turns > self.dies_after:
            raise EngineFailed("crashed with SIGSEGV")
        return list(self.ms * np.exp(self._rng.normal(0, self.noise, calls)))

    def close(self) -> None:
        self.closed = True
