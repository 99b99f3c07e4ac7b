"""The networks that a search may choose from: allowed values as data, a check, random points, neighbours."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.models.block_kinds import DIVISOR, BlockSpec, parts_of, round_width
from ppcls_ext.models.network_spec import LARGEST_STRIDE, STAGES, STRIDES, NetworkSpec
from ppcls_ext.models.spec import BASE_LAST_WIDTH, BASE_STEM_WIDTH, BLOCKS, SCALES

BASE_WIDTHS = tuple(next(b.width for b in BLOCKS if b.stage == stage) for stage in STAGES)
BASE_DEPTHS = tuple(sum(b.stage == stage for b in BLOCKS) for stage in STAGES)
WEIGHED_WIDTH = 64  # blocks are compared by the weights that they have at this width
# Those of calibrated networks. Of 64 pixels the last map has 2 x 2, where a 5x5 kernel reads little but padding:
# costs, which count all of it, would say less.
INPUT_SIZES = (96, 128, 160, 192, 224, 256, 288)


@dataclass(frozen=True)
class StageSpace:
    """What a stage may be. All of its blocks have the same width; each block is chosen for itself.

    Attributes:
        depths: numbers of blocks, ascending.
        widths: output channels, ascending.
        blocks: what a block may be; the width written in them does not count.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    blocks: tuple[BlockSpec, ...]

    def __post_init__(self) -> None:
        # A width of its own would make two equal choices differ.
        object.__setattr__(self, "blocks", tuple(dict.fromkeys(_choice(block) for block in self.blocks)))
        for name in ("depths", "widths", "blocks"):
            if not getattr(self, name):
                raise ValueError(f"{name} of a stage must hold a value")


