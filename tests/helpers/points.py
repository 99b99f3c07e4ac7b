"""Small networks of the space, as texts of their specs."""

from __future__ import annotations

TAIL = "| ds-c40 | ds-c48-k5 | ds-c64-se | last32-drop0.2 | 64"

SMALL = f"stem8 | ds-c16 | ds-c24 ds-c32-k5-se-relu {TAIL}"

# Each block kind with a stride and without, with its options, and what else a spec may say.
EVERY_KIND = {
    "ds": SMALL,
    "rep": f"stem8 | rep-c16 | rep-c24-k5 rep-c24-se {TAIL}",
    "ir": f"stem8 | ir-c16 | ir-c24-e4 ir-c24-k5-e2.5-se {TAIL}",
    "ir of MobileNetV4": f"stem8-relu | - | ir-c24-s5-e3-relu ir-c24-k0-s3-e2-relu ir-c24-k0-e4-relu {TAIL}",
    "fused": f"stem8 | fused-c16 | fused-c24-k2-e4-g2 fused-c24-e2-se {TAIL}",
    "grouped": f"stem8 | grouped-c16-g2 | grouped-c24-k2-g2 grouped-c24-g4 {TAIL}",
    "conv": "stem8-relu | conv-c16-k2-relu | conv-c24 conv-c32-k1-gelu | ds-c40 | ds-c48 | ds-c64-relu6 | last0 | 96",
    "2x2": f"stem8 | ds-c16-k2 | ds-c24-k2 ir-c32-k2-e2 {TAIL}",
    "norm": "stem8-strides122221 | ds-c16 | ds-c24 | ds-c40 | ds-c48 | ds-c64 | last32-norm | 64",
}

# All of the kinds in one network.
MIXED = (
    "stem8 | conv-c16-k2-relu | rep-c24 fused-c24-k2-e2-g2-se | grouped-c40-g2 rep-c40-k5 | "
    "ir-c48-k5-s3-e3-se ir-c48-k0-e2 | ds-c64-k2 ds-c64-se | last32-norm-drop0.2 | 64"
)
