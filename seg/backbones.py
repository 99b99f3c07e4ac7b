"""Backbones for PaddleSeg's networks: `feat_channels`, and `forward` gives the maps of strides 4, 8, 16 and 32."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import paddle
from paddle import nn

from ppcls_ext.core.registry import Registry
from ppcls_ext.models import lcnet
from ppcls_ext.models.backbones import build_from
from ppcls_ext.models.factory import EVEN_RATES, SEARCHED
from ppcls_ext.models.network_spec import NetworkSpec, parse_spec
from ppcls_ext.models.newer import NEWER
from ppcls_ext.models.spec import LAST_SEVEN, LAST_TWO, SPECS, LCNetSpec
from ppcls_ext.upstream.paddleseg import paddleseg

STEM_STRIDE = 2

BACKBONES = Registry("backbone of segmentation networks")  # what `Arch.backbone.name` may be


class Trunk(lcnet.PPLCNet):
    """Any network of the space without its head (the same parameter names as in classification) as PaddleSeg wants it.

    Args:
        spec: which network.
        output_stride: 32 (the paper), or 16 or 8, where the last strides become dilations.
        lr_mult_list: learning-rate multipliers of the stem and of blocks2 to blocks6.

    Shapes: float32 [N, 3, H, W] to four maps float32 [N, feat_channels[i], H / stride, W / stride].
    """

    def __init__(
        self, spec: LCNetSpec | NetworkSpec, output_stride: int = 32, lr_mult_list: Sequence[float] = EVEN_RATES
    ) -> None:
        super().__init__(spec, 0, lr_mult_list, output_stride)
        self.feat_channels = [self.feature_channels[stride] for stride in lcnet.FEATURE_STRIDES]

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """The maps at strides 4, 8, 16 and 32 (or dilated) of float32 [N, 3, H, W], finest first."""
        return list(self.features(x).values())


class PPLCNet(Trunk):
    """The trunk of PP-LCNet.

    Args:
        scale, act, se, kernel5: see `ppcls_ext.models.spec.LCNetSpec`.
        output_stride, lr_mult_list: see `Trunk`.
    """

    def __init__(
        self,
        scale: float = 1.0,
        act: str = "hardswish",
        se: str = LAST_TWO,
        kernel5: str = LAST_SEVEN,
        output_stride: int = 32,
        lr_mult_list: Sequence[float] = EVEN_RATES,
    ) -> None:
        super().__init__(LCNetSpec(scale, act, se, kernel5), output_stride, lr_mult_list)


def _named(name: str, output_stride: int = 32, lr_mult_list: Sequence[float] = EVEN_RATES) -> PPLCNet:
    """The trunk of one of the paper's networks, by its name."""
    spec = SPECS[name]
    return PPLCNet(spec.scale, spec.act, spec.se, spec.kernel5, output_stride, lr_mult_list)


def _searched(arch: str, output_stride: int = 32, lr_mult_list: Sequence[float] = EVEN_RATES) -> Trunk:
    """The trunk of the network that `arch` describes, see `ppcls_ext.models.network_spec.parse_spec`."""
    return Trunk(parse_spec(arch), output_stride, lr_mult_list)


def dilate(strides: Sequence[int], output_stride: int) -> list[tuple[int, int]]:
    """(stride, dilation) of each depthwise convolution once the total stride is held at `output_stride`.

    A stride that would go past it becomes 1; the convolution itself still looks at the old grid, and what follows
    is dilated twice as much. So the subsampled maps are those of the network with all its strides.
    """
    reached, dilation, held = STEM_STRIDE, 1, []
    for stride in strides:
        used = dilation
        if stride == 2 and reached >= output_stride:
            stride, dilation = 1, dilation * 2
        reached *= stride
        held.append((stride, used))
    return held


def mobilenet_v3_large(scale: float = 1.0, output_stride: int = 32) -> nn.Layer:
    """PaddleSeg's MobileNetV3-large at any scale and output stride (it ships OS 32, and OS 8 at 1x only)."""
    if not isinstance(scale, (int, float)) or not scale > 0:
        raise ValueError(f"scale must be a positive number, got {scale!r}")
    module = paddleseg("models.backbones.mobilenetv3")
    rows = module.NET_CONFIG["large"]
    held = dilate([row[5] for row in rows], output_stride)
    config = [[*row[:5], stride, dilation] for row, (stride, dilation) in zip(rows, held, strict=True)]
    stages = module.MODEL_STAGES_PATTERN["MobileNetV3_large"]
    return module.MobileNetV3(config, stages, module.OUT_INDEX["large"], scale=scale)


BACKBONES.register("PPLCNet", PPLCNet)
for _name in SPECS:
    BACKBONES.register(_name, functools.partial(_named, _name))
BACKBONES.register(SEARCHED, _searched)
for _name, _network in NEWER.items():
    BACKBONES.register(_name, functools.partial(Trunk, _network))
BACKBONES.register("MobileNetV3_large", mobilenet_v3_large)


def build_backbone(section: Mapping[str, Any], output_stride: int) -> nn.Layer:
    """The network of `Arch.backbone`.

    Raises:
        UserError: no name, an unknown name or key, or a value that the network refuses.
    """
    return build_from(BACKBONES, section, {"output_stride": output_stride})


def register_with_paddleseg() -> Any:
    """Put our PPLCNet into PaddleSeg's `manager.BACKBONES`, for its own configs; gives the manager. Safe to repeat.

    Raises:
        KeyError: another class has that name there; PaddleSeg itself would silently replace it.
    """
    manager = paddleseg("cvlibs.manager")
    owner = manager.BACKBONES.components_dict.get("PPLCNet")
    if owner is None:
        manager.BACKBONES.add_component(PPLCNet)
    elif owner is not PPLCNet:
        raise KeyError(f"PaddleSeg backbone 'PPLCNet' is already registered by {owner.__module__}.{owner.__qualname__}")
    return manager
