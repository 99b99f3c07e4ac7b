"""Any network of the space as frozen data: stem, five stages of blocks, head. It builds nothing and imports no Paddle.

A spec has a text of one line, such as PP-LCNet-1x's
`stem16 | ds-c32 | ds-c64*2 | ds-c128*2 | ds-c256 ds-c256-k5*5 | ds-c512-k5-se*2 | last1280-drop0.2 | 224`,
which a config holds as `Arch.arch` and from which the same spec is read again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ppcls_ext.core.errors import nearest
from ppcls_ext.models.block_kinds import (
    ACTIVATIONS,
    BlockSpec,
    Conv,
    Gate,
    Part,
    act_suffix,
    check_act,
    check_width,
    digits,
    parts_of,
)

STAGES = ("blocks2", "blocks3", "blocks4", "blocks5", "blocks6")  # their names in the public weights
STRIDES = (2, 1, 2, 2, 2, 2)  # of the stem and of the first block of each stage
LARGEST_STRIDE = 32  # stride of the last map; where maps must lie on an image's grid, its sides are multiples of it
STEM_KERNEL = 3
IMAGE_CHANNELS = 3
CLASSES = 1000  # ImageNet has so many; counts that name no other number are of these
BATCH_NORM_WORK = 2  # multiply-adds of an element of a batch norm's output, as `models.counting.RULE` says

Stages = tuple[tuple[BlockSpec, ...], ...]


class PlacedBlock(NamedTuple):
    """A block where it stands in its network."""

    stage: int  # 0 to 4
    position: int  # in its stage, from 0
    block: BlockSpec
    in_channels: int
    stride: int


class SpecCount(NamedTuple):
    """Trainable parameters and multiply-adds of one image, by `ppcls_ext.models.counting.RULE`."""

    params: int
    flops: int


@dataclass(frozen=True)
class NetworkSpec:
    """One network. The last map of each stage has stride 2, 4, 8, 16 and 32 where `strides` are the usual ones.

    Attributes:
        stem: channels of the first convolution (3x3), a multiple of 8.
        stages: five tuples of blocks; the first may be empty.
        act: of the stem and of the last convolution.
        last_width: the 1x1 convolution between pooling and the classifier; 0: none.
        dropout: of the last convolution's output.
        input_size: side of the images that the network is meant for, in pixels; counts are for it.
        strides: of the stem and of the first block of each stage.
        last_norm: whether a batch norm follows the last convolution.
    """

    stem: int
    stages: Stages
    act: str = "hardswish"
    last_width: int = 1280
    dropout: float = 0.2
    input_size: int = 224
    strides: tuple[int, ...] = STRIDES
    last_norm: bool = False

    def __post_init__(self) -> None:
        check_width("stem", self.stem)
        check_act(self.act)
        if len(self.stages) != len(STAGES):
            raise ValueError(f"stages must be {len(STAGES)} (the first may be empty), got {len(self.stages)}")
        empty = [name for name, blocks in zip(STAGES[1:], self.stages[1:], strict=True) if not blocks]
        if empty:
            raise ValueError(f"stage {empty[0]} has no block: only {STAGES[0]} may be empty")
        if self.last_width:
            check_width("last", self.last_width)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not self.last_width and (self.dropout or self.last_norm):
            raise ValueError("dropout and a norm follow the last 1x1 convolution: without it (last0) there is neither")
        if len(self.strides) != len(STRIDES) or set(self.strides) - {1, 2}:
            raise ValueError(f"strides must be {len(STRIDES)} numbers, each 1 or 2, got {self.strides}")
        size = self.input_size
        if isinstance(size, bool) or not isinstance(size, int) or size <= 0 or size % LARGEST_STRIDE:
            raise ValueError(f"input size must be a positive multiple of {LARGEST_STRIDE}, got {size!r}")
        for placed in self.placed_blocks():
            _check_placed(placed)

    # Structure

    def placed_blocks(self) -> Iterator[PlacedBlock]:
        """Every block with its input channels and its stride, from the stem to the head."""
        channels = self.stem
        for stage, blocks in enumerate(self.stages):
            for index, block in enumerate(blocks):
                yield PlacedBlock(stage, index, block, channels, 1 if index else self.strides[stage + 1])
                channels = block.width

    @property
    def out_channels(self) -> int:
        """Channels of the last map."""
        return self.stages[-1][-1].width

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return tuple(len(blocks) for blocks in self.stages)

    def replace(self, **changes: Any) -> NetworkSpec:
        """The spec with some fields changed."""
        return dataclasses.replace(self, **changes)

    def stem_conv(self) -> Conv:
        """The first convolution."""
        return Conv("conv1", IMAGE_CHANNELS, self.stem, STEM_KERNEL, self.strides[0], 1, self.act)

    # Counting

    def count(self, class_num: int = CLASSES, input_size: int | None = None, folded: bool = False) -> SpecCount:
        """Exact parameters and multiply-adds of the network, without building it.

        Args:
            class_num: classes of the head; 0: the trunk alone.
            input_size: side of the image in pixels; default: that of the spec.
            folded: count branches of training as the one convolution that they become at export.
        """
        size = _halved(self.input_size if input_size is None else input_size, self.strides[0])
        params, flops = _count_parts((self.stem_conv(),), size * self.strides[0], folded)
        for placed in self.placed_blocks():
            more_params, more_flops = _count_block(placed.block, placed.in_channels, placed.stride, size, folded)
            params, flops, size = params + more_params, flops + more_flops, _halved(size, placed.stride)
        if class_num:
            last = self.out_channels * self.last_width
            norm = BATCH_NORM_WORK * self.last_width if self.last_norm else 0
            fc = (self.last_width or self.out_channels) * class_num
            # A batch norm has as many parameters as it costs multiply-adds on one pixel: two for each channel.
            params, flops = params + last + norm + fc + class_num, flops + last + norm + fc
        return SpecCount(params, flops)

    # Text

    @property
    def text(self) -> str:
        """The spec in one line; `parse` reads it."""
        stem = f"stem{self.stem}" + act_suffix(self.act)
        if self.strides != STRIDES:
            stem += "-strides" + "".join(map(str, self.strides))
        last = f"last{self.last_width}"
        last += "-norm" if self.last_norm else ""
        last += f"-drop{digits(self.dropout)}" if self.dropout else ""
        return " | ".join([stem, *(_stage_text(blocks) for blocks in self.stages), last, str(self.input_size)])

    @property
    def name(self) -> str:
        """A short name: that of the family and 8 hex digits that depend on the text alone."""
        return "LCNet-" + hashlib.sha256(self.text.encode()).hexdigest()[:8]


# Counting


def _halved(size: int, stride: int) -> int:
    return (size - 1) // stride + 1


def _count_conv(conv: Conv, out_size: int, folded: bool) -> tuple[int, int]:
    pixels, norm = out_size**2, BATCH_NORM_WORK * conv.out_channels
    params, flops = conv.weights + norm, (conv.weights + norm) * pixels
    if conv.branches and not folded:
        pointwise = conv.weights // conv.kernel**2 + norm
        identity = norm if conv.identity_branch else 0
        params, flops = params + pointwise + identity, flops + (pointwise + identity) * pixels
    return params, flops


def _count_parts(parts: tuple[Part, ...], size: int, folded: bool) -> tuple[int, int]:
    """Parameters and multiply-adds of parts whose input has `size` x `size` pixels."""
    params = flops = 0
    for part in parts:
        if isinstance(part, Gate):
            weights = part.weights
            params, flops = params + weights + part.squeezed + part.channels, flops + weights
        else:
            size = _halved(size, part.stride)
            more_params, more_flops = _count_conv(part, size, folded)
            params, flops = params + more_params, flops + more_flops
    return params, flops


@functools.lru_cache(maxsize=65536)
def _count_block(block: BlockSpec, in_channels: int, stride: int, size: int, folded: bool) -> tuple[int, int]:
    return _count_parts(parts_of(block, in_channels, stride), size, folded)


@functools.lru_cache(maxsize=65536)
def _check_placed(placed: PlacedBlock) -> None:
    parts = parts_of(placed.block, placed.in_channels, placed.stride)
    made = 1
    for part in parts:
        made *= part.stride if isinstance(part, Conv) else 1
    if made != placed.stride:
        raise ValueError(
            f"block {placed.position} of {STAGES[placed.stage]} must halve the map, but has no spatial convolution: "
            f"give it a kernel, got '{placed.block.text}'"
        )


# Text


def _stage_text(blocks: tuple[BlockSpec, ...]) -> str:
    runs = [(text, len(list(group))) for text, group in itertools.groupby(block.text for block in blocks)]
    return " ".join(text if number == 1 else f"{text}*{number}" for text, number in runs) or "-"


_FIELDS = {"c": "width", "k": "kernel", "s": "start_kernel", "g": "groups", "e": "expansion"}
_STEM = re.compile(r"stem(\d+)(?:-([a-z]+[0-9]?))??(?:-strides(\d+))?")
_LAST = re.compile(r"last(\d+)(-norm)?(?:-drop(0(?:\.\d+)?))?")
_MOST_BLOCKS = 100  # a stage has no more: a slip of the finger must not fill the memory


def parse_spec(text: str) -> NetworkSpec:
    """The spec of a text, as `NetworkSpec.text` writes it.

    Raises:
        ValueError: not such a text, in one line that names the piece at fault.
    """
    if not isinstance(text, str):
        raise ValueError(f"arch must be a text such as 'stem16 | ds-c32 | ...', got {type(text).__name__}")
    pieces = [piece.strip() for piece in text.split("|")]
    if len(pieces) != len(STAGES) + 3:
        raise ValueError(
            f"arch must have {len(STAGES) + 3} pieces between '|' (stem, {len(STAGES)} stages, last, input size), "
            f"got {len(pieces)}"
        )
    stem, *stages, last, size = pieces
    found_stem, found_last = _STEM.fullmatch(stem), _LAST.fullmatch(last)
    if found_stem is None:
        raise ValueError(f"arch: '{stem}' is no stem; write it as stem16 or stem16-relu")
    if found_last is None:
        raise ValueError(f"arch: '{last}' is no last convolution; write it as last1280-drop0.2 or last0")
    if not size.isdecimal():
        raise ValueError(f"arch: '{size}' is no input size; write the side of the images in pixels, such as 224")
    strides = STRIDES if found_stem[3] is None else tuple(map(int, found_stem[3]))
    return NetworkSpec(
        stem=int(found_stem[1]),
        stages=tuple(_parse_stage(piece) for piece in stages),
        act=found_stem[2] or "hardswish",
        last_width=int(found_last[1]),
        dropout=float(found_last[3] or 0),
        input_size=int(size),
        strides=strides,
        last_norm=found_last[2] is not None,
    )


def _parse_stage(text: str) -> tuple[BlockSpec, ...]:
    if text == "-":
        return ()
    blocks: list[BlockSpec] = []
    for run in text.split():
        block, star, number = run.partition("*")
        if star and not (number.isdecimal() and 0 < int(number) <= _MOST_BLOCKS):
            raise ValueError(f"arch: '{run}': after '*' stands how often the block is repeated, 1 to {_MOST_BLOCKS}")
        blocks += [_parse_block(block)] * int(number or 1)
        if len(blocks) > _MOST_BLOCKS:
            raise ValueError(f"arch: a stage of more than {_MOST_BLOCKS} blocks")
    return tuple(blocks)


@functools.lru_cache(maxsize=65536)
def _parse_block(text: str) -> BlockSpec:
    kind, *words = text.split("-")
    values: dict[str, Any] = {"kind": kind}
    for word in words:
        field: str
        value: Any
        if word in ACTIVATIONS:
            field, value = "act", word
        elif word == "se":
            field, value = "se", True
        elif word[:1] in _FIELDS and re.fullmatch(r"\d+(\.\d+)?" if word[0] == "e" else r"\d+", word[1:]):
            field = _FIELDS[word[0]]
            value = float(word[1:]) if field == "expansion" else int(word[1:])
        else:
            known = ["c32 (width)", "k5 (kernel)", "s3 (start kernel)", "e4 (expansion)", "g2 (groups)", "se"]
            hint = nearest(word, ACTIVATIONS) if len(word) > 3 else f"known: {', '.join(known)}"
            raise ValueError(f"arch: '{word}' in '{text}' means nothing; {hint}")
        if field in values:
            raise ValueError(f"arch: '{text}' says {field} twice")
        values[field] = value
    if "width" not in values:
        raise ValueError(f"arch: '{text}' has no width; add its channels, such as {kind}-c32")
    try:
        return BlockSpec(**values)
    except ValueError as error:
        raise ValueError(f"arch: '{text}': {error}") from error
