"""A space of small networks, and images for them, for tests of the search."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.search.measurements import Measured, Use
from ppcls_ext.search.space import Space, StageSpace, block_choices

SIDE = 32


def tiny_space(kinds: tuple[str, ...] = ("ds",), last_widths: tuple[int, ...] = (0, 16)) -> Space:
    """A few thousand networks of at most 16 channels for images of 32 x 32 pixels."""
    expansions = (None, 2.0)
    choices = block_choices(kinds, (3, 5), ("hardswish", "relu"), expansions=expansions, groups=(1, 2))
    stages = (
        *[StageSpace((1,), (8, 16), choices)] * 3,
        StageSpace((1, 2), (8, 16), choices),
        StageSpace((1,), (16,), choices),
    )
    return Space("tiny", (8, 16), stages, last_widths, (SIDE,), ("hardswish", "relu"))


def latency(spec: NetworkSpec) -> float:
    """Milliseconds on an engine that does not exist."""
    return 0.1 + spec.count(3).flops / 1e6


def write_images(folder: Path, number: int = 30) -> Path:
    """Images of three classes that differ in colour, in class folders; some of each are for evaluation."""
    rng = np.random.default_rng(0)
    for index, name in enumerate(("blue", "green", "red")):
        for k in range(number + 3):
            place = folder / ("train" if k < number else "val") / name
            place.mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            image[..., index] += 100
            cv2.imwrite(str(place / f"{k}.png"), image)
    return folder


def measured(use: Use, *specs: NetworkSpec) -> tuple[Measured, ...]:
    """Networks that took as long as the anchor of a calibration."""
    return tuple(Measured(spec.text, use, 1.0, 0.9, 1.1) for spec in specs)
