"""The steps of Paddle's autograd that run on the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from paddle import Tensor
from paddle.autograd import PyLayer

from ppcls_ext.models.kernels.convolutions import Kernels, Saved
from ppcls_ext.models.kernels.loops.norms import (
    add_bias,
    add_up,
    hardswish,
    hardswish_backward,
    normalise,
    normalise_backward,
    plane_moments,
    sum_planes,
)
from ppcls_ext.models.kernels.memory import as_array, as_flat_planes, empty, no_moments
from ppcls_ext.models.kernels.statistics import Statistics, uses_running_statistics
from ppcls_ext.models.kernels.threads import split


@dataclass(frozen=True)  # no tuple: Paddle would take its tensor for an input that wants a gradient
class Origin:
    """What a map was made of by a norm and its activation, so that the map need not be kept.

    Attributes:
        y: the map before the norm, which the norm keeps anyway.
        factors: float32 [C, 2], scale and shift of the norm.
        version: of the map's values, as Paddle counts what is done to them in place. It does not count `set_value` and
            `copy_`, which nothing here or in the suites does to a map.
    """

    y: Tensor
    factors: np.ndarray
    activation: int
    version: int


def origin_of(x: Tensor) -> Origin | None:
    """What a map was made of, if that is known and the map is what it was."""
    origin: Origin | None = getattr(x, "origin", None)
    return origin if origin is not None and origin.version == x.inplace_version else None


class Convolution(PyLayer):
    """A convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, origin: Origin | None, kernels: Kernels, threads: int) -> Tensor:
        """See `paddle.autograd.PyLayer`."""
        x, weight = x.contiguous(), weight.contiguous()
        out = empty(kernels.shape(x, weight))
        kernels.forward(x, weight, out, no_moments(), threads)
        ctx.kernels, ctx.threads, ctx.origin = kernels, threads, _without_tensor(origin)
        ctx.wanted = not x.stop_gradient, not weight.stop_gradient
        ctx.save_for_backward(x if origin is None else origin.y, weight)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """See `paddle.autograd.PyLayer`."""
        x, weight = ctx.saved_tensor()
        x_grad, weight_grad = empty(x.shape) if ctx.wanted[0] else None, empty(weight.shape)
        ctx.kernels.backward(Saved(x, weight, **ctx.origin), grad.contiguous(), x_grad, weight_grad, ctx.threads)
        return x_grad, weight_grad if ctx.wanted[1] else None


