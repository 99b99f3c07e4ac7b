"""Layers whose CPU kernels in Paddle 3.2.2 hold up training, with faster ones, compiled by Numba for this processor.

- A depthwise convolution of Paddle unfolds each plane of each image (im2col) to multiply it with a single row. Here a
  tap of the kernel is one multiply-add of long vectors that stay in the cache.
- A convolution in one group is one product of matrices an image, by the oneDNN in Paddle's wheel.
- Batch norm and the activation after it are two passes over memory each way, not six; after a convolution, their sums
  and gradients are taken from what is in the cache just then, and what lies between the layers is never stored.

Results are Paddle's up to rounding, and the same for any number of threads. `speed_up` is the way in.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.nn import functional

from ppcls_ext.models import compiled
from ppcls_ext.models.compiled import GROUPS, HARDSWISH, HAS_PRODUCT, NO_ACTIVATION, RELU, split
from ppcls_ext.models.lcnet import ConvBNLayer

Pair = tuple[int, int]


def speed_up(model: nn.Layer, threads: int) -> nn.Layer:
    """Let a network's convolutions, batch norms, biases of convolutions and H-Swishes run here; gives the network.

    Parameters and their names stay. What these kernels do not do (other dtypes and devices, a graph that is traced,
    unusual convolutions) goes to Paddle as before.
    """
    for layer in model.sublayers(include_self=True):
        fast = _replacement(layer)
        if fast is not None:
            layer.__class__, layer.threads = fast, threads
            if fast in (FastDepthwiseConv2D, FastDenseConv2D):
                layer.geometry = Geometry.of(layer)
    return model


def _replacement(layer: nn.Layer) -> type[nn.Layer] | None:
    kind = type(layer)
    if kind is nn.Hardswish:
        return FastHardswish
    if kind is ConvBNLayer:
        return FastConvBNLayer
    if kind is nn.BatchNorm2D and layer._data_format == "NCHW" and not (layer.weight is None or layer.bias is None):
        return FastBatchNorm2D
    if kind is not nn.Conv2D or not is_plain(layer):
        return None
    if Geometry.of(layer) is not None:
        return FastDepthwiseConv2D if layer._groups > 1 else FastDenseConv2D
    return FastBiasConv2D if layer.bias is not None else None


def _is_ours(*tensors: Tensor) -> bool:
    if not paddle.in_dynamic_mode() or paddle.get_device() != "cpu":  # where new tensors lie
        return False
    return all(tensor.dtype == paddle.float32 and tensor.place.is_cpu_place() for tensor in tensors)


class FastConvBNLayer(ConvBNLayer):
    """A convolution with its batch norm and activation as one step, where all three have kernels here."""

    threads: int

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it replaces."""
        conv, norm = self.conv, self.bn
        hooked = any(layer._forward_pre_hooks or layer._forward_post_hooks for layer in (conv, norm, self.act))
        code = activation_code(self.act)
        ready = isinstance(norm, FastBatchNorm2D) and code is not None
        if hooked or not ready or not _is_ours(x, conv.weight, norm.weight):
            return super().forward(x)
        if not isinstance(conv, (FastDepthwiseConv2D, FastDenseConv2D)) or not conv.takes(x):
            return norm.activated(conv(x), code)
        return _ConvolutionNorm.apply(x, conv.weight, norm.weight, norm.bias, conv.kernels(), norm, code, self.threads)


def activation_code(layer: nn.Layer) -> int | None:
    """What the kernels call this activation; None if they do not have it."""
    kinds = {nn.Hardswish: HARDSWISH, nn.ReLU: RELU, nn.Identity: NO_ACTIVATION}
    return next((code for kind, code in kinds.items() if isinstance(layer, kind)), None)


