"""Loaders of numbers that are drawn at random, one for each sample."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from ppcls_ext.core.images import BrokenImage
from ppcls_ext.core.seeding import SAMPLE, seed_python
from ppcls_ext.data.loader import Loader, SampleKey, Sampler, Workers


class Draws:
    """Samples that are drawn at random; the one numbered `bad` cannot be read."""

    def __init__(self, count: int, bad: int | None = None) -> None:
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: SampleKey) -> np.ndarray:
        epoch, index, _ = key
        if index == self.bad:
            raise BrokenImage(f"image {index}.jpg: the file is empty")
        seed_python(0, SAMPLE, epoch, index)
        return np.array([index, random.random(), np.random.rand()])


def stack(samples: list[Any]) -> list[np.ndarray]:
    return [np.stack(samples)]


def batches(loader: Loader, epoch: int = 0, skip: int = 0) -> list[np.ndarray]:
    return [batch[0].numpy() for batch in loader.epoch(epoch, skip)]


def make(count: int = 11, workers: int = 0, bad: int | None = None, **sampler: Any) -> Loader:
    settings = {"batch_size": 3, "shuffle": True, **sampler}
    return Loader(Draws(count, bad), Sampler(**settings), Workers(num_workers=workers), stack, seed=5)
