"""Layers whose CPU kernels in Paddle 3.2.2 hold up training, with faster ones, compiled by Numba for this processor.

A depthwise convolution of Paddle unfolds each plane of each image (im2col) to multiply it with a single row, which is
two thirds of a training step of PP-LCNet. Here a tap of the kernel is one multiply-add of two long vectors that stay
in the cache. Paddle's gradient of H-Swish is not vectorised, nor its sum of maps and a bias; here they are.

Results are Paddle's up to rounding, and the same for any number of threads. `speed_up` is the way in.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, ClassVar

import numba
import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.nn import functional

Pair = tuple[int, int]


def speed_up(model: nn.Layer, threads: int) -> nn.Layer:
    """Let a network's depthwise convolutions, biases of convolutions and H-Swishes run here; gives the network.

    Parameters and their names stay. What these kernels do not do (other dtypes and devices, a graph that is traced,
    unusual convolutions) goes to Paddle as before.
    """
    for layer in model.sublayers(include_self=True):
        if type(layer) is nn.Hardswish:
            layer.__class__, layer.threads = FastHardswish, threads
        elif type(layer) is nn.Conv2D and (geometry := Geometry.of(layer)) is not None:
            layer.__class__, layer.threads, layer.geometry = FastDepthwiseConv2D, threads, geometry
        elif type(layer) is nn.Conv2D and layer.bias is not None and is_plain(layer):
            layer.__class__, layer.threads = FastBiasConv2D, threads
    return model


def _is_ours(*tensors: Tensor) -> bool:
    if not paddle.in_dynamic_mode() or paddle.get_device() != "cpu":  # where new tensors lie
        return False
    return all(tensor.dtype == paddle.float32 and tensor.place.is_cpu_place() for tensor in tensors)


class FastDepthwiseConv2D(nn.Conv2D):
    """`paddle.nn.Conv2D` with one filter for each channel; float32 [N, C, H, W] to [N, C, H', W']."""

    geometry: Geometry
    threads: int

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it replaces; float32 [N, C, H, W] on the CPU goes through our kernel."""
        fits = x.ndim == 4 and x.shape[1] == self._in_channels  # Paddle says what is wrong with another input
        if not fits or not _is_ours(x, self.weight):
            return super().forward(x)
        out = _DepthwiseConvolution.apply(x, self.weight, self.geometry, self.threads)
        return out if self.bias is None else _AddBias.apply(out, self.bias, self.threads)


class FastBiasConv2D(nn.Conv2D):
    """Any other `paddle.nn.Conv2D` with a bias: the convolution is Paddle's, the bias is added here."""

    threads: int

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it replaces; on the CPU our kernel adds the bias."""
        if x.ndim != 4 or not _is_ours(x, self.weight):
            return super().forward(x)
        sizes = self._stride, self._padding, self._dilation, self._groups
        return _AddBias.apply(functional.conv2d(x, self.weight, None, *sizes), self.bias, self.threads)


class FastHardswish(nn.Hardswish):
    """`paddle.nn.Hardswish`; float32 of any shape to the same shape."""

    threads: int

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it replaces; on the CPU by our kernel."""
        return _Hardswish.apply(x, self.threads) if _is_ours(x) else super().forward(x)