class Norm(PyLayer):
    """A batch norm with an activation after it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: Any, activation: int, threads: int) -> Tensor:
        """See `paddle.autograd.PyLayer`."""
        x = x.contiguous()
        moments = no_moments()
        if not uses_running_statistics(norm):
            moments = np.empty((x.shape[0] * x.shape[1], 2), np.float32)
            split(plane_moments, threads, len(moments), as_flat_planes(x), moments)
        statistics = Statistics.of(norm, moments, x.shape)
        ctx.statistics, ctx.activation, ctx.threads = statistics, activation, threads
        ctx.wanted = [not tensor.stop_gradient for tensor in (x, weight, bias)]
        ctx.save_for_backward(x)
        return _normalised(x, statistics, activation, threads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """See `paddle.autograd.PyLayer`."""
        (x,) = ctx.saved_tensor()
        grad, x_grad = grad.contiguous(), None
        of_norm = empty([x.shape[1]]), empty([x.shape[1]])
        constants = ctx.statistics.gradients(x, grad, ctx.activation, ctx.threads, *of_norm)
        if ctx.wanted[0]:
            x_grad = empty(x.shape)
            arrays = as_flat_planes(x), as_flat_planes(grad), constants, as_flat_planes(x_grad)
            split(normalise_backward, ctx.threads, len(arrays[0]), *arrays, ctx.activation)
        return x_grad, *_those_wanted(of_norm, ctx.wanted[1:])


class ConvolutionNorm(PyLayer):
    """A convolution, the batch norm after it, and an activation. A bias of the convolution is left to the norm.

    What lies between convolution and norm is kept, and not what comes out: by its `Origin`, the next convolution makes
    that again when it needs it for its gradients. A PyLayer cannot return an origin, so `forward` puts it into `made`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm_weight: Tensor,
        norm_bias: Tensor,
        origin: Origin | None,
        made: list[Origin],
        kernels: Kernels,
        norm: Any,
        activation: int,
        threads: int,
    ) -> Tensor:
        """See `paddle.autograd.PyLayer`."""
        x, weight = x.contiguous(), weight.contiguous()
        y = empty(kernels.shape(x, weight))
        of_batch = not uses_running_statistics(norm)
        moments = np.empty((y.shape[0] * y.shape[1], 2), np.float32) if of_batch else no_moments()
        kernels.forward(x, weight, y, moments, threads)
        statistics = Statistics.of(norm, moments, y.shape, None if bias is None else as_array(bias))
        ctx.kernels, ctx.statistics, ctx.activation, ctx.threads = kernels, statistics, activation, threads
        parameters = [tensor for tensor in (bias, norm_weight, norm_bias) if tensor is not None]
        ctx.wanted = [not tensor.stop_gradient for tensor in (x, weight, *parameters)]
        ctx.has_bias, ctx.origin = bias is not None, _without_tensor(origin)
        ctx.save_for_backward(x if origin is None else origin.y, weight, y)
        out = _normalised(y, statistics, activation, threads)
        made.append(Origin(y, np.ascontiguousarray(statistics.of_channel[2:].T), activation, out.inplace_version))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """See `paddle.autograd.PyLayer`."""
        x, weight, y = ctx.saved_tensor()
        grad = grad.contiguous()
        of_norm = empty([y.shape[1]]), empty([y.shape[1]])
        constants = ctx.statistics.gradients(y, grad, ctx.activation, ctx.threads, *of_norm)
        x_grad, weight_grad = empty(x.shape) if ctx.wanted[0] else None, empty(weight.shape)
        saved = Saved(x, weight, y, constants, ctx.activation, **ctx.origin)
        ctx.kernels.backward(saved, grad, x_grad, weight_grad, ctx.threads)
        of_bias = [ctx.statistics.gradient_of_bias(of_norm[1])] if ctx.has_bias else []
        return x_grad, *_those_wanted((weight_grad, *of_bias, *of_norm), ctx.wanted[1:])


def _without_tensor(origin: Origin | None) -> dict[str, Any]:
    """What a step keeps of an origin beside its map, as `Saved` calls it."""
    return {} if origin is None else {"factors": origin.factors, "x_activation": origin.activation}


def _normalised(y: Tensor, statistics: Statistics, activation: int, threads: int) -> Tensor:
    out = empty(y.shape)
    arrays = as_flat_planes(y), statistics.scale, statistics.shift, as_flat_planes(out)
    split(normalise, threads, len(arrays[0]), *arrays, activation)
    return out


def _those_wanted(gradients: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    return [gradient if want else None for gradient, want in zip(gradients, wanted, strict=True)]


class AddBias(PyLayer):
    """A number for each channel is added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, threads: int) -> Tensor:
        """See `paddle.autograd.PyLayer`."""
        x = x.contiguous()
        out = empty(x.shape)
        ctx.shape, ctx.threads = x.shape, threads
        ctx.wanted = not x.stop_gradient, not bias.stop_gradient
        planes = as_flat_planes(x)
        split(add_bias, threads, len(planes), planes, as_array(bias), as_flat_planes(out))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """See `paddle.autograd.PyLayer`."""
        grad = grad.contiguous()
        sums = np.empty(ctx.shape[:2], dtype=np.float32)
        split(sum_planes, ctx.threads, sums.size, as_flat_planes(grad), sums.ravel())
        bias_grad = empty([ctx.shape[1]])
        add_up(sums, as_array(bias_grad))
        return tuple(_those_wanted((grad, bias_grad), ctx.wanted))


class Hardswish(PyLayer):
    """H-Swish."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threads: int) -> Tensor:
        """See `paddle.autograd.PyLayer`."""
        x = x.contiguous()
        out = empty(x.shape)
        split(hardswish, threads, x.size, as_array(x).ravel(), as_array(out).ravel())
        ctx.threads = threads
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """See `paddle.autograd.PyLayer`."""
        (x,) = ctx.saved_tensor()
        grad, x_grad = grad.contiguous(), empty(x.shape)
        arrays = (as_array(tensor).ravel() for tensor in (x, grad, x_grad))
        split(hardswish_backward, ctx.threads, x.size, *arrays)
        return x_grad
