"""Randomness as a function of (seed, key), never of a stream.

Each sample, batch and step draws from generators seeded by what it is: (seed, epoch, index). So results do not
depend on how many workers load the data, and a resumed run needs no generator state to go on exactly.
"""

from __future__ import annotations

import random

import numpy as np
import paddle

# The first part of every key says what it is for, so two different uses never share a stream.
ORDER, SAMPLE, BATCH, STEP = range(4)


def derive(seed: int, *key: int) -> int:
    """A 32-bit seed for `key`, well mixed."""
    return int(np.random.SeedSequence((seed, *key)).generate_state(1)[0])


def seed_python(seed: int, *key: int) -> None:
    """Seed `random` and `np.random`, which PaddleClas's transforms draw from."""
    derived = derive(seed, *key)
    random.seed(derived)
    np.random.seed(derived)


def seed_paddle(seed: int, *key: int) -> None:
    """Seed Paddle alone. For training steps: without worker processes, a thread of Paddle's loader prepares the
    next batch meanwhile, and draws from `random` and `np.random`.
    """
    paddle.seed(derive(seed, *key))


def seed_all(seed: int, *key: int) -> None:
    """Seed `random`, `np.random` and Paddle on every device."""
    seed_python(seed, *key)
    seed_paddle(seed, *key)


def order(seed: int, epoch: int, length: int) -> np.ndarray:
    """The shuffled indices of an epoch, int64 [length]."""
    return np.random.default_rng((seed, ORDER, epoch)).permutation(length)
