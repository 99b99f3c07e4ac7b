"""The part of a space that a latency leaves: no time is spent on networks far from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ppcls_ext.core.errors import UserError
from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.models.spec import LCNetSpec
from ppcls_ext.search.space import BASE_DEPTHS, BASE_WIDTHS, Space, StageSpace

# Widths around those of the largest scale of PP-LCNet that meets the bound. A supernet trains at the pace of its
# largest network, which has the square of it in work.
NARROWEST, WIDEST = 0.6, 1.4
DEEPER = 1  # blocks more or fewer than PP-LCNet has in a stage; any number fewer where no width is left to save
SHARES = tuple(k / 40 for k in range(4, 101))  # scales that are tried: 0.1 to 2.5

Latency = Callable[[NetworkSpec], float]  # milliseconds


def scale_within(latency: Latency, bound: float, size: int) -> float | None:
    """The largest scale of PP-LCNet that takes at most `bound` milliseconds at an input size; None: none does."""
    for share in reversed(SHARES):
        if latency(LCNetSpec(scale=share).network().replace(input_size=size)) <= bound:
            return share
    return None


def space_around(space: Space, scale: float, size: int) -> Space:
    """The networks of a space that are about as wide and deep as PP-LCNet of a scale, for one input size.

    PP-LCNet of that scale is one of them, where the space has it: its widths, multiples of 8, may be much wider than
    its scale says. Of a scale that is narrower than a stage can be, the stage has about the least width and any fewer
    blocks: what is faster than narrow networks is shallow.
    """
    own = LCNetSpec(scale=scale).network()
    stages = tuple(
        _stage_around(stage, scale * width, blocks[-1].width, depth)
        for stage, width, blocks, depth in zip(space.stages, BASE_WIDTHS, own.stages, BASE_DEPTHS, strict=True)
    )
    return space.replace(stems=_around(space.stems, own.stem, own.stem), stages=stages, input_sizes=(size,))


def _stage_around(stage: StageSpace, width: float, own: int, depth: int) -> StageSpace:
    least = min(stage.widths)
    fewest = depth - DEEPER if width >= least else 0
    depths = tuple(d for d in stage.depths if fewest <= d <= depth + DEEPER) or stage.depths
    return replace(stage, widths=_around(stage.widths, max(width, least), own), depths=depths)


def _around(widths: Sequence[int], width: float, own: int) -> tuple[int, ...]:
    """The widths near one, up or down to `own`."""
    found = tuple(w for w in widths if min(NARROWEST * width, own) <= w <= max(WIDEST * width, own))
    return found or (min(widths, key=lambda w: abs(w - width)),)


def bounded_space(space: Space, latency: Latency, bound: float, size: int) -> tuple[Space, float]:
    """The part of a space around a bound, and the scale of PP-LCNet that it is around.

    Raises:
        UserError: nothing in the space is so fast.
    """
    sized = space.replace(input_sizes=(size,))
    fastest = sized.smallest()
    if latency(fastest) > bound:
        raise UserError(
            f"a latency of {bound:.3g} ms: nothing in the space '{space.name}' is so fast at {size} px; the fastest "
            f"takes {latency(fastest):.3g} ms ({fastest.text})"
        )
    scale = scale_within(latency, bound, size) or SHARES[0]
    return space_around(space, scale, size), scale
