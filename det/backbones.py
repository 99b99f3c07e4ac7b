"""Backbones for PaddleDetection's detectors: `out_shape`, and `forward` gives the maps of the asked strides."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import paddle
from paddle import nn

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.registry import Registry
from ppcls_ext.models import lcnet
from ppcls_ext.models.backbones import build_from
from ppcls_ext.models.factory import EVEN_RATES, SEARCHED
from ppcls_ext.models.network_spec import NetworkSpec, parse_spec
from ppcls_ext.models.newer import NEWER
from ppcls_ext.models.spec import LAST_SEVEN, LAST_TWO, SPECS, LCNetSpec
from ppcls_ext.upstream.paddleclas import parameter_names_may_repeat
from ppcls_ext.upstream.paddledet import ppdet

_workspace = ppdet("core.workspace")
_ShapeSpec = ppdet("modeling.shape_spec").ShapeSpec
_mobilenet = ppdet("modeling.backbones.mobilenet_v3")

BACKBONES = Registry("backbone of detectors")  # what `Arch.backbone.name` may be
STRIDES = (8, 16, 32)


class Trunk(lcnet.PPLCNet):
    """Any network of the space without its head, as PaddleDetection wants a backbone.

    Args:
        spec: which network.
        feature_strides: of the maps to give, among 4, 8, 16, 32.
        lr_mult_list: learning-rate multipliers of the stem and of blocks2 to blocks6.

    Shapes: `forward` takes {'image': float32 [N, 3, H, W]} and gives float32 [N, C, H/stride, W/stride] each.
    """

    def __init__(
        self,
        spec: LCNetSpec | NetworkSpec,
        feature_strides: Sequence[int] = STRIDES,
        lr_mult_list: Sequence[float] = EVEN_RATES,
    ) -> None:
        unknown = [s for s in feature_strides if s not in lcnet.FEATURE_STRIDES]
        if unknown or not feature_strides:
            raise ValueError(f"feature_strides must be among {lcnet.FEATURE_STRIDES}, got {list(feature_strides)}")
        super().__init__(spec, 0, lr_mult_list)
        self.feature_strides = tuple(feature_strides)

    def forward(self, inputs: Mapping[str, paddle.Tensor]) -> list[paddle.Tensor]:
        """The maps of the asked strides, finest first; see the class for shapes."""
        maps = self.features(inputs["image"])
        return [maps[stride] for stride in self.feature_strides]

    @property
    def out_shape(self) -> list[Any]:
        """Channels and stride of each map, as PaddleDetection's `ShapeSpec`."""
        return [_ShapeSpec(channels=self.feature_channels[s], stride=s) for s in self.feature_strides]


# PaddleDetection refuses a name that is taken (its own LCNet is another one): nothing is overwritten.
@_workspace.register
@_workspace.serializable
class PPLCNet(Trunk):
    """The PP-LCNet trunk.

    Args:
        scale, act, se, kernel5: as in `ppcls_ext.models.spec.LCNetSpec`.
        feature_strides, lr_mult_list: see `Trunk`.
    """

    # The parameters have no annotations: PaddleDetection checks the values in its YAML by them, and cannot read text.
    def __init__(  # type: ignore[no-untyped-def]
        self,
        scale=1.0,
        act="hardswish",
        se=LAST_TWO,
        kernel5=LAST_SEVEN,
        feature_strides=STRIDES,
        lr_mult_list=(1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    ):
        super().__init__(LCNetSpec(scale, act, str(se), str(kernel5), 0, 0.0), feature_strides, lr_mult_list)


def _named(name: str, feature_strides: Sequence[int] = STRIDES, lr_mult_list: Sequence[float] = EVEN_RATES) -> PPLCNet:
    """The trunk of one of the paper's networks, by its name."""
    spec = SPECS[name]
    return PPLCNet(spec.scale, spec.act, spec.se, spec.kernel5, feature_strides, lr_mult_list)


def _searched(arch: str, feature_strides: Sequence[int] = STRIDES, lr_mult_list: Sequence[float] = EVEN_RATES) -> Trunk:
    """The trunk of the network that `arch` describes, see `ppcls_ext.models.network_spec.parse_spec`."""
    return Trunk(parse_spec(arch), feature_strides, lr_mult_list)


def mobilenet_v3_large(scale: float = 1.0, lr_mult_list: Sequence[float] = (1.0,) * 5) -> nn.Layer:
    """MobileNetV3-large, with the maps that the public PicoDet configs take (strides 8, 16, 32).

    Its convolutions have no weight decay whatever the optimizer says (`conv_decay=0`), as in the public configs.
    """
    with parameter_names_may_repeat():
        return _mobilenet.MobileNetV3(
            scale=scale,
            model_name="large",
            feature_maps=[7, 13, 16],
            with_extra_blocks=False,
            extra_block_filters=[],
            lr_mult_list=list(lr_mult_list),
        )


BACKBONES.register("PPLCNet", PPLCNet)
for _name in SPECS:
    BACKBONES.register(_name, functools.partial(_named, _name))
BACKBONES.register(SEARCHED, _searched)
for _name, _network in NEWER.items():
    BACKBONES.register(_name, functools.partial(Trunk, _network))
BACKBONES.register("MobileNetV3_large", mobilenet_v3_large)
BACKBONES.register("MobileNetV3", mobilenet_v3_large)  # the name in configs and run folders written so far


def strides_of(section: Mapping[str, Any]) -> list[int]:
    """Strides of the maps that `Arch.backbone` asks for.

    Raises:
        UserError: not a pyramid, in which each map is half as large as the one before.
    """
    strides = section.get("feature_strides", STRIDES)
    allowed = lcnet.FEATURE_STRIDES
    if (
        not isinstance(strides, (list, tuple))
        or not strides
        or strides[0] not in allowed
        or list(strides) != list(allowed[allowed.index(strides[0]) :][: len(strides)])
    ):
        raise UserError(f"Arch.backbone.feature_strides: expected neighbours among {allowed}, got {strides}")
    return list(strides)


def build_backbone(section: Mapping[str, Any]) -> tuple[nn.Layer, list[int], list[int]]:
    """The network of `Arch.backbone`, with channels and strides of its maps.

    Raises:
        UserError: no name, an unknown name or key, or a value that the network refuses.
    """
    strides = strides_of(section)
    backbone = build_from(BACKBONES, section)
    return backbone, [shape.channels for shape in backbone.out_shape], strides
