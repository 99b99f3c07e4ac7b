"""Small sets of images whose colour is their class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")


def picture(kind: int, rng: np.random.Generator, size: tuple[int, int] = (48, 48)) -> np.ndarray:
    """A noisy colour, uint8 RGB, in which channel `2 - kind` is the brightest: blue, green, red."""
    image = rng.integers(0, 40, 3) + rng.integers(0, 40, (*size, 3))
    image[..., 2 - kind] += 160
    return image.astype(np.uint8)


def write_split(root: Path, counts: Sequence[int], seed: int = 0, ending: str = "png") -> None:
    """Class folders `root/<class>/` with so many pictures of each class."""
    rng = np.random.default_rng(seed)
    for kind, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(picture(kind, rng)).save(root / name / f"{number:02d}.{ending}")


def write_set(root: Path, train: int = 32, val: int = 5) -> Path:
    """`root/train` and `root/val`."""
    write_split(root / "train", [train] * 3, seed=1)
    write_split(root / "val", [val] * 3, seed=2)
    return root