@dataclass(frozen=True)
class Geometry:
    """Sizes of a depthwise convolution, rows before columns."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @classmethod
    def of(cls, layer: nn.Conv2D) -> Geometry | None:
        """The geometry of a convolution; None if the kernels here do not compute such a one."""
        depthwise = layer._groups == layer._in_channels == layer._out_channels > 1
        sizes = [_pair(s) for s in (layer._kernel_size, layer._stride, layer._padding, layer._dilation)]
        if not depthwise or not is_plain(layer) or None in sizes:
            return None
        return cls(*sizes)  # type: ignore[arg-type]


def is_plain(layer: nn.Conv2D) -> bool:
    """Whether a convolution has the layout and the padding that the kernels know."""
    return bool(layer._data_format == "NCHW" and layer._padding_mode == "zeros")


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


class _DepthwiseConvolution(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: Geometry, threads: int) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        layout = Layout.of(geometry, (x.shape[2], x.shape[3]))
        out = _empty([*x.shape[:2], *layout.out])
        taps = _array(weight).reshape(x.shape[1], -1)
        steps = layout.offsets, geometry.stride, geometry.padding, layout.phase
        _split(_convolve, threads, _planes(x), taps, _planes(out), *steps)
        ctx.steps, ctx.threads = steps, threads
        ctx.wanted = not x.stop_gradient, not weight.stop_gradient
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensor()
        grad, x_grad = grad.contiguous(), _empty(x.shape)
        taps = _array(weight).reshape(x.shape[1], -1)
        of_planes = np.empty((x.shape[0], *taps.shape), dtype=np.float32)
        arrays = _planes(x), taps, _planes(grad), _planes(x_grad), of_planes.reshape(-1, taps.shape[1])
        _split(_convolve_backward, ctx.threads, *arrays, *ctx.steps)
        # Summed here, image by image: in the same order for any number of threads.
        weight_grad = paddle.to_tensor(of_planes.sum(axis=0).reshape(weight.shape))
        return tuple(g if wanted else None for g, wanted in zip((x_grad, weight_grad), ctx.wanted, strict=True))


class _AddBias(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, threads: int) -> Tensor:
        x = x.contiguous()
        out = _empty(x.shape)
        ctx.shape, ctx.threads = x.shape, threads
        ctx.wanted = not x.stop_gradient, not bias.stop_gradient
        _split(_add_bias, threads, _flat_planes(x), _array(bias), _flat_planes(out))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous()
        sums = np.empty(ctx.shape[:2], dtype=np.float32)
        _split(_sum_planes, ctx.threads, _flat_planes(grad), sums.ravel())
        grads = grad, paddle.to_tensor(sums.sum(axis=0))
        return tuple(g if wanted else None for g, wanted in zip(grads, ctx.wanted, strict=True))


class _Hardswish(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threads: int) -> Tensor:
        x = x.contiguous()
        out = _empty(x.shape)
        _split(_hardswish, threads, _array(x).ravel(), _array(out).ravel())
        ctx.threads = threads
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        grad, x_grad = grad.contiguous(), _empty(x.shape)
        _split(_hardswish_backward, ctx.threads, *(_array(tensor).ravel() for tensor in (x, grad, x_grad)))
        return x_grad


def _empty(shape: Sequence[int]) -> Tensor:
    return paddle.empty(shape, "float32")  # whatever Paddle's default dtype is: the kernels write four bytes each


def _array(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous float32 tensor on the CPU as an array, valid while the tensor lives."""
    count = int(np.prod(tensor.shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(tensor.data_ptr())).reshape(tensor.shape)


def _planes(tensor: Tensor) -> np.ndarray:
    return _array(tensor).reshape(-1, *tensor.shape[2:])


def _flat_planes(tensor: Tensor) -> np.ndarray:
    return _array(tensor).reshape(tensor.shape[0] * tensor.shape[1], -1)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


# A forked process has no threads but the one that forked it: it would wait for those of the pool for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)


def _split(kernel: Callable[..., None], threads: int, first: np.ndarray, *arguments: Any) -> None:
    """Run a kernel on everything along the first axis, in as many parts as there are threads."""
    ends = [len(first) * part // threads for part in range(threads + 1)]
    parts = [(start, end) for start, end in itertools.pairwise(ends) if start < end]
    if len(parts) == 1:
        kernel(*parts[0], first, *arguments)
    else:
        for done in [_pool(threads).submit(kernel, *part, first, *arguments) for part in parts]:
            done.result()


class _Compiled:
    """A kernel: called with `start` and `end` of what it is to do, with the interpreter's lock released.

    Sums may be taken in any order, so that they use vector registers; NaN and infinity stay what they are.
    """

    options: ClassVar[dict[str, Any]] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "nsz"},
    }

    def __new__(cls, function: Callable[..., None]) -> Any:
        try:
            return numba.njit(cache=True, **cls.options)(function)
        except RuntimeError:  # no folder that Numba could keep the compiled code in: compiled in every process
            return numba.njit(**cls.options)(function)


# mypy: disable-error-code="no-untyped-def"
# Numba finds the types below: float32 arrays and int64.


