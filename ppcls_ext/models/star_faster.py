"""StarNet-S1 and FasterNet-T0, whose blocks multiply maps or compute a part of the channels: no chain of `block_kinds`.

Only their structure is here, for comparisons of latency; parameters have names of their own.
"""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn import functional

from ppcls_ext.models.block_kinds import IDENTITY
from ppcls_ext.models.layers import ConvBNLayer

# StarNet (Ma et al., 2024, arXiv 2403.19967), the variant S1
STAR_STEM, STAR_WIDTHS, STAR_DEPTHS = 32, (24, 48, 96, 192), (2, 2, 8, 3)
STAR_EXPANSION, STAR_KERNEL = 4, 7

# FasterNet (Chen et al., 2023, arXiv 2303.03667), the variant T0
FASTER_WIDTHS, FASTER_DEPTHS = (40, 80, 160, 320), (1, 2, 8, 2)
FASTER_EXPANSION, FASTER_SHARE, FASTER_LAST = 2, 4, 1280


class StarBlock(nn.Layer):
    """A depthwise convolution, two pointwise ones whose outputs are multiplied, a pointwise and a depthwise one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden, padding = STAR_EXPANSION * width, STAR_KERNEL // 2
        self.first = ConvBNLayer(width, width, STAR_KERNEL, 1, width, IDENTITY, 1.0)
        self.gate, self.value = nn.Conv2D(width, hidden, 1), nn.Conv2D(width, hidden, 1)
        self.narrow = ConvBNLayer(hidden, width, 1, 1, 1, IDENTITY, 1.0)
        self.last = nn.Conv2D(width, width, STAR_KERNEL, padding=padding, groups=width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """float32 [N, C, H, W] to the same shape."""
        y = self.first(x)
        return x + self.last(self.narrow(functional.relu6(self.gate(y)) * self.value(y)))


class FasterBlock(nn.Layer):
    """A 3x3 convolution of a quarter of the channels, then two pointwise ones of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taken = width // FASTER_SHARE
        self.partial = nn.Conv2D(self.taken, self.taken, 3, padding=1, bias_attr=False)
        self.widen = ConvBNLayer(width, FASTER_EXPANSION * width, 1, 1, 1, "gelu", 1.0)
        self.narrow = nn.Conv2D(FASTER_EXPANSION * width, width, 1, bias_attr=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """float32 [N, C, H, W] to the same shape."""
        taken, rest = x[:, : self.taken], x[:, self.taken :]
        return x + self.narrow(self.widen(paddle.concat([self.partial(taken), rest], axis=1)))


def star_net_s1(class_num: int = 1000) -> nn.Layer:
    """StarNet-S1: float32 [N, 3, H, W] to logits float32 [N, class_num]."""
    parts: list[nn.Layer] = [ConvBNLayer(3, STAR_STEM, 3, 2, 1, "relu6", 1.0)]
    channels = STAR_STEM
    for width, depth in zip(STAR_WIDTHS, STAR_DEPTHS, strict=True):
        parts.append(ConvBNLayer(channels, width, 3, 2, 1, IDENTITY, 1.0))
        parts += [StarBlock(width) for _ in range(depth)]
        channels = width
    parts += [nn.BatchNorm2D(channels), nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(channels, class_num)]
    return nn.Sequential(*parts)


def faster_net_t0(class_num: int = 1000) -> nn.Layer:
    """FasterNet-T0: float32 [N, 3, H, W], sides that 32 divides, to logits float32 [N, class_num]."""
    parts: list[nn.Layer] = []
    channels = 3
    for width, depth in zip(FASTER_WIDTHS, FASTER_DEPTHS, strict=True):
        step = 2 if parts else 4
        parts += [nn.Conv2D(channels, width, step, stride=step, bias_attr=False), nn.BatchNorm2D(width)]
        parts += [FasterBlock(width) for _ in range(depth)]
        channels = width
    parts += [nn.AdaptiveAvgPool2D(1), nn.Conv2D(channels, FASTER_LAST, 1, bias_attr=False), nn.GELU(), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(FASTER_LAST, class_num))
