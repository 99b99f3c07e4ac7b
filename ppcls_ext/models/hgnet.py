"""PP-HGNetV2-B0, which joins the outputs of all layers of a block and so is no chain of `block_kinds`.

Its structure is that of PaddleClas's documentation; parameters have names of their own.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
from paddle import nn
from paddle.nn import functional

from ppcls_ext.models.block_kinds import IDENTITY
from ppcls_ext.models.layers import ConvBNLayer

STEM_WIDTH, LAST_WIDTH = 16, 2048
LAYERS = 3  # every block has so many


class Stage(NamedTuple):
    """A stage: channels inside a layer and behind a block, and what its layers are."""

    inner: int
    width: int
    blocks: int
    halves: bool  # the map, by a depthwise convolution before the blocks
    light: bool  # a layer is a pointwise and a depthwise convolution
    kernel: int


B0 = (
    Stage(16, 64, 1, False, False, 3),
    Stage(32, 256, 1, True, False, 3),
    Stage(64, 512, 2, True, True, 5),
    Stage(128, 1024, 1, True, True, 5),
)


class Affine(nn.Layer):
    """A learned factor and summand, one each for the whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([1], is_bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Any shape to the same shape."""
        return self.scale * x + self.bias


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(ConvBNLayer(in_channels, out_channels, kernel, stride, groups, "relu", 1.0), Affine())


def _linear(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> ConvBNLayer:
    return ConvBNLayer(in_channels, out_channels, kernel, stride, groups, IDENTITY, 1.0)


class Stem(nn.Layer):
    """Two convolutions of stride 2; between them 2x2 kernels beside a pool."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(3, width, 3, 2)
        self.narrow, self.widen = _conv(width, width // 2, 2), _conv(width // 2, width, 2)
        self.pool = nn.MaxPool2D(2, 1)
        self.second, self.mix = _conv(2 * width, width, 3, 2), _conv(width, width, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """From float32 [N, 3, H, W] to [N, C, H / 4, W / 4]."""
        x = self.first(x)
        pooled = self.pool(functional.pad(x, [0, 1, 0, 1]))
        x = paddle.concat([pooled, self.widen(self.narrow(x))], axis=1)
        return self.mix(self.second(x))


class HGBlock(nn.Layer):
    """Layers in a row, whose outputs and input are joined and mixed by two pointwise convolutions."""

    def __init__(self, in_channels: int, stage: Stage, shortcut: bool) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.layers = nn.LayerList()
        for index in range(LAYERS):
            channels = stage.inner if index else in_channels
            if stage.light:
                depthwise = _conv(stage.inner, stage.inner, stage.kernel, 1, stage.inner)
                self.layers.append(nn.Sequential(_linear(channels, stage.inner), depthwise))
            else:
                self.layers.append(_conv(channels, stage.inner, stage.kernel))
        joined = in_channels + LAYERS * stage.inner
        self.mix = nn.Sequential(_conv(joined, stage.width // 2, 1), _conv(stage.width // 2, stage.width, 1))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """From float32 [N, C, H, W] to [N, C', H, W]."""
        maps = [x]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        out = self.mix(paddle.concat(maps, axis=1))
        return out + x if self.shortcut else out


class PPHGNetV2(nn.Layer):
    """PP-HGNetV2 for classification: float32 [N, 3, H, W] to logits float32 [N, class_num]."""

    def __init__(self, stages: tuple[Stage, ...] = B0, class_num: int = 1000) -> None:
        super().__init__()
        parts: list[nn.Layer] = [Stem(STEM_WIDTH)]
        channels = STEM_WIDTH
        for stage in stages:
            if stage.halves:
                parts.append(_linear(channels, channels, 3, 2, channels))
            for index in range(stage.blocks):
                parts.append(HGBlock(channels, stage, shortcut=index > 0))
                channels = stage.width
        self.trunk = nn.Sequential(*parts)
        self.avg_pool = nn.AdaptiveAvgPool2D(1)
        self.last_conv = nn.Conv2D(channels, LAST_WIDTH, 1, bias_attr=False)
        self.act, self.affine = nn.ReLU(), Affine()
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(LAST_WIDTH, class_num)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Logits; see the class for shapes."""
        x = self.last_conv(self.avg_pool(self.trunk(x)))
        return self.fc(self.flatten(self.affine(self.act(x))))