@_Compiled
def _add_bias(start, end, x, bias, out):
    for plane in range(start, end):
        for i in range(x.shape[1]):
            out[plane, i] = x[plane, i] + bias[plane % len(bias)]


@_Compiled
def _sum_planes(start, end, x, sums):
    for plane in range(start, end):
        total = np.float32(0)
        for i in range(x.shape[1]):
            total += x[plane, i]
        sums[plane] = total


@_Compiled
def _hardswish(start, end, x, out):
    for i in range(start, end):
        out[i] = x[i] * min(max(x[i] + np.float32(3), np.float32(0)), np.float32(6)) / np.float32(6)


@_Compiled
def _hardswish_backward(start, end, x, grad, x_grad):
    for i in range(start, end):
        slope = x[i] / np.float32(3) + np.float32(0.5)
        if x[i] <= -3:
            slope = np.float32(0)
        if x[i] >= 3:
            slope = np.float32(1)
        x_grad[i] = grad[i] * slope


@_Compiled
def _run(y, column, width, stride, padding, phase):
    """Where a padded row has the phase of a column: position and column of the first element, and their count."""
    first = (column - padding[1]) % stride[1]
    at = (first + padding[1]) // stride[1]
    position = ((y % stride[0] * stride[1] + column) * phase[0] + y // stride[0]) * phase[1] + at
    return position, first, min((width - first + stride[1] - 1) // stride[1], phase[1] - at)


@_Compiled
def _deal(plane, dealt, stride, padding, phase):
    """Deal a plane [H, W] out by phase; the margins of `dealt` stay."""
    for row in range(min(plane.shape[0], phase[0] * stride[0] - padding[0])):
        for column in range(stride[1]):
            position, first, count = _run(row + padding[0], column, plane.shape[1], stride, padding, phase)
            for i in range(count):
                dealt[position + i] = plane[row, first + i * stride[1]]


@_Compiled
def _collect(dealt, plane, stride, padding, phase):
    """The opposite of `_deal`; what no tap reads becomes 0."""
    plane[:] = 0
    for row in range(min(plane.shape[0], phase[0] * stride[0] - padding[0])):
        for column in range(stride[1]):
            position, first, count = _run(row + padding[0], column, plane.shape[1], stride, padding, phase)
            for i in range(count):
                plane[row, first + i * stride[1]] = dealt[position + i]


@_Compiled
def _convolve(start, end, x, taps, out, offsets, stride, padding, phase):
    length = phase[1]
    dealt = np.zeros((stride[0] * stride[1] * phase[0] + 1) * length, np.float32)  # a row more: offsets reach into it
    total = np.empty(out.shape[1] * length, np.float32)
    for plane in range(start, end):
        _deal(x[plane], dealt, stride, padding, phase)
        total[:] = 0
        for tap in range(len(offsets)):
            factor, shifted = taps[plane % len(taps), tap], dealt[offsets[tap] :]
            for i in range(len(total)):
                total[i] += factor * shifted[i]
        for row in range(out.shape[1]):
            for column in range(out.shape[2]):
                out[plane, row, column] = total[row * length + column]


@_Compiled
def _convolve_backward(start, end, x, taps, grad, x_grad, taps_grad, offsets, stride, padding, phase):
    length = phase[1]
    dealt = np.zeros((stride[0] * stride[1] * phase[0] + 1) * length, np.float32)
    dealt_grad = np.empty_like(dealt)
    total_grad = np.zeros(grad.shape[1] * length, np.float32)  # between the rows it stays 0
    for plane in range(start, end):
        _deal(x[plane], dealt, stride, padding, phase)
        for row in range(grad.shape[1]):
            for column in range(grad.shape[2]):
                total_grad[row * length + column] = grad[plane, row, column]
        dealt_grad[:] = 0
        for tap in range(len(offsets)):
            factor = taps[plane % len(taps), tap]
            shifted, shifted_grad = dealt[offsets[tap] :], dealt_grad[offsets[tap] :]
            dot = np.float32(0)
            for i in range(len(total_grad)):
                dot += total_grad[i] * shifted[i]
            taps_grad[plane, tap] = dot
            for i in range(len(total_grad)):
                shifted_grad[i] += factor * total_grad[i]
        _collect(dealt_grad, x_grad[plane], stride, padding, phase)
