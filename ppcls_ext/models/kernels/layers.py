"""The layers that take the place of Paddle's: `speed_up` is the way in."""

from __future__ import annotations

from functools import cache
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from ppcls_ext.models.kernels.autograd import (
    AddBias,
    Convolution,
    ConvolutionNorm,
    Hardswish,
    Norm,
    Origin,
    origin_of,
)
from ppcls_ext.models.kernels.convolutions import Dense, Depthwise, Kernels
from ppcls_ext.models.kernels.geometry import Geometry, is_plain
from ppcls_ext.models.kernels.loops.norms import HARDSWISH, NO_ACTIVATION, RELU
from ppcls_ext.models.kernels.resizing import Resized
from ppcls_ext.models.layers import Resize


def speed_up(model: nn.Layer, threads: int) -> nn.Layer:
    """Let a network's convolutions, batch norms, biases of convolutions and H-Swishes run here; gives the network.

    Parameters and their names stay. What these kernels do not do (other dtypes and devices, a graph that is traced,
    unusual convolutions) goes to Paddle as before, by the name of its class: tracing of paddle 3.2.2 takes a `super()`
    for that of another class where one layer calls another.
    """
    for layer in model.sublayers(include_self=True):
        fast = _replacement(layer)
        if fast is not None:
            layer.__class__, layer.threads = fast, threads
            if fast in (FastDepthwiseConv2D, FastDenseConv2D):
                layer.geometry = Geometry.of(layer)
    return model


def _replacement(layer: nn.Layer) -> type[nn.Layer] | None:
    kind: Any = type(layer)
    if kind is nn.Hardswish:
        return FastHardswish
    if kind is Resize:
        return FastResize
    if _fused(kind) is not None:
        return _fused(kind)
    if kind is nn.BatchNorm2D and layer._data_format == "NCHW" and not (layer.weight is None or layer.bias is None):
        return FastBatchNorm2D
    if kind is not nn.Conv2D or not is_plain(layer):
        return None
    if Geometry.of(layer) is not None:
        return FastDepthwiseConv2D if layer._groups > 1 else FastDenseConv2D
    return FastBiasConv2D if layer.bias is not None else None


def _is_ours(*tensors: Tensor) -> bool:
    if not paddle.in_dynamic_mode() or paddle.get_device() != "cpu":  # new tensors lie on this device
        return False
    return all(tensor.dtype == paddle.float32 and tensor.place.is_cpu_place() for tensor in tensors)


class Fused(nn.Layer):  # type: ignore[misc]
    """A convolution with its batch norm and activation as one step, where all three have kernels here."""

    threads: int
    parts: tuple[str, str, str | None]  # how the layer calls convolution, norm and activation

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it replaces."""
        conv, norm, act = _parts(self)
        hooked = any(layer._forward_pre_hooks or layer._forward_post_hooks for layer in (conv, norm, act) if layer)
        code = NO_ACTIVATION if act is None else activation_code(act)
        ready = isinstance(conv, nn.Conv2D) and isinstance(norm, FastBatchNorm2D) and code is not None
        if hooked or not ready or not _is_ours(x, conv.weight, norm.weight):
            # Not by the layer's own forward, which Paddle's tracing does not find from here.
            out = conv(x) if norm is None else norm(conv(x))
            return out if act is None else act(out)
        if not isinstance(conv, (FastDepthwiseConv2D, FastDenseConv2D)) or not conv.takes(x):
            return norm.activated(conv(x), code)
        parameters = conv.weight, conv.bias, norm.weight, norm.bias
        made: list[Origin] = []
        out = ConvolutionNorm.apply(x, *parameters, origin_of(x), made, conv.kernels(), norm, code, self.threads)
        if not out.stop_gradient:  # else nobody keeps what it was made of
            out.origin = made[0]
        return out


def _parts(layer: Fused) -> list[Any]:
    return [None if name is None else getattr(layer, name) for name in layer.parts]


# Layers of the suites that are a convolution and what follows it, by module and name. A layer of ours says it by a
# `fused_parts` of its own.
_PARTS: dict[str, tuple[str, str, str | None]] = {
    "paddleseg.models.layers.layer_libs.ConvBNReLU": ("_conv", "_batch_norm", "_relu"),
    "paddleseg.models.layers.layer_libs.ConvBN": ("_conv", "_batch_norm", None),
    "ppdet.modeling.layers.ConvNormLayer": ("conv", "norm", None),
}


@cache
def _fused(kind: Any) -> type[nn.Layer] | None:
    parts = vars(kind).get("fused_parts") or _PARTS.get(f"{kind.__module__}.{kind.__qualname__}")
    return None if parts is None else type(f"Fast{kind.__name__}", (Fused, kind), {"parts": parts})


def activation_code(layer: nn.Layer) -> int | None:
    """What the kernels call this activation; None if they do not have it."""
    kinds = {nn.Hardswish: HARDSWISH, nn.ReLU: RELU, nn.Identity: NO_ACTIVATION}
    layer = getattr(layer, "act_func", layer)  # PaddleSeg's has a layer inside
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
            return nn.Conv2D.forward(self, x)
        out = Convolution.apply(x, self.weight, origin_of(x), self.kernels(), self.threads)
        return out if self.bias is None else AddBias.apply(out, self.bias, self.threads)


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
            return nn.Conv2D.forward(self, x)
        sizes = self._stride, self._padding, self._dilation, self._groups
        return AddBias.apply(functional.conv2d(x, self.weight, None, *sizes), self.bias, self.threads)


class FastBatchNorm2D(nn.BatchNorm2D):
    """`paddle.nn.BatchNorm2D`; float32 [N, C, H, W] to the same shape."""

    threads: int

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it replaces; on the CPU by our kernel."""
        fits = x.ndim == 4 and x.shape[1] == self._num_features and _is_ours(x, self.weight)
        return self.activated(x, NO_ACTIVATION) if fits else nn.BatchNorm2D.forward(self, x)

    def activated(self, x: Tensor, code: int) -> Tensor:
        """The norm of float32 [N, C, H, W], with an activation after it."""
        return Norm.apply(x, self.weight, self.bias, self, code, self.threads)


class FastResize(Resize):
    """`Resize`; float32 [N, C, H, W] to [N, C, H', W']."""

    threads: int

    def forward(self, x: Tensor, size: Any) -> Tensor:
        """As the layer that it replaces; numbers on the CPU by our kernel."""
        if self.align_corners or not isinstance(size, (list, tuple)) or not _is_ours(x):
            return Resize.forward(self, x, size)
        return Resized.apply(x, (int(size[0]), int(size[1])), self.threads)


class FastHardswish(nn.Hardswish):
    """`paddle.nn.Hardswish`; float32 of any shape to the same shape."""

    threads: int

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it replaces; on the CPU by our kernel."""
        return Hardswish.apply(x, self.threads) if _is_ours(x) else nn.Hardswish.forward(self, x)
