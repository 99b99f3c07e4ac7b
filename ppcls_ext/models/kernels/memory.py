"""Memory of Paddle's tensors as arrays of NumPy, without copies."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from paddle import Tensor

from ppcls_ext.upstream.paddle import new_tensor


def empty(shape: Sequence[int]) -> Tensor:
    """A float32 tensor of this shape, whose values are yet to be written."""
    return new_tensor(shape)


def as_array(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous float32 tensor on the CPU as an array, valid while the tensor lives."""
    return _array_at(tensor.data_ptr(), tuple(tensor.shape))


@lru_cache(maxsize=4096)  # steps find the same shapes at the same places, and making an array takes longer than this
def _array_at(address: int, shape: tuple[int, ...]) -> np.ndarray:
    memory: Any = (ctypes.c_float * math.prod(shape)).from_address(address)
    return np.frombuffer(memory, np.float32).reshape(shape)


def as_planes(tensor: Tensor) -> np.ndarray:
    """[N, C, H, W] as [N x C, H, W]."""
    return as_array(tensor).reshape(-1, *tensor.shape[2:])


def as_flat_planes(tensor: Tensor) -> np.ndarray:
    """[N, C, H, W] as [N x C, H x W]."""
    return as_array(tensor).reshape(tensor.shape[0] * tensor.shape[1], -1)


def as_images(tensor: Tensor) -> np.ndarray:
    """[N, C, H, W] as [N, C, H x W]."""
    return as_array(tensor).reshape(*tensor.shape[:2], -1)


def as_matrix(weight: Tensor) -> np.ndarray:
    """[C', C, h, w] as [C', C x h x w]."""
    return as_array(weight).reshape(weight.shape[0], -1)


def no_moments() -> np.ndarray:
    """Where no moments are wanted."""
    return np.empty((0, 2), np.float32)
