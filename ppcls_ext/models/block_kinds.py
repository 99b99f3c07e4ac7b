"""The blocks that a network may have, as data: what each kind consists of, counted and built from the same list.

A kind is a class with a method that lists the parts of a block (convolutions and gates, in order). The layers
(`ppcls_ext.models.layers`) and the exact counts (`ppcls_ext.models.network_spec`) both come from this list, so a new
kind is a new class here and nothing else.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from ppcls_ext.core.errors import nearest
from ppcls_ext.core.registry import Registry

DIVISOR = 8  # divides every width, since vector units work on so many channels
ACTIVATIONS = ("hardswish", "relu", "relu6", "gelu")
IDENTITY = "identity"  # what a convolution has that no activation follows
SE_REDUCTION = 4


def round_width(width: float, divisor: int = DIVISOR) -> int:
    """Nearest multiple of `divisor`, at least `divisor` and never below 90 % of `width`."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


def digits(number: float) -> str:
    """A number without an exponent, from which exactly the same number is read again."""
    text = format(Decimal(repr(float(number))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def act_suffix(act: str) -> str:
    """How a text names an activation: H-Swish goes without saying."""
    return "" if act == "hardswish" else f"-{act}"


def check_act(act: str) -> None:
    """Raises ValueError for an activation that is none of `ACTIVATIONS`."""
    if act not in ACTIVATIONS:
        raise ValueError(f"act '{act}' is unknown; {nearest(act, ACTIVATIONS)}")


def check_width(name: str, width: int) -> None:
    """Raises ValueError for a width that is not a positive multiple of `DIVISOR`."""
    if isinstance(width, bool) or not isinstance(width, int) or width <= 0 or width % DIVISOR:
        raise ValueError(f"{name} must be a positive multiple of {DIVISOR}, got {width!r}")


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, its batch norm and activation.

    Attributes:
        name: of the sublayer, and so in the names of parameters.
        branches: while training, a pointwise convolution stands beside it; `fold_branches` merges the two.
        identity_branch: the normalised input is added as well, and merged too.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    groups: int
    act: str
    branches: bool = False
    identity_branch: bool = False

    @property
    def weights(self) -> int:
        """Elements of the filter."""
        return self.out_channels * (self.in_channels // self.groups) * self.kernel**2


@dataclass(frozen=True)
class Gate:
    """Squeeze and excitation."""

    name: str
    channels: int

    @property
    def squeezed(self) -> int:
        """Channels between its two convolutions."""
        return self.channels // SE_REDUCTION

    @property
    def weights(self) -> int:
        """Elements of the filters of both."""
        return 2 * self.channels * self.squeezed


Part = Conv | Gate


@dataclass(frozen=True)
class BlockSpec:
    """One block of a network.

    Attributes:
        kind: a name of `BLOCK_KINDS`.
        width: output channels, a multiple of 8.
        kernel: side of the block's spatial convolution.
        act: the block's activation; the gate of SE is always ReLU and H-Sigmoid.
        se: whether the block has squeeze and excitation.
        expansion: the kinds that widen: hidden channels over input channels. None: they do not widen.
        groups: the kinds with a grouped convolution: its groups.
        start_kernel: of a depthwise convolution before everything else, in the kinds that have one; 0: none.
    """

    kind: str
    width: int
    kernel: int = 3
    act: str = "hardswish"
    se: bool = False
    expansion: float | None = None
    groups: int = 1
    start_kernel: int = 0

    def __post_init__(self) -> None:
        if self.kind not in BLOCK_KINDS:
            raise ValueError(f"no block kind '{self.kind}'; {nearest(str(self.kind), BLOCK_KINDS)}")
        check_width(f"width of a block '{self.kind}'", self.width)
        check_act(self.act)
        BLOCK_KINDS[self.kind].check(self)  # type: ignore[attr-defined]

    @property
    def text(self) -> str:
        """The block in one word, such as `ds-c32-k5-se`; usual values are left out."""
        words = [self.kind, f"c{self.width}"]
        words += [f"k{self.kernel}"] if self.kernel != 3 else []
        words += [f"s{self.start_kernel}"] if self.start_kernel else []
        words += [f"e{digits(self.expansion)}"] if self.expansion is not None else []
        words += [f"g{self.groups}"] if self.groups != 1 else []
        words += ["se"] if self.se else []
        return "-".join(words) + act_suffix(self.act)

    def hidden(self, in_channels: int) -> int:
        """Channels inside the block."""
        return in_channels if self.expansion is None else round_width(in_channels * self.expansion)


class BlockKind(ABC):
    """What the blocks of a kind consist of.

    Attributes:
        kernels: sides that the spatial convolution may have.
        uses: which of `expansion`, `groups`, `start_kernel` and `se` the kind knows.
        residual: whether the input is added to the output where stride and widths allow it.
    """

    kernels: ClassVar[tuple[int, ...]] = (2, 3, 5, 7)
    uses: ClassVar[frozenset[str]] = frozenset({"se"})
    residual: ClassVar[bool] = False

    @staticmethod
    @abstractmethod
    def parts(block: BlockSpec, in_channels: int, stride: int) -> tuple[Part, ...]:
        """The parts in the order in which they run."""

    @classmethod
    def check(cls, block: BlockSpec) -> None:
        """Raises ValueError where the block has a value that the kind does not know; the text is one line."""
        if block.kernel not in cls.kernels:
            raise ValueError(f"kernel of a block '{block.kind}' must be one of {cls.kernels}, got {block.kernel!r}")
        unused = {"se": False, "expansion": None, "groups": 1, "start_kernel": 0}
        for name, nothing in unused.items():
            if name not in cls.uses and getattr(block, name) != nothing:
                raise ValueError(f"a block '{block.kind}' has no {name}, got {getattr(block, name)!r}")
        if block.expansion is not None and not 0 < block.expansion <= 16:
            raise ValueError(f"expansion of a block '{block.kind}' must be in (0, 16], got {block.expansion!r}")
        if block.groups not in (1, 2, 4):  # each divides every multiple of 8
            raise ValueError(f"groups of a block '{block.kind}' must be 1, 2 or 4, got {block.groups!r}")


def _depthwise(name: str, channels: int, kernel: int, stride: int, act: str, branches: bool = False) -> Conv:
    return Conv(name, channels, channels, kernel, stride, channels, act, branches, branches and stride == 1)


def _gate(block: BlockSpec, channels: int) -> tuple[Gate, ...]:
    return (Gate("se", channels),) if block.se else ()


class DepthwiseSeparable(BlockKind):
    """PP-LCNet's block: depthwise, SE where it is asked for, pointwise; no shortcut.

    The paper's Figure 2 draws SE last; the released code and weights have it between the two convolutions.
    """

    @staticmethod
    def parts(block: BlockSpec, in_channels: int, stride: int) -> tuple[Part, ...]:
        """See `BlockKind`."""
        return (
            _depthwise("dw_conv", in_channels, block.kernel, stride, block.act),
            *_gate(block, in_channels),
            Conv("pw_conv", in_channels, block.width, 1, 1, 1, block.act),
        )


class Reparameterized(DepthwiseSeparable):
    """As `DepthwiseSeparable`, with branches beside the depthwise convolution that the export folds into it."""

    kernels = (3, 5, 7)

    @staticmethod
    def parts(block: BlockSpec, in_channels: int, stride: int) -> tuple[Part, ...]:
        """See `BlockKind`."""
        return (
            _depthwise("dw_conv", in_channels, block.kernel, stride, block.act, branches=True),
            *_gate(block, in_channels),
            Conv("pw_conv", in_channels, block.width, 1, 1, 1, block.act),
        )


class InvertedResidual(BlockKind):
    """MobileNetV2's and V3's block: widen, depthwise, SE, narrow without activation, shortcut.

    With `start_kernel` or kernel 0 it is MobileNetV4's universal inverted bottleneck: a depthwise convolution before
    the widening, and maybe none after it.
    """

    kernels = (0, 2, 3, 5, 7)
    uses = frozenset({"se", "expansion", "start_kernel"})
    residual = True

    @classmethod
    def check(cls, block: BlockSpec) -> None:
        """See `BlockKind`."""
        super().check(block)
        if block.start_kernel not in cls.kernels:
            raise ValueError(
                f"start_kernel of a block '{block.kind}' must be one of {cls.kernels}, got {block.start_kernel!r}"
            )

    @staticmethod
    def parts(block: BlockSpec, in_channels: int, stride: int) -> tuple[Part, ...]:
        """See `BlockKind`. The stride belongs to the depthwise convolution in the middle where there is one."""
        hidden = block.hidden(in_channels)
        parts: list[Part] = []
        if block.start_kernel:
            first = stride if not block.kernel else 1
            parts.append(_depthwise("start_conv", in_channels, block.start_kernel, first, IDENTITY))
        if block.expansion is not None:
            parts.append(Conv("expand_conv", in_channels, hidden, 1, 1, 1, block.act))
        if block.kernel:
            parts.append(_depthwise("dw_conv", hidden, block.kernel, stride, block.act))
        parts.extend(_gate(block, hidden))
        parts.append(Conv("pw_conv", hidden, block.width, 1, 1, 1, IDENTITY))
        return tuple(parts)


class FusedInvertedResidual(BlockKind):
    """Fused MBConv: one full (or grouped) convolution widens, SE, narrow without activation, shortcut.

    Without an expansion it is the convolution alone, with its activation.
    """

    uses = frozenset({"se", "expansion", "groups"})
    residual = True

    @classmethod
    def check(cls, block: BlockSpec) -> None:
        """See `BlockKind`."""
        super().check(block)
        if block.expansion is None and block.groups != 1:
            raise ValueError(f"groups of a block '{block.kind}' need an expansion, else no layer mixes the groups")

    @staticmethod
    def parts(block: BlockSpec, in_channels: int, stride: int) -> tuple[Part, ...]:
        """See `BlockKind`."""
        if block.expansion is None:
            conv = Conv("conv", in_channels, block.width, block.kernel, stride, 1, block.act)
            return (conv, *_gate(block, block.width))
        hidden = block.hidden(in_channels)
        return (
            Conv("expand_conv", in_channels, hidden, block.kernel, stride, block.groups, block.act),
            *_gate(block, hidden),
            Conv("pw_conv", hidden, block.width, 1, 1, 1, IDENTITY),
        )


class GroupedConv(BlockKind):
    """A convolution in few groups, of 2 or 4, SE, pointwise: `DepthwiseSeparable` with wider groups."""

    uses = frozenset({"se", "groups"})

    @classmethod
    def check(cls, block: BlockSpec) -> None:
        """See `BlockKind`."""
        super().check(block)
        if block.groups == 1:
            raise ValueError(f"groups of a block '{block.kind}' must be 2 or 4, got 1")

    @staticmethod
    def parts(block: BlockSpec, in_channels: int, stride: int) -> tuple[Part, ...]:
        """See `BlockKind`."""
        return (
            Conv("conv", in_channels, in_channels, block.kernel, stride, block.groups, block.act),
            *_gate(block, in_channels),
            Conv("pw_conv", in_channels, block.width, 1, 1, 1, block.act),
        )


class PlainConv(BlockKind):
    """A convolution, its norm and activation, with no shortcut; kernel 1 changes the width alone."""

    kernels = (1, 2, 3, 5, 7)

    @staticmethod
    def parts(block: BlockSpec, in_channels: int, stride: int) -> tuple[Part, ...]:
        """See `BlockKind`."""
        conv = Conv("conv", in_channels, block.width, block.kernel, stride, 1, block.act)
        return (conv, *_gate(block, block.width))


BLOCK_KINDS = Registry("block kind")
BLOCK_KINDS.register("ds", DepthwiseSeparable)
BLOCK_KINDS.register("rep", Reparameterized)
BLOCK_KINDS.register("ir", InvertedResidual)
BLOCK_KINDS.register("fused", FusedInvertedResidual)
BLOCK_KINDS.register("grouped", GroupedConv)
BLOCK_KINDS.register("conv", PlainConv)


@functools.lru_cache(maxsize=65536)
def parts_of(block: BlockSpec, in_channels: int, stride: int) -> tuple[Part, ...]:
    """The parts of a block that stands behind `in_channels` and has `stride`."""
    kind: type[BlockKind] = BLOCK_KINDS[block.kind]  # type: ignore[assignment]
    return kind.parts(block, in_channels, stride)


def has_shortcut(block: BlockSpec, in_channels: int, stride: int) -> bool:
    """Whether the block's input is added to its output."""
    kind: type[BlockKind] = BLOCK_KINDS[block.kind]  # type: ignore[assignment]
    return kind.residual and stride == 1 and in_channels == block.width
