"""How a benchmark measures; apart from the benchmark itself, so that the command line can name the defaults."""

from __future__ import annotations

import pydantic

from ppcls_ext.core.bounds import LARGEST_SEED, MOST, MOST_STEPS
from ppcls_ext.core.config import Section

MOST_ROUNDS = 100_000  # each has a place in the report


class Settings(Section):
    """How to measure. A subject is a model on an engine.

    Attributes:
        rounds: turns that each subject takes; they are short, since a shared machine changes its speed within seconds.
        processes: that a subject is run in, one after the other; at most `rounds`.
        seconds: for which each subject is measured, over all rounds.
        iterations: calls of each subject over all rounds, instead of `seconds`.
        warmup: calls that each process makes before its first round.
        seed: of the inputs, the order of the turns and the bootstrap.
        pin: cores that every subject is bound to; none: any core.
        spread: interquartile range over median above which the report warns.
    """

    rounds: int = pydantic.Field(default=60, ge=2, le=MOST_ROUNDS)
    processes: int = pydantic.Field(default=4, ge=1, le=MOST_ROUNDS)
    seconds: float = pydantic.Field(default=5.0, gt=0, le=MOST, allow_inf_nan=False)
    iterations: int | None = pydantic.Field(None, ge=1, le=MOST_STEPS)
    warmup: int = pydantic.Field(default=20, ge=1, le=MOST_STEPS)
    seed: int = pydantic.Field(default=0, ge=0, le=LARGEST_SEED)
    pin: tuple[int, ...] = ()
    spread: float = pydantic.Field(default=0.1, gt=0, allow_inf_nan=False)

    def shares(self) -> list[int]:
        """How many rounds each process takes part in."""
        processes = min(self.processes, self.rounds)
        return [self.rounds // processes + (k < self.rounds % processes) for k in range(processes)]
