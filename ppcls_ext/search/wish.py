"""What a search is to look for; imports nothing, since the command declares its flags by it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Accuracy = Literal["supernet", "short", "scores"]
ACCURACIES: tuple[Accuracy, ...] = get_args(Accuracy)

SPACE = "lcnet"  # unless another is asked for
CANDIDATES: dict[Accuracy, tuple[int, int]] = {  # networks of a generation, and generations
    "supernet": (40, 10),
    "short": (8, 3),
    "scores": (40, 10),
}


@dataclass(frozen=True)
class Wish:
    """What is looked for.

    Attributes:
        config, overrides: of the training that the network is for.
        latency: milliseconds of an image at most; None where `like` says it.
        like: a named network whose predicted latency is the bound.
        epochs: of the supernet or of each short training; None: those of the config.
        candidates: networks to judge, about; None: by `accuracy`.
        calibration: file to predict by; None: the user's own.
        supernet: folder of an earlier search, whose supernet is used again for another latency or engine.
        out: folder of everything that is written.
    """

    config: str
    overrides: tuple[str, ...]
    latency: float | None
    like: str | None
    engine: str
    threads: int
    space: str
    accuracy: Accuracy
    epochs: int | None
    candidates: int | None
    calibration: Path | None
    supernet: Path | None
    out: Path

    @property
    def sizes(self) -> tuple[int, int]:
        """Networks of a generation, and generations."""
        population, generations = CANDIDATES[self.accuracy]
        if self.candidates is None:
            return population, generations
        population = max(2, min(population, self.candidates))
        return population, max(1, round(self.candidates / population))
