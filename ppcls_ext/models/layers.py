"""The layers of the blocks that `ppcls_ext.models.block_kinds` lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import KaimingNormal
from paddle.regularizer import L2Decay

from ppcls_ext.models.block_kinds import IDENTITY, SE_REDUCTION, BlockSpec, Conv, Gate, has_shortcut, parts_of

ACTIVATION_LAYERS = {
    "hardswish": nn.Hardswish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    IDENTITY: nn.Identity,
}


def undecayed_norm(channels: int, lr_mult: float = 1.0) -> nn.BatchNorm2D:
    """A batch norm without weight decay (the paper's training setting)."""
    return nn.BatchNorm2D(
        channels,
        weight_attr=ParamAttr(regularizer=L2Decay(0.0), learning_rate=lr_mult),
        bias_attr=ParamAttr(regularizer=L2Decay(0.0), learning_rate=lr_mult),
    )


def _padding(kernel: int, dilation: int) -> int | list[int]:
    """What keeps the size of a map; an even kernel is padded by one more pixel below and on the right."""
    before = (kernel - 1) // 2 * dilation
    after = (kernel - 1) * dilation - before
    return before if before == after else [before, after, before, after]


class ConvBNLayer(nn.Layer):
    """Convolution without bias, batch norm, activation."""

    fused_parts = ("conv", "bn", "act")  # see `ppcls_ext.models.kernels.layers.Fused`

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        groups: int,
        act: str,
        lr_mult: float,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel,
            stride,
            _padding(kernel, dilation),
            dilation=dilation,
            groups=groups,
            weight_attr=ParamAttr(initializer=KaimingNormal(), learning_rate=lr_mult),
            bias_attr=False,
        )
        self.bn = undecayed_norm(out_channels, lr_mult)
        self.act = ACTIVATION_LAYERS[act]()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """From float32 [N, C, H, W] to [N, C', H / stride, W / stride]."""
        return self.act(self.bn(self.conv(x)))


class Resize(nn.Layer):
    """Bilinear resizing of maps, as `paddle.nn.functional.interpolate` does it."""

    def __init__(self, align_corners: bool = False) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, x: paddle.Tensor, size: Sequence[int] | paddle.Tensor) -> paddle.Tensor:
        """From float32 [N, C, H, W] to [N, C, *size]; `size` is a tensor where a graph with free sizes is traced."""
        return nn.functional.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)


class BranchedConv(nn.Layer):
    """`ConvBNLayer` with a pointwise branch, and the normalised input where shapes allow it, added before activation.

    `folded` gives the one convolution that computes the same in inference.
    """

    def __init__(self, conv: Conv, lr_mult: float, dilation: int = 1) -> None:
        super().__init__()
        self.form, self.lr_mult, self.dilation = conv, lr_mult, dilation
        self.main = _plain(dataclasses.replace(conv, act=IDENTITY), lr_mult, dilation)
        self.pointwise = _plain(dataclasses.replace(conv, act=IDENTITY, kernel=1), lr_mult)
        self.identity = undecayed_norm(conv.in_channels, lr_mult) if conv.identity_branch else None
        self.act = ACTIVATION_LAYERS[conv.act]()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """From float32 [N, C, H, W] to [N, C', H / stride, W / stride]."""
        out = self.main(x) + self.pointwise(x)
        if self.identity is not None:
            out = out + self.identity(x)
        return self.act(out)

    def folded(self) -> ConvBNLayer:
        """One convolution with a batch norm that gives what this layer gives in eval mode.

        The norm only adds: Paddle's oneDNN passes are faster on a convolution with a norm than on one with a bias.
        """
        kernel, middle = self.form.kernel, (self.form.kernel - 1) // 2
        with paddle.no_grad():
            filters, shift = _scaled(self.main.conv.weight, self.main.bn)
            pointwise, more = _scaled(self.pointwise.conv.weight, self.pointwise.bn)
            pads = [middle, kernel - 1 - middle] * 2
            filters, shift = filters + nn.functional.pad(pointwise, pads), shift + more
            if self.identity is not None:
                ones = paddle.zeros_like(pointwise)
                per_group = self.form.in_channels // self.form.groups
                for channel in range(self.form.out_channels):
                    ones[channel, channel % per_group] = 1.0
                ones, more = _scaled(ones, self.identity)
                filters, shift = filters + nn.functional.pad(ones, pads), shift + more
            layer = _plain(self.form, self.lr_mult, self.dilation)
            layer.conv.weight.set_value(filters)
            layer.bn.bias.set_value(shift)
            layer.bn._variance.set_value(paddle.full_like(shift, 1.0 - layer.bn._epsilon))
        layer.eval()
        return layer


def _scaled(filters: paddle.Tensor, norm: nn.BatchNorm2D) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The filters times the norm's factors, and what the norm then adds."""
    scale = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)
    return filters * scale.reshape([-1, 1, 1, 1]), norm.bias - norm._mean * scale


class SEModule(nn.Layer):
    """Squeeze and excitation with ReLU and H-Sigmoid (slope 1/6, offset 0.5), reduction 4."""

    def __init__(self, channels: int, lr_mult: float, reduction: int = SE_REDUCTION) -> None:
        super().__init__()
        attrs = {"weight_attr": ParamAttr(learning_rate=lr_mult), "bias_attr": ParamAttr(learning_rate=lr_mult)}
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.conv1 = nn.Conv2D(channels, channels // reduction, 1, **attrs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2D(channels // reduction, channels, 1, **attrs)
        self.hardsigmoid = nn.Hardsigmoid()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Scale the channels of float32 [N, C, H, W]."""
        gate = self.relu(self.conv1(self.avg_pool(x)))
        return x * self.hardsigmoid(self.conv2(gate))


class Block(nn.Sequential):
    """A block of any kind: its parts in order, by their names, and the shortcut where it has one.

    Args:
        stride: of the block in its network, which decides about the shortcut.
        held: the stride is left out, since maps have reached the `output_stride` of a segmentation network.
        dilation: of the spatial convolutions.
    """

    def __init__(
        self, block: BlockSpec, in_channels: int, stride: int, lr_mult: float, held: bool = False, dilation: int = 1
    ) -> None:
        super().__init__()
        for part in parts_of(block, in_channels, stride):
            self.add_sublayer(part.name, _layer(part, lr_mult, held, dilation))
        self.shortcut = has_shortcut(block, in_channels, stride)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """From float32 [N, C, H, W] to [N, C', H / stride, W / stride]."""
        out = super().forward(x)
        return out + x if self.shortcut else out


def _layer(part: Conv | Gate, lr_mult: float, held: bool, dilation: int) -> nn.Layer:
    if isinstance(part, Gate):
        return SEModule(part.channels, lr_mult)
    if held:
        part = dataclasses.replace(part, stride=1)
    if part.branches:
        return BranchedConv(part, lr_mult, dilation)
    return _plain(part, lr_mult, dilation)


def _plain(conv: Conv, lr_mult: float, dilation: int = 1) -> ConvBNLayer:
    used = dilation if conv.kernel > 1 else 1
    sizes = conv.in_channels, conv.out_channels, conv.kernel, conv.stride, conv.groups
    return ConvBNLayer(*sizes, conv.act, lr_mult, used)
