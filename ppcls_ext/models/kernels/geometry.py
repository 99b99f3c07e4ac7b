"""Sizes of a convolution, and how its input lies in memory while it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from paddle import nn

from ppcls_ext.models.kernels.loops.dense import HAS_PRODUCT

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution, rows before columns."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @classmethod
    def of(cls, layer: nn.Conv2D) -> Geometry | None:
        """The geometry of a convolution; None if the kernels here do not compute such a one."""
        depthwise = layer._groups == layer._in_channels == layer._out_channels > 1
        dense = layer._groups == 1 and HAS_PRODUCT
        sizes = [_pair(s) for s in (layer._kernel_size, layer._stride, _padding(layer), layer._dilation)]
        if not (depthwise or dense) or not is_plain(layer) or None in sizes:
            return None
        return cls(*sizes)  # type: ignore[arg-type]


def is_plain(layer: nn.Conv2D) -> bool:
    """Whether a convolution has the layout and the padding that the kernels know."""
    return bool(layer._data_format == "NCHW" and layer._padding_mode == "zeros")


def _padding(layer: nn.Conv2D) -> Any:
    """The padding in numbers, also where `SAME` stands for as much on each side; Paddle has no dilation with that."""
    if str(layer._padding).upper() != "SAME":
        return layer._padding
    plain = _pair(layer._stride) == _pair(layer._dilation) == (1, 1) and all(k % 2 for k in layer._kernel_size)
    return [k // 2 for k in layer._kernel_size] if plain else None


def _pair(size: Any) -> Pair | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(i, int) for i in size):
        return size[0], size[1]
    return None


@dataclass(frozen=True)
class Layout:
    """How a plane lies in memory while the taps are applied to it.

    It is padded and dealt out by phase: row modulo stride, column modulo stride. Then element i of the output reads
    element i + offset of each tap, for any stride and dilation, if rows of the output are as long as those of a phase.
    """

    out: Pair  # height and width of the output
    phase: Pair  # rows of a phase, and their length
    offsets: np.ndarray  # int64 [taps]

    @classmethod
    @lru_cache(maxsize=4096)
    def of(cls, geometry: Geometry, size: Pair) -> Layout:
        """Args: size: height and width of the input.

        Raises:
            ValueError: the kernel is larger than the padded input.
        """
        g = geometry
        reach = [g.dilation[i] * (g.kernel[i] - 1) for i in (0, 1)]
        out = [(size[i] + 2 * g.padding[i] - reach[i] - 1) // g.stride[i] + 1 for i in (0, 1)]
        if min(out) < 1:
            raise ValueError(f"a {g.kernel} kernel with dilation {g.dilation} does not fit into {size}")
        rows, length = (out[i] + reach[i] // g.stride[i] for i in (0, 1))
        offsets = []
        for y in range(0, reach[0] + 1, g.dilation[0]):
            for x in range(0, reach[1] + 1, g.dilation[1]):
                phase = y % g.stride[0] * g.stride[1] + x % g.stride[1]
                offsets.append((phase * rows + y // g.stride[0]) * length + x // g.stride[1])
        return cls((out[0], out[1]), (rows, length), np.array(offsets, dtype=np.int64))
