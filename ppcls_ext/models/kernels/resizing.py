"""Bilinear resizing in Paddle's autograd."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from paddle import Tensor
from paddle.autograd import PyLayer

from ppcls_ext.models.kernels.loops.resize import resize, resize_backward
from ppcls_ext.models.kernels.memory import as_planes, empty
from ppcls_ext.models.kernels.threads import split


class Places(NamedTuple):
    """Between which two numbers of a row each number of the resized row lies: int64, int64, float32 of the second."""

    first: np.ndarray
    second: np.ndarray
    share: np.ndarray

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, length: int, resized: int) -> Places:
        """Pixels are squares, as with `align_corners=False` and `align_mode=0`."""
        scale = length / resized if resized > 1 else 0.0  # Paddle takes the first number where one is left
        where = np.maximum((np.arange(resized) + 0.5) * scale - 0.5, 0)
        first = where.astype(np.int64)
        return cls(first, np.minimum(first + 1, length - 1), (where - first).astype(np.float32))


class Resized(PyLayer):
    """Maps in another size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int], threads: int) -> Tensor:
        """See `paddle.autograd.PyLayer`."""
        x = x.contiguous()
        ctx.shape, ctx.threads = x.shape, threads
        ctx.places = *Places.of(x.shape[2], size[0]), *Places.of(x.shape[3], size[1])
        out = empty([*x.shape[:2], *size])
        split(resize, threads, x.shape[0] * x.shape[1], as_planes(x), as_planes(out), *ctx.places)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """See `paddle.autograd.PyLayer`."""
        x_grad = empty(ctx.shape)
        arrays = as_planes(grad.contiguous()), as_planes(x_grad)
        split(resize_backward, ctx.threads, len(arrays[0]), *arrays, *ctx.places)
        return x_grad
