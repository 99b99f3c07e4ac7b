"""Newer light networks by name, each a point of the same space: none of them needs code of its own."""

from __future__ import annotations

from ppcls_ext.models.network_spec import NetworkSpec, parse_spec

# MobileNetV4 (Qin et al., 2024, arXiv 2404.10518), the convolutional variants.
_MOBILENET_V4_CONV_SMALL = (
    "stem32-relu | - | conv-c32-relu conv-c32-k1-relu | conv-c96-relu conv-c64-k1-relu | "
    "ir-c96-k5-s5-e3-relu ir-c96-e2-relu*4 ir-c96-k0-s3-e4-relu | "
    "ir-c128-s3-e6-relu ir-c128-k5-s5-e4-relu ir-c128-k5-e4-relu ir-c128-k5-e3-relu ir-c128-e4-relu*2 "
    "conv-c960-k1-relu | last1280-norm-drop0.2 | 224"
)
_MOBILENET_V4_CONV_MEDIUM = (
    "stem32-relu | - | fused-c48-e4-relu | ir-c80-k5-s3-e4-relu ir-c80-s3-e2-relu | "
    "ir-c160-k5-s3-e6-relu ir-c160-s3-e4-relu*2 ir-c160-k5-s3-e4-relu ir-c160-s3-e4-relu ir-c160-k0-s3-e4-relu "
    "ir-c160-k0-e2-relu ir-c160-k0-s3-e4-relu | "
    "ir-c256-k5-s5-e6-relu ir-c256-k5-s5-e4-relu ir-c256-k5-s3-e4-relu*2 ir-c256-k0-e4-relu ir-c256-k0-s3-e4-relu "
    "ir-c256-k5-s3-e2-relu ir-c256-k5-s5-e4-relu ir-c256-k0-e4-relu*2 ir-c256-k0-s5-e2-relu "
    "conv-c960-k1-relu | last1280-norm-drop0.2 | 224"
)

# Every name that `Arch.name` and `Arch.backbone.name` may use for one of them.
NEWER: dict[str, NetworkSpec] = {
    "MobileNetV4_conv_small": parse_spec(_MOBILENET_V4_CONV_SMALL),
    "MobileNetV4_conv_medium": parse_spec(_MOBILENET_V4_CONV_MEDIUM),
}
