"""How each kind of convolution is computed, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from paddle import Tensor

from ppcls_ext.models.kernels.geometry import Geometry, Layout
from ppcls_ext.models.kernels.loops.dense import GROUPS, dense, dense_backward
from ppcls_ext.models.kernels.loops.depthwise import convolve, convolve_backward
from ppcls_ext.models.kernels.loops.norms import NO_ACTIVATION, add_up
from ppcls_ext.models.kernels.memory import as_array, as_images, as_matrix, as_planes, empty
from ppcls_ext.models.kernels.threads import split


class Kernels(Protocol):
    """How one kind of convolution is computed, forward and backward."""

    def shape(self, x: Tensor, weight: Tensor) -> list[int]:
        """The shape of what comes out."""

    def forward(self, x: Tensor, weight: Tensor, y: Tensor, moments: np.ndarray, threads: int) -> None:
        """Fill `y`, and `moments` float32 [planes, 2] (see `plane_moments`) where it is not empty."""

    def backward(self, saved: Saved, grad: Tensor, x_grad: Tensor | None, weight_grad: Tensor, threads: int) -> None:
        """Fill `weight_grad`, and `x_grad` if it is wanted."""


class Saved(NamedTuple):
    """What a convolution and the norm after it keep; constants are as for `normalise_backward`.

    Attributes:
        x: what the convolution saw; or what that was made of, by a norm's `factors` (see `dense_backward`) and
            `x_activation`.
    """

    x: Tensor
    weight: Tensor
    y: Tensor | None = None
    constants: np.ndarray = np.empty((0, 4), np.float32)
    activation: int = NO_ACTIVATION
    factors: np.ndarray = np.empty((0, 2), np.float32)
    x_activation: int = NO_ACTIVATION


@dataclass(frozen=True)
class Depthwise:
    """`Kernels` of depthwise convolutions."""

    geometry: Geometry

    def _layout(self, x: Tensor) -> tuple[Layout, tuple[Any, ...]]:
        layout = Layout.of(self.geometry, (x.shape[2], x.shape[3]))
        return layout, (layout.offsets, self.geometry.stride, self.geometry.padding, layout.phase)

    def shape(self, x: Tensor, weight: Tensor) -> list[int]:
        """See `Kernels`. Raises ValueError if the kernel does not fit."""
        return [*x.shape[:2], *self._layout(x)[0].out]

    def forward(self, x: Tensor, weight: Tensor, y: Tensor, moments: np.ndarray, threads: int) -> None:
        """See `Kernels`."""
        arrays = as_planes(x), as_array(weight).reshape(x.shape[1], -1), as_planes(y)
        split(convolve, threads, len(arrays[0]), *arrays, *self._layout(x)[1], moments)

    def backward(self, saved: Saved, grad: Tensor, x_grad: Tensor | None, weight_grad: Tensor, threads: int) -> None:
        """See `Kernels`."""
        x, weight, y, constants, activation, *normal = saved
        taps = as_array(weight).reshape(x.shape[1], -1)
        taps_grad = np.empty((x.shape[0], *taps.shape), dtype=np.float32)
        x_grad = empty(x.shape) if x_grad is None else x_grad
        arrays = [
            as_planes(x),
            taps,
            as_planes(grad if y is None else y),
            as_planes(grad),
            constants,
            as_planes(x_grad),
        ]
        arguments = *arrays, taps_grad.reshape(-1, taps.shape[1]), activation, *self._layout(x)[1], *normal
        split(convolve_backward, threads, len(arrays[0]), *arguments)
        add_up(taps_grad.reshape(len(taps_grad), -1), as_array(weight_grad).ravel())


@dataclass(frozen=True)
class Dense:
    """`Kernels` of convolutions in one group."""

    geometry: Geometry

    def shape(self, x: Tensor, weight: Tensor) -> list[int]:
        """See `Kernels`. Raises ValueError if the kernel does not fit."""
        return [x.shape[0], weight.shape[0], *Layout.of(self.geometry, (x.shape[2], x.shape[3])).out]

    def _window(self, x: Tensor) -> tuple[Any, ...]:
        g, size = self.geometry, (x.shape[2], x.shape[3])
        unfolds = (g.kernel, g.stride, g.padding) != ((1, 1), (1, 1), (0, 0))
        return (x.shape[1], g.kernel, g.stride, g.padding, g.dilation, size, Layout.of(g, size).out), unfolds

    def forward(self, x: Tensor, weight: Tensor, y: Tensor, moments: np.ndarray, threads: int) -> None:
        """See `Kernels`."""
        arrays = as_images(x), as_matrix(weight), as_images(y), moments
        split(dense, threads, x.shape[0], *arrays, *self._window(x))

    def backward(self, saved: Saved, grad: Tensor, x_grad: Tensor | None, weight_grad: Tensor, threads: int) -> None:
        """See `Kernels`."""
        x, weight, y, constants, activation, *normal = saved
        weight_grads = np.empty((min(GROUPS, x.shape[0]), *as_matrix(weight).shape), dtype=np.float32)
        filled = np.empty((0, 0, 0), np.float32) if x_grad is None else as_images(x_grad)
        arrays = (
            as_images(x),
            as_matrix(weight),
            as_images(grad if y is None else y),
            as_images(grad),
            constants,
            filled,
        )
        arguments = *arrays, weight_grads, activation, *self._window(x), *normal
        split(dense_backward, threads, len(weight_grads), *arguments)
        add_up(weight_grads.reshape(len(weight_grads), -1), as_array(weight_grad).ravel())
