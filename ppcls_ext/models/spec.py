"""PP-LCNet as data: Table 1 of the paper, and every network of Tables 2 and 6 to 9 as a frozen spec.

Source: Cui et al., "PP-LCNet: A Lightweight CPU Convolutional Neural Network", 2021 (arXiv 2109.15099).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

from ppcls_ext.models.block_kinds import BlockSpec, round_width
from ppcls_ext.models.network_spec import STAGES, NetworkSpec

BASE_STEM_WIDTH = 16
BASE_LAST_WIDTH = 1280  # the last 1x1 convolution; it does not scale

LARGEST_SCALE = 16  # the widest layer then has 8192 channels
WIDEST = 65_536  # channels of the last 1x1 convolution

SCALES = (0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5)


class BlockRow(NamedTuple):
    """A DepthSepConv row of Table 1 at scale 1."""

    stage: str  # name of the stage in the public weights
    width: int  # output channels
    stride: int


# Table 1. Kernel sizes and SE are masks of the spec, since Tables 7 and 8 vary them.
BLOCKS = (
    BlockRow("blocks2", 32, 1),
    BlockRow("blocks3", 64, 2),
    BlockRow("blocks3", 64, 1),
    BlockRow("blocks4", 128, 2),
    BlockRow("blocks4", 128, 1),
    BlockRow("blocks5", 256, 2),
    BlockRow("blocks5", 256, 1),
    BlockRow("blocks5", 256, 1),
    BlockRow("blocks5", 256, 1),
    BlockRow("blocks5", 256, 1),
    BlockRow("blocks5", 256, 1),
    BlockRow("blocks6", 512, 2),
    BlockRow("blocks6", 512, 1),
)

NONE, ALL = "0" * len(BLOCKS), "1" * len(BLOCKS)
LAST_TWO = "0000000000011"
LAST_SEVEN = "0000001111111"


@dataclass(frozen=True)
class LCNetSpec:
    """One network of the family. The defaults are PP-LCNet-1x; masks have a digit for each of the 13 blocks."""

    scale: float = 1.0
    act: str = "hardswish"  # or "relu"; the gate of SE is always ReLU and H-Sigmoid
    se: str = LAST_TWO
    kernel5: str = LAST_SEVEN
    last_width: int = BASE_LAST_WIDTH  # 0: no last 1x1 convolution
    dropout: float = 0.2  # share of the last 1x1 convolution's output that is dropped
    strides: tuple[int, ...] = (2, 2, 2, 2, 2)  # strides of the stem and of the first blocks in blocks3 to blocks6

    def __post_init__(self) -> None:
        if not isinstance(self.scale, (int, float)) or not 0 < self.scale <= LARGEST_SCALE:
            raise ValueError(f"scale must be a positive number, got {self.scale!r}; at most {LARGEST_SCALE}")
        if self.act not in ("hardswish", "relu"):
            raise ValueError(f"act must be 'hardswish' or 'relu', got {self.act!r}")
        for name in ("se", "kernel5"):
            mask = getattr(self, name)
            if len(mask) != len(BLOCKS) or set(mask) - {"0", "1"}:
                raise ValueError(f"{name} must be {len(BLOCKS)} digits of 0 and 1, got {mask!r}")
        if not _is_whole(self.last_width, 0, WIDEST) or not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ValueError(
                f"last_width must be a whole number from 0 to {WIDEST} and dropout in [0, 1), "
                f"got {self.last_width!r}, {self.dropout!r}"
            )
        if not self.last_width and self.dropout:
            raise ValueError("dropout follows the last 1x1 convolution: without it (last_width 0) dropout must be 0")
        if len(self.strides) != 5 or not all(_is_whole(stride, 1, 4) for stride in self.strides):
            raise ValueError(f"strides must be 5 numbers from 1 to 4 (stem, blocks3 to blocks6), got {self.strides}")

    def width(self, base: int) -> int:
        """Channels at this scale of a layer that has `base` at scale 1."""
        return round_width(base * self.scale)

    def network(self) -> NetworkSpec:
        """The same network as a point of the space of all networks."""
        stages: dict[str, list[BlockSpec]] = {stage: [] for stage in STAGES}
        for block, se, large in zip(BLOCKS, self.se, self.kernel5, strict=True):
            kernel = 5 if large == "1" else 3
            stages[block.stage].append(BlockSpec("ds", self.width(block.width), kernel, self.act, se == "1"))
        stem_stride, *stage_strides = self.strides
        return NetworkSpec(
            stem=self.width(BASE_STEM_WIDTH),
            stages=tuple(map(tuple, stages.values())),
            act=self.act,
            last_width=self.last_width,
            dropout=self.dropout,
            strides=(stem_stride, 1, *stage_strides),
        )

    def replace(self, **changes: object) -> LCNetSpec:
        """The spec with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def scale_name(scale: float) -> str:
    """The paper's scale as PaddleClas spells it: 0.25 -> 'x0_25', 1.0 -> 'x1_0'."""
    return "x" + str(float(scale)).replace(".", "_")


def _named_specs() -> dict[str, LCNetSpec]:
    half = LCNetSpec(scale=0.5)
    base = LCNetSpec(scale=0.5, act="relu", se=NONE, kernel5=NONE, last_width=0, dropout=0.0)
    specs = {f"PPLCNet_{scale_name(s)}": LCNetSpec(scale=s) for s in SCALES}
    specs |= {  # Table 6: one technique removed
        "PPLCNet_x0_5_no_hswish": half.replace(act="relu"),
        "PPLCNet_x0_5_no_se": half.replace(se=NONE),
        "PPLCNet_x0_5_no_large_kernel": half.replace(kernel5=NONE),
        "PPLCNet_x0_5_no_last_conv": half.replace(last_width=0, dropout=0.0),
    }
    specs |= {f"PPLCNet_x0_5_se_{m}": half.replace(se=m) for m in ("1100000000000", "0000001100000", LAST_TWO, ALL)}
    specs |= {f"PPLCNet_x0_5_k5_{m}": half.replace(kernel5=m) for m in (ALL, "1111111000000", LAST_SEVEN)}
    # Table 9: one technique added at a time
    steps = {
        "PPLCNet_x0_5_base": base,
        "PPLCNet_x0_5_base_hswish": base.replace(act="hardswish"),
        "PPLCNet_x0_5_base_hswish_k5": base.replace(act="hardswish", kernel5=LAST_SEVEN),
        "PPLCNet_x0_5_base_hswish_k5_se": base.replace(act="hardswish", kernel5=LAST_SEVEN, se=LAST_TWO),
        "PPLCNet_x0_5_no_dropout": half.replace(dropout=0.0),
    }
    return specs | steps


# Every name that `Arch.name` may use for a network of this family.
SPECS: dict[str, LCNetSpec] = _named_specs()
