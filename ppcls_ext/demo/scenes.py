"""Generated scenes, on which the demos of detection and segmentation train: what both do alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from ppcls_ext.demo.steps import run_demo

SEEDS = {"train": 0, "val": 1}
SHOWN = 12  # predictions in the picture
COLUMNS = 4  # predictions in each row of the picture


def canvas(rng: np.random.Generator, side: int) -> np.ndarray:
    """A light, smooth texture, float32 RGB [side, side, 3], 0 to 255."""
    coarse = rng.integers(130, 256, (rng.integers(2, 9), rng.integers(2, 9), 3)).astype(np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def run_scene_demo(
    root: Path,
    task: str,
    config_name: str,
    make_scenes: Callable[[Path, str, int], None],
    counts: Mapping[str, int],
    metric: str,
    goal: float,
    flags: str,
    trunk: Path | None = None,
) -> int:
    """A demo on generated scenes; gives the exit status. See `run_demo`.

    Args:
        make_scenes: writes so many scenes of a split into `images/<split>/` of a folder, and their truth.
        counts: scenes of each split.
        flags: of the `infer` command to try at the end.
    """

    def make_data(folder: Path) -> None:
        for split, count in counts.items():
            make_scenes(folder, split, count)

    def shown(folder: Path) -> list[str]:
        return [str(file) for file in sorted((folder / "images" / "val").iterdir())[:SHOWN]]

    try_it = f"{{data}}/images/val {flags}"
    return run_demo(root, task, config_name, make_data, shown, metric, goal, try_it, COLUMNS, trunk)
