"""What a network makes a CPU do, as numbers that a latency model weighs: work, traffic and calls of each operation.

Networks are counted as they are deployed: batch norms and the branches of training are folded into convolutions, and
activations run within them.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping

from ppcls_ext.models.block_kinds import IDENTITY, BlockSpec, Conv, Gate, has_shortcut, parts_of
from ppcls_ext.models.network_spec import CLASSES, NetworkSpec
from ppcls_ext.search.space import Space

# Widths are padded to it by kernels of AVX-512, and by those of AVX2 that hold two registers: narrow layers pay for it.
VECTOR = 16
# A convolution whose maps and weights take no more bytes is served from the nearer caches. Of 0.25, 0.5 and 1 MB, half
# a megabyte predicted networks best that a model was not fitted to, on oneDNN; on OpenVINO one megabyte did.
CACHE_BYTES = 512 * 1024
VALUE_BYTES = 4
MILLION = 1e6  # the unit of work and traffic, so that coefficients are of like size

NETWORKS_DRAWN = 64  # in which every kind of block of a space is found

Costs = Mapping[str, float]


def costs_of(spec: NetworkSpec, class_num: int = CLASSES) -> dict[str, float]:
    """The costs of a network by name; a latency model is a price for each.

    Names are `KIND.what`: `work` in millions of multiply-adds (of widths that are padded to whole vectors),
    `traffic` in millions of values read and written, `uncached` in millions of bytes that a cache does not hold,
    `weights` in millions, `rows` in thousands of rows of maps, `pixels` in thousands, and `calls`.
    """
    total: dict[str, float] = {"network.calls": 1.0}
    size = spec.input_size
    stem = spec.stem_conv()
    _add(total, _conv_costs(stem, size))
    size = _after(size, stem.stride)
    for placed in spec.placed_blocks():
        _add(total, _block_costs(placed.block, placed.in_channels, placed.stride, size))
        size = _after(size, placed.stride)
    _add(total, dict(_head_costs(spec, size, class_num)))
    return total


def _add(total: dict[str, float], costs: Costs) -> None:
    for name, value in costs.items():
        total[name] = total.get(name, 0.0) + value


def _after(size: int, stride: int) -> int:
    return (size - 1) // stride + 1


def _padded(channels: int) -> int:
    return -(-channels // VECTOR) * VECTOR


@functools.lru_cache(maxsize=65536)
def _block_costs(block: BlockSpec, in_channels: int, stride: int, size: int) -> Costs:
    """The costs of a block whose input has `size` x `size` pixels."""
    total: dict[str, float] = {}
    for part in parts_of(block, in_channels, stride):
        if isinstance(part, Gate):
            _add(total, _gate_costs(part, size))
        else:
            _add(total, _conv_costs(part, size))
            size = _after(size, part.stride)
    if has_shortcut(block, in_channels, stride):
        _add(total, {"shortcut.traffic": 3 * block.width * size**2 / MILLION, "shortcut.calls": 1.0})
    return total


@functools.lru_cache(maxsize=65536)
def _conv_costs(conv: Conv, size: int) -> Costs:
    after = _after(size, conv.stride)
    read, written = conv.in_channels * size**2, conv.out_channels * after**2
    costs = dict(_activation_costs(conv.act, written))
    if conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1:
        kind = f"depthwise{conv.kernel}s{conv.stride}"
        return costs | {
            f"{kind}.work": _padded(conv.out_channels) * after**2 * conv.kernel**2 / MILLION,
            f"{kind}.rows": _padded(conv.out_channels) / VECTOR * after / 1e3,
            "depthwise.traffic": (read + written) / MILLION,
            "depthwise.uncached": _uncached(read + written + conv.weights),
            "depthwise.calls": 1.0,
        }
    kind = "pointwise" if conv.kernel == 1 and conv.groups == 1 else "stem" if conv.in_channels < 8 else "full"
    inside = _padded(conv.in_channels // conv.groups) if kind != "stem" else conv.in_channels
    work = inside * _padded(conv.out_channels) * conv.kernel**2 * after**2
    return costs | {
        f"{kind}.work": work / MILLION,
        f"{kind}.traffic": (read + written) / MILLION,
        f"{kind}.uncached": _uncached(read + written + conv.weights),
        f"{kind}.weights": conv.weights / MILLION,
        f"{kind}.calls": 1.0,
    }


def _uncached(values: int) -> float:
    return max(0, VALUE_BYTES * values - CACHE_BYTES) / MILLION


def _activation_costs(act: str, values: int) -> Iterator[tuple[str, float]]:
    if act not in ("relu", IDENTITY):  # a ReLU is one instruction within the convolution
        yield f"{act}.traffic", values / MILLION


def _gate_costs(gate: Gate, size: int) -> Costs:
    return {
        "gate.traffic": 3 * gate.channels * size**2 / MILLION,  # read to pool, read and written to scale
        "gate.pixels": size**2 / 1e3,  # each is scaled by itself, however few channels it has
        "gate.weights": gate.weights / MILLION,
        "gate.calls": 1.0,
    }


def _head_costs(spec: NetworkSpec, size: int, class_num: int) -> Iterator[tuple[str, float]]:
    """Pooling, the last convolution and the classifier."""
    yield "head.traffic", spec.out_channels * size**2 / MILLION
    features = spec.last_width or spec.out_channels
    yield "head.weights", (spec.out_channels * spec.last_width + features * class_num) / MILLION


def parts_of_space(space: Space) -> set[str]:
    """Kinds of operations that networks of a space have."""
    return {name.partition(".")[0] for spec in drawn_from(space) for name in costs_of(spec)}


def drawn_from(space: Space) -> list[NetworkSpec]:
    """Networks of a space in which all of its parts are found."""
    rng = random.Random(0)
    return [space.largest(), *(space.sample(rng) for _ in range(NETWORKS_DRAWN))]