@dataclass(frozen=True)
class Space:
    """All networks whose every part is one of the allowed values.

    Attributes:
        name: what users call it.
        stems, last_widths, input_sizes: ascending.
        stages: five.
        acts: of the stem and the last convolution.
        dropout: of every network that has a last convolution; it does not matter for latency.
    """

    name: str
    stems: tuple[int, ...]
    stages: tuple[StageSpace, ...]
    last_widths: tuple[int, ...] = (0, BASE_LAST_WIDTH)
    input_sizes: tuple[int, ...] = INPUT_SIZES
    acts: tuple[str, ...] = ("hardswish",)
    dropout: float = 0.2

    def replace(self, **changes: object) -> Space:
        """The space with some fields changed, such as one input size only."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    @property
    def size(self) -> int:
        """How many networks it has."""
        number = len(self.stems) * len(self.last_widths) * len(self.input_sizes) * len(self.acts)
        for stage in self.stages:
            number *= len(stage.widths) * sum(len(stage.blocks) ** depth for depth in stage.depths)
        return number

    # Membership

    def problem(self, spec: NetworkSpec) -> str | None:
        """Why a network is not in the space, in one line that names the part, or None where it is."""
        parts = [
            ("stem", spec.stem, self.stems),
            ("last", spec.last_width, self.last_widths),
            ("input size", spec.input_size, self.input_sizes),
            ("activation", spec.act, self.acts),
        ]
        for stage, blocks, allowed in zip(STAGES, spec.stages, self.stages, strict=True):
            parts.append((f"depth of {stage}", len(blocks), allowed.depths))
            parts += [(f"width of {stage}", width, allowed.widths) for width in {b.width for b in blocks}]
        if spec.strides != STRIDES or spec.last_norm:
            return f"other strides or a norm behind the last convolution, which the space '{self.name}' does not have"
        for what, value, values in parts:
            if value not in values:
                return f"{what} is {value}, which is not in the space '{self.name}' ({_listed(values)})"
        for stage, blocks, allowed in zip(STAGES, spec.stages, self.stages, strict=True):
            if len({block.width for block in blocks}) > 1:
                return f"{stage} has blocks of several widths; in the space '{self.name}' a stage has one"
            for block in blocks:
                if _choice(block) not in allowed.blocks:
                    return f"{stage} has a block '{block.text}', which is not in the space '{self.name}'"
        return None

    def check(self, spec: NetworkSpec) -> None:
        """Raises UserError, in one line, where the network is not in the space."""
        problem = self.problem(spec)
        if problem is not None:
            raise UserError(f"network {spec.name}: {problem}")

    def __contains__(self, spec: object) -> bool:
        return isinstance(spec, NetworkSpec) and self.problem(spec) is None

    # Points

    def sample(self, rng: random.Random) -> NetworkSpec:
        """A random network: every choice (each width, depth and block) uniform and independent of the others."""
        last = rng.choice(self.last_widths)
        return NetworkSpec(
            stem=rng.choice(self.stems),
            stages=tuple(self._sample_stage(stage, rng) for stage in self.stages),
            act=rng.choice(self.acts),
            last_width=last,
            dropout=self.dropout if last else 0.0,
            input_size=rng.choice(self.input_sizes),
        )

    @staticmethod
    def _sample_stage(stage: StageSpace, rng: random.Random) -> tuple[BlockSpec, ...]:
        width, depth = rng.choice(stage.widths), rng.choice(stage.depths)
        return tuple(with_width(rng.choice(stage.blocks), width) for _ in range(depth))

    def largest(self) -> NetworkSpec:
        """The network with the most of everything; of blocks, those with the most weights."""
        return self._extreme(max, -1)

    def smallest(self) -> NetworkSpec:
        """The network with the least of everything."""
        return self._extreme(min, 0)

    def _extreme(self, choose: Callable[..., BlockSpec], end: int) -> NetworkSpec:
        last = self.last_widths[end]
        return NetworkSpec(
            stem=self.stems[end],
            stages=tuple(
                (with_width(choose(s.blocks, key=_block_weights), s.widths[end]),) * s.depths[end] for s in self.stages
            ),
            act=self.acts[0],
            last_width=last,
            dropout=self.dropout if last else 0.0,
            input_size=self.input_sizes[end],
        )

    def samples(self, number: int, seed: int) -> list[NetworkSpec]:
        """`number` different random networks, the same ones for a seed.

        Raises:
            UserError: the space has not so many.
        """
        if number > self.size:
            raise UserError(f"space '{self.name}': it has {self.size} networks, {number} are asked for; ask for fewer")
        rng, found = random.Random(seed), dict[NetworkSpec, None]()
        while len(found) < number:
            found[self.sample(rng)] = None
        return list(found)

    def neighbours(self, spec: NetworkSpec) -> Iterator[NetworkSpec]:
        """Every network of the space that differs from `spec`, which is in it, in one step.

        A step is the next allowed stem, width, depth (the last block is repeated or dropped), last convolution or input
        size, another activation, or another choice for one block.
        """
        self.check(spec)
        for stem in _beside(self.stems, spec.stem):
            yield spec.replace(stem=stem)
        for last in _beside(self.last_widths, spec.last_width):
            yield spec.replace(last_width=last, dropout=self.dropout if last else 0.0)
        for size in _beside(self.input_sizes, spec.input_size):
            yield spec.replace(input_size=size)
        for act in self.acts:
            if act != spec.act:
                yield spec.replace(act=act)
        for number, (blocks, allowed) in enumerate(zip(spec.stages, self.stages, strict=True)):
            for changed in _stage_neighbours(blocks, allowed):
                yield spec.replace(stages=(*spec.stages[:number], changed, *spec.stages[number + 1 :]))


@functools.lru_cache(maxsize=65536)
def with_width(block: BlockSpec, width: int) -> BlockSpec:
    """The block with other output channels."""
    return block if block.width == width else dataclasses.replace(block, width=width)


def _choice(block: BlockSpec) -> BlockSpec:
    return with_width(block, DIVISOR)


def _block_weights(block: BlockSpec) -> int:
    return sum(part.weights for part in parts_of(with_width(block, WEIGHED_WIDTH), WEIGHED_WIDTH, 1))


def _stage_neighbours(blocks: tuple[BlockSpec, ...], allowed: StageSpace) -> Iterator[tuple[BlockSpec, ...]]:
    for depth in _beside(allowed.depths, len(blocks)):
        more = depth - len(blocks)
        last = blocks[-1:] or (with_width(allowed.blocks[0], allowed.widths[0]),)
        yield blocks + last * more if more > 0 else blocks[:depth]
    if not blocks:
        return
    width = blocks[0].width
    for other in _beside(allowed.widths, width):
        yield tuple(with_width(block, other) for block in blocks)
    for index, choice in itertools.product(range(len(blocks)), allowed.blocks):
        block = with_width(choice, width)
        if block != blocks[index]:
            yield (*blocks[:index], block, *blocks[index + 1 :])


def _beside(values: Sequence[int], value: int) -> Sequence[int]:
    """The values next to one of them."""
    index = values.index(value)
    return [*values[max(0, index - 1) : index], *values[index + 1 : index + 2]]


def _listed(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return shown if len(values) <= 8 else f"{shown}, ... to {values[-1]}"


def block_choices(
    kinds: Sequence[str] = ("ds",),
    kernels: Sequence[int] = (3, 5),
    acts: Sequence[str] = ("hardswish",),
    se: Sequence[bool] = (False, True),
    expansions: Sequence[float | None] = (None,),
    groups: Sequence[int] = (1,),
) -> tuple[BlockSpec, ...]:
    """Every block of these values that its kind allows: a kind without expansion ignores `expansions`, and so on."""
    found = []
    for kind, kernel, act, gate, expansion, group in itertools.product(kinds, kernels, acts, se, expansions, groups):
        try:
            found.append(BlockSpec(kind, DIVISOR, kernel, act, gate, expansion, group))
        except ValueError:  # the values do not go together, which is what this function asks
            continue
    return tuple(dict.fromkeys(found))


def widths_between(base: int, low: float, high: float) -> tuple[int, ...]:
    """The multiples of 8 from `low` to `high` times `base`."""
    return tuple(range(round_width(base * low), round_width(base * high) + 1, DIVISOR))


def family_space(
    name: str,
    blocks: Sequence[tuple[BlockSpec, ...]],
    low: float = min(SCALES),
    high: float = max(SCALES),
    acts: tuple[str, ...] = ("hardswish",),
) -> Space:
    """A space around PP-LCNet: its stages, with widths from `low` to `high` times those of scale 1.

    Args:
        blocks: for each of the five stages, what its blocks may be.
    """
    stages = tuple(
        StageSpace(tuple(range(1, math.ceil(depth * 1.5) + 1)), widths_between(width, low, high), choices)
        for depth, width, choices in zip(BASE_DEPTHS, BASE_WIDTHS, blocks, strict=True)
    )
    return Space(name, widths_between(BASE_STEM_WIDTH, low, high), stages, acts=acts)


_SEPARABLE = block_choices(acts=("hardswish", "relu"))
_NEWER = (
    *block_choices(("ds", "rep"), (3, 5), ("hardswish", "relu")),
    *block_choices(("ir",), (3, 5), ("hardswish", "relu"), expansions=(None, 3.0, 4.0, 6.0)),
)
# Full convolutions are for few channels: in the deep stages they would hold most of the work.
_FULL = (
    *block_choices(("fused",), (2, 3), ("hardswish", "relu"), (False,), (None, 2.0, 4.0), (1, 2)),
    *block_choices(("grouped",), (2, 3), ("hardswish", "relu"), (False,), groups=(2,)),
)

SPACES = {
    space.name: space
    for space in (
        # PP-LCNet's own block; the eight scales and the paper's ablations are points of it.
        family_space("lcnet", [_SEPARABLE] * len(STAGES), acts=("hardswish", "relu")),
        # With the blocks of newer networks for CPUs.
        family_space("cpu", [_NEWER + _FULL] * 3 + [_NEWER] * 2, acts=("hardswish", "relu")),
    )
}


def square_side(image_shape: Sequence[int]) -> int:
    """Side of a config's images, [channels, height, width], in pixels.

    Raises:
        UserError: one that no network of a space is for.
    """
    _, height, width = image_shape
    if height != width or height % LARGEST_STRIDE:
        raise UserError(
            f"Global.image_shape: networks of a space are for square images with sides that {LARGEST_STRIDE} divides, "
            f"such as [3,128,128], not {height} x {width}"
        )
    return height


def space_named(name: str) -> Space:
    """A space by its name. Raises UserError for an unknown one."""
    if name not in SPACES:
        raise UserError(f"no space '{name}'; {nearest(name, SPACES)}")
    return SPACES[name]