class FastDepthwiseConv2D(nn.Conv2D):
    """`paddle.nn.Conv2D` with one filter for each channel; float32 [N, C, H, W] to [N, C, H', W']."""

    geometry: Geometry
    threads: int

    def takes(self, x: Tensor) -> bool:
        """Whether the kernels compute it; Paddle says what is wrong with another input."""
        return x.ndim == 4 and x.shape[1] == self._in_channels and _is_ours(x, self.weight)

    def kernels(self) -> Kernels:
        """Those that compute this convolution."""
        return Depthwise(self.geometry)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it replaces; float32 [N, C, H, W] on the CPU goes through our kernel."""
        if not self.takes(x):
            return super().forward(x)
        out = _Convolution.apply(x, self.weight, self.kernels(), self.threads)
        return out if self.bias is None else _AddBias.apply(out, self.bias, self.threads)


class FastDenseConv2D(nn.Conv2D):
    """`paddle.nn.Conv2D` in one group; float32 [N, C, H, W] to [N, C', H', W']."""

    geometry: Geometry
    threads: int

    takes, forward = FastDepthwiseConv2D.takes, FastDepthwiseConv2D.forward

    def kernels(self) -> Kernels:
        """Those that compute this convolution."""
        return Dense(self.geometry)


class FastBiasConv2D(nn.Conv2D):
    """Any other `paddle.nn.Conv2D` with a bias: the convolution is Paddle's, the bias is added here."""

    threads: int

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it replaces; on the CPU our kernel adds the bias."""
        if x.ndim != 4 or not _is_ours(x, self.weight):
            return super().forward(x)
        sizes = self._stride, self._padding, self._dilation, self._groups
        return _AddBias.apply(functional.conv2d(x, self.weight, None, *sizes), self.bias, self.threads)


class FastBatchNorm2D(nn.BatchNorm2D):
    """`paddle.nn.BatchNorm2D`; float32 [N, C, H, W] to the same shape."""

    threads: int

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it replaces; on the CPU by our kernel."""
        fits = x.ndim == 4 and x.shape[1] == self._num_features and _is_ours(x, self.weight)
        return self.activated(x, NO_ACTIVATION) if fits else super().forward(x)

    def activated(self, x: Tensor, code: int) -> Tensor:
        """The norm of float32 [N, C, H, W], with an activation after it."""
        return _Norm.apply(x, self.weight, self.bias, self, code, self.threads)


class FastHardswish(nn.Hardswish):
    """`paddle.nn.Hardswish`; float32 of any shape to the same shape."""

    threads: int

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it replaces; on the CPU by our kernel."""
        return _Hardswish.apply(x, self.threads) if _is_ours(x) else super().forward(x)


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
        sizes = [_pair(s) for s in (layer._kernel_size, layer._stride, layer._padding, layer._dilation)]
        if not (depthwise or dense) or not is_plain(layer) or None in sizes:
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


class Kernels(Protocol):
    """How one kind of convolution is computed, forward and backward."""

    def shape(self, x: Tensor, weight: Tensor) -> list[int]:
        """The shape of what comes out."""

    def forward(self, x: Tensor, weight: Tensor, y: Tensor, moments: np.ndarray, threads: int) -> None:
        """Fill `y`, and `moments` float32 [planes, 2] (see `compiled.plane_moments`) where it is not empty."""

    def backward(self, saved: Saved, grad: Tensor, x_grad: Tensor | None, threads: int) -> np.ndarray:
        """Fill `x_grad` if it is wanted; gives the gradient of the weight, in its shape."""


class Saved(NamedTuple):
    """What a convolution and the norm after it keep; constants are as for `compiled.normalise_backward`."""

    x: Tensor
    weight: Tensor
    y: Tensor | None = None
    constants: np.ndarray = np.empty((0, 4), np.float32)
    activation: int = NO_ACTIVATION


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
        arrays = _planes(x), _array(weight).reshape(x.shape[1], -1), _planes(y)
        split(compiled.convolve, threads, len(arrays[0]), *arrays, *self._layout(x)[1], moments)

    def backward(self, saved: Saved, grad: Tensor, x_grad: Tensor | None, threads: int) -> np.ndarray:
        """See `Kernels`."""
        x, weight, y, constants, activation = saved
        taps = _array(weight).reshape(x.shape[1], -1)
        taps_grad = np.empty((x.shape[0], *taps.shape), dtype=np.float32)
        x_grad = _empty(x.shape) if x_grad is None else x_grad
        arrays = [_planes(x), taps, _planes(grad if y is None else y), _planes(grad), constants, _planes(x_grad)]
        arguments = *arrays, taps_grad.reshape(-1, taps.shape[1]), activation, *self._layout(x)[1]
        split(compiled.convolve_backward, threads, len(arrays[0]), *arguments)
        return np.asarray(taps_grad.sum(axis=0).reshape(weight.shape))


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
        arrays = _images(x), _matrix(weight), _images(y), moments
        split(compiled.dense, threads, x.shape[0], *arrays, *self._window(x))

    def backward(self, saved: Saved, grad: Tensor, x_grad: Tensor | None, threads: int) -> np.ndarray:
        """See `Kernels`."""
        x, weight, y, constants, activation = saved
        weight_grads = np.empty((min(GROUPS, x.shape[0]), *_matrix(weight).shape), dtype=np.float32)
        filled = np.empty((0, 0, 0), np.float32) if x_grad is None else _images(x_grad)
        arrays = _images(x), _matrix(weight), _images(grad if y is None else y), _images(grad), constants, filled
        arguments = *arrays, weight_grads, activation, *self._window(x)
        split(compiled.dense_backward, threads, len(weight_grads), *arguments)
        return np.asarray(weight_grads.sum(axis=0).reshape(weight.shape))


class _Convolution(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, kernels: Kernels, threads: int) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        out = _empty(kernels.shape(x, weight))
        kernels.forward(x, weight, out, _no_moments(), threads)
        ctx.kernels, ctx.threads = kernels, threads
        ctx.wanted = not x.stop_gradient, not weight.stop_gradient
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensor()
        x_grad = _empty(x.shape) if ctx.wanted[0] else None
        weight_grad = ctx.kernels.backward(Saved(x, weight), grad.contiguous(), x_grad, ctx.threads)
        return x_grad, paddle.to_tensor(weight_grad) if ctx.wanted[1] else None


class Statistics(NamedTuple):
    """What a norm did to each channel: factors and summands float32 [C]; `fixed`: by running statistics."""

    mean: np.ndarray
    inverse: np.ndarray  # 1 / deviation, float64 [C]
    scale: np.ndarray
    shift: np.ndarray
    fixed: bool

    @classmethod
    def of(cls, norm: nn.BatchNorm2D, moments: np.ndarray, shape: Sequence[int]) -> Statistics:
        """Those of the batch, which also move the running ones; or the running ones, where the norm is to use them.

        Args:
            moments: float32 [N x C, 2] of the planes of a map of this shape; not read with running statistics.
        """
        fixed = uses_running_statistics(norm)
        if fixed:
            mean, variance = (_array(t).astype(np.float64) for t in (norm._mean, norm._variance))
        else:
            means, squares = moments.reshape(shape[0], shape[1], 2).astype(np.float64).transpose(2, 0, 1)
            with np.errstate(invalid="ignore", over="ignore"):  # of a run that diverges, which its loss says
                mean = means.mean(axis=0)
                variance = squares.mean(axis=0) / (shape[2] * shape[3]) + np.square(means - mean).mean(axis=0)
            for running, new in ((norm._mean, mean), (norm._variance, variance)):
                kept = _array(running)
                kept[:] = kept * np.float32(norm._momentum) + new.astype(np.float32) * np.float32(1 - norm._momentum)
        inverse = 1 / np.sqrt(variance + norm._epsilon)
        factor = _array(norm.weight) * inverse
        scale, shift = _singles(factor, _array(norm.bias) - mean * factor)
        return cls(mean.astype(np.float32), inverse, scale, shift, fixed)

    def gradients(
        self, y: Tensor, grad: Tensor, activation: int, threads: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Constants (see `compiled.normalise_backward`), and the gradients of the norm's weight and bias."""
        count, channels, height, width = y.shape
        sums = np.empty((count * channels, 2), np.float32)
        arrays = _flat_planes(y), _flat_planes(grad), self.scale, self.shift, self.mean
        split(compiled.normalise_sums, threads, len(sums), *arrays, sums, activation)
        total, product = sums.reshape(count, channels, 2).astype(np.float64).sum(axis=0).T
        product = product * self.inverse
        share = 0.0 if self.fixed else 1 / (count * height * width)
        slanted = -share * self.scale * self.inverse * product
        fixed = -share * self.scale * total - slanted * self.mean
        constants = np.stack(_singles(self.scale, self.shift, fixed, slanted), axis=1)
        weight_grad, bias_grad = _singles(product, total)
        return constants, weight_grad, bias_grad


def uses_running_statistics(norm: nn.BatchNorm2D) -> bool:
    """Whether a batch norm normalises by what it has gathered, and not by the batch."""
    return not norm.training if norm._use_global_stats is None else bool(norm._use_global_stats)


class _Norm(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: Any, activation: int, threads: int) -> Tensor:
        x = x.contiguous()
        moments = _no_moments()
        if not uses_running_statistics(norm):
            moments = np.empty((x.shape[0] * x.shape[1], 2), np.float32)
            split(compiled.plane_moments, threads, len(moments), _flat_planes(x), moments)
        statistics = Statistics.of(norm, moments, x.shape)
        ctx.statistics, ctx.activation, ctx.threads = statistics, activation, threads
        ctx.wanted = [not tensor.stop_gradient for tensor in (x, weight, bias)]
        ctx.save_for_backward(x)
        return _normalised(x, statistics, activation, threads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensor()
        grad, x_grad = grad.contiguous(), None
        constants, *of_norm = ctx.statistics.gradients(x, grad, ctx.activation, ctx.threads)
        if ctx.wanted[0]:
            x_grad = _empty(x.shape)
            arrays = _flat_planes(x), _flat_planes(grad), constants, _flat_planes(x_grad)
            split(compiled.normalise_backward, ctx.threads, len(arrays[0]), *arrays, ctx.activation)
        return x_grad, *_those_wanted(of_norm, ctx.wanted[1:])


class _ConvolutionNorm(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        kernels: Kernels,
        norm: Any,
        activation: int,
        threads: int,
    ) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        y = _empty(kernels.shape(x, weight))
        of_batch = not uses_running_statistics(norm)
        moments = np.empty((y.shape[0] * y.shape[1], 2), np.float32) if of_batch else _no_moments()
        kernels.forward(x, weight, y, moments, threads)
        statistics = Statistics.of(norm, moments, y.shape)
        ctx.kernels, ctx.statistics, ctx.activation, ctx.threads = kernels, statistics, activation, threads
        ctx.wanted = [not tensor.stop_gradient for tensor in (x, weight, norm_weight, norm_bias)]
        ctx.save_for_backward(x, weight, y)
        return _normalised(y, statistics, activation, threads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensor()
        grad = grad.contiguous()
        constants, *of_norm = ctx.statistics.gradients(y, grad, ctx.activation, ctx.threads)
        x_grad = _empty(x.shape) if ctx.wanted[0] else None
        weight_grad = ctx.kernels.backward(Saved(x, weight, y, constants, ctx.activation), grad, x_grad, ctx.threads)
        return x_grad, *_those_wanted([weight_grad, *of_norm], ctx.wanted[1:])


def _normalised(y: Tensor, statistics: Statistics, activation: int, threads: int) -> Tensor:
    out = _empty(y.shape)
    arrays = _flat_planes(y), statistics.scale, statistics.shift, _flat_planes(out)
    split(compiled.normalise, threads, len(arrays[0]), *arrays, activation)
    return out


def _those_wanted(gradients: Sequence[np.ndarray], wanted: Sequence[bool]) -> list[Tensor | None]:
    return [paddle.to_tensor(g) if want else None for g, want in zip(gradients, wanted, strict=True)]


def _singles(*arrays: np.ndarray) -> list[np.ndarray]:
    return [array.astype(np.float32) for array in arrays]


class _AddBias(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, threads: int) -> Tensor:
        x = x.contiguous()
        out = _empty(x.shape)
        ctx.shape, ctx.threads = x.shape, threads
        ctx.wanted = not x.stop_gradient, not bias.stop_gradient
        planes = _flat_planes(x)
        split(compiled.add_bias, threads, len(planes), planes, _array(bias), _flat_planes(out))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous()
        sums = np.empty(ctx.shape[:2], dtype=np.float32)
        split(compiled.sum_planes, ctx.threads, sums.size, _flat_planes(grad), sums.ravel())
        grads = grad, paddle.to_tensor(sums.sum(axis=0))
        return tuple(g if wanted else None for g, wanted in zip(grads, ctx.wanted, strict=True))


class _Hardswish(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threads: int) -> Tensor:
        x = x.contiguous()
        out = _empty(x.shape)
        split(compiled.hardswish, threads, x.size, _array(x).ravel(), _array(out).ravel())
        ctx.threads = threads
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        grad, x_grad = grad.contiguous(), _empty(x.shape)
        arrays = (_array(tensor).ravel() for tensor in (x, grad, x_grad))
        split(compiled.hardswish_backward, ctx.threads, x.size, *arrays)
        return x_grad


def _empty(shape: Sequence[int]) -> Tensor:
    return paddle.empty(shape, "float32")  # whatever Paddle's default dtype is: the kernels write four bytes each


def _array(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous float32 tensor on the CPU as an array, valid while the tensor lives."""
    shape = tensor.shape
    memory = (ctypes.c_float * math.prod(shape)).from_address(tensor.data_ptr())
    return np.frombuffer(memory, np.float32).reshape(shape)


def _planes(tensor: Tensor) -> np.ndarray:
    return _array(tensor).reshape(-1, *tensor.shape[2:])


def _flat_planes(tensor: Tensor) -> np.ndarray:
    return _array(tensor).reshape(tensor.shape[0] * tensor.shape[1], -1)


def _images(tensor: Tensor) -> np.ndarray:
    return _array(tensor).reshape(*tensor.shape[:2], -1)


def _matrix(weight: Tensor) -> np.ndarray:
    return _array(weight).reshape(weight.shape[0], -1)


def _no_moments() -> np.ndarray:
    return np.empty((0, 2), np.float32)
