"""Which networks a calibration measures, and their latencies, kept in one file."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.reading import Unreadable, read_json
from ppcls_ext.core.stored import STORED, Positive, checked
from ppcls_ext.core.text import counted
from ppcls_ext.models.block_kinds import BlockSpec
from ppcls_ext.models.network_spec import STAGES, NetworkSpec, parse_spec
from ppcls_ext.models.spec import SCALES, LCNetSpec
from ppcls_ext.search.latency import Accuracy, LatencyModel, Target, shortfalls
from ppcls_ext.search.space import Space, with_width

FORMAT = 1  # a file of another one cannot be read

# What a measured network is for: to see what one block costs, to fit, or to judge the fit.
Use = Literal["probe", "network", "unseen"]

REPEATS = 6  # a probe repeats its block so often that it stands out from the rest of the network
PROBE_SIZE = 224
ACT_NAMES = {"relu": "ReLU", "relu6": "ReLU6", "hardswish": "H-Swish", "gelu": "GELU"}
DRAWN = 12  # times as many networks are drawn as are taken, so that the small ones are among them
INPUT_SIZE = "input size"


@dataclass(frozen=True)
class Probe:
    """A network with one stage that repeats a block, and as little as possible beside it.

    Attributes:
        change: in what the block differs from the plain one; empty: it is that.
    """

    stage: int
    width: int
    change: str
    spec: NetworkSpec


def probes(space: Space) -> list[Probe]:
    """A probe for each stage, two widths, and every choice of a block that differs in one thing from the plain one."""
    found = []
    for index, stage in enumerate(space.stages):
        plain = stage.blocks[0]
        for width in (_quantile(stage.widths, 0.15), _quantile(stage.widths, 0.55)):
            for block in stage.blocks:
                change = _change(plain, block)
                if change is not None:
                    found.append(Probe(index, width, change, _probe_network(space, index, with_width(block, width))))
    # Blocks that differ while they train alone, such as those with branches, are the same network once deployed.
    return list({probe.spec: probe for probe in reversed(found) if "rep" not in probe.change}.values())[::-1]


def _quantile(values: Sequence[int], share: float) -> int:
    return values[round(share * (len(values) - 1))]


def _change(plain: BlockSpec, block: BlockSpec) -> str | None:
    """In what a block differs from the plain one: one thing, or a kind with its own settings; None: in more."""
    if block.kind != plain.kind:
        if block.se != plain.se or block.act != plain.act:
            return None
        return with_width(block, plain.width).text.replace(f"-c{plain.width}", "")
    changed = [name for name, value in asdict(plain).items() if getattr(block, name) != value]
    if len(changed) > 1:
        return None
    words = {"se": "SE", "kernel": f"{block.kernel}x{block.kernel}", "act": ACT_NAMES.get(block.act, block.act)}
    return "".join(words.get(name, f"{name} {getattr(block, name)}") for name in changed)


def _probe_network(space: Space, stage: int, block: BlockSpec) -> NetworkSpec:
    least: list[tuple[BlockSpec, ...]] = [(with_width(s.blocks[0], s.widths[0]),) for s in space.stages]
    before = block.width if stage == 0 else least[stage - 1][0].width
    if stage:  # its input has its own width, as within a network
        least[stage - 1] = (with_width(space.stages[stage - 1].blocks[0], block.width),)
    least[stage] = (block,) * (1 + REPEATS)
    return NetworkSpec(before if stage == 0 else space.stems[0], tuple(least), input_size=PROBE_SIZE)


def paper_networks(space: Space) -> list[NetworkSpec]:
    """PP-LCNet's scales that are in the space."""
    networks = [LCNetSpec(scale=scale).network() for scale in SCALES]
    return [spec for spec in networks if spec in space]


def spread_networks(space: Space, number: int, seed: int, but: Iterable[NetworkSpec] = ()) -> list[NetworkSpec]:
    """Random networks of a space: as many of each input size, give or take one, and from little work to much.

    Of each size, multiply-adds are spread evenly on a logarithmic scale: of uniform draws nearly all have about the
    same, since so many layers add up.

    Args:
        but: networks that are not to be among them.
    Raises:
        UserError: the space has not so many.
    """
    rng, others, sizes = random.Random(seed), set(but), space.input_sizes
    shares: dict[int, list[float]] = {}
    for k, share in enumerate(np.linspace(0, 1, number)):
        shares.setdefault(sizes[k % len(sizes)], []).append(float(share))
    chosen: list[NetworkSpec] = []
    for size, of_size in shares.items():
        found = _spread(space.replace(input_sizes=(size,)), of_size, rng, others)
        if len(found) < len(of_size):
            raise UserError(f"space '{space.name}': it has fewer than {number} networks to measure; ask for fewer")
        chosen += found
    rng.shuffle(chosen)
    return chosen


def _spread(
    space: Space, shares: Sequence[float], rng: random.Random, but: Collection[NetworkSpec]
) -> list[NetworkSpec]:
    """Random networks at these shares of the way from least to most work; fewer where the space has too few."""
    drawn = {spec for spec in (_resized(space, rng) for _ in range(DRAWN * len(shares))) if spec not in but}
    by_work = sorted(drawn, key=lambda spec: (spec.count().flops, spec.text))
    works = np.log([spec.count().flops for spec in by_work])
    found: dict[int, None] = {}
    for share in shares[: len(by_work)]:
        goal = works[0] + share * (works[-1] - works[0])
        found[next(int(k) for k in np.argsort(np.abs(works - goal)) if int(k) not in found)] = None
    return [by_work[k] for k in found]


def _resized(space: Space, rng: random.Random) -> NetworkSpec:
    """A random network of those whose widths lie in one part of what is allowed, from narrow to wide."""
    share = rng.uniform(0.02, 1.0)
    stages = tuple(replace(s, widths=s.widths[: max(1, round(share * len(s.widths)))]) for s in space.stages)
    stems = space.stems[: max(1, round(share * len(space.stems)))]
    return space.replace(stages=stages, stems=stems).sample(rng)


def dimensions(spec: NetworkSpec) -> list[tuple[str, int]]:
    """The input size and the widths of a network, each with its name."""
    stages = zip(STAGES, spec.stages, strict=True)
    widths = [(f"width of {stage}", block.width) for stage, blocks in stages for block in blocks]
    ends = [("width of the stem", spec.stem), ("width of the last convolution", spec.last_width)]
    return [(INPUT_SIZE, spec.input_size), *ends, *widths]


@dataclass(frozen=True)
class Measured:
    """A network and its latency, relative to the anchor that took turns with it.

    Attributes:
        ratio, low, high: how many times as long as the anchor a call takes, with a 95 % interval; None where it failed.
        failure: why there is none; empty where there is.
    """

    __pydantic_config__ = STORED

    arch: str
    use: Use
    ratio: Positive | None = None
    low: Positive | None = None
    high: Positive | None = None
    failure: str = ""

    def __post_init__(self) -> None:
        if any((number is None) != bool(self.failure) for number in (self.ratio, self.low, self.high)):
            raise ValueError("neither a ratio with its interval nor a failure")

    @property
    def spec(self) -> NetworkSpec:
        """The network."""
        return parse_spec(self.arch)


@dataclass(frozen=True)
class Calibration:
    """A latency model with all that it rests on.

    Attributes:
        space: name of the space whose networks were measured.
        anchor_ms: of the network that took turns with every other, in each group.
        measured: all networks.
        model: None as long as not everything is measured.
        accuracy: by what it was predicted: `model`, `blocks` (their sum alone), `flops`, `params`.
        quick: by too few networks and calls to rely on; a full calibration does not go on with it.
    """

    __pydantic_config__ = STORED

    target: Target
    space: str
    created: str
    command: str
    machine: Mapping[str, Any]
    anchor_ms: tuple[Positive, ...] = ()
    measured: tuple[Measured, ...] = ()
    model: LatencyModel | None = None
    accuracy: Mapping[str, Accuracy] | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        if self.measured and not self.anchor_ms:
            raise ValueError("networks are measured, but not the anchor")
        if (self.model is None) != (self.accuracy is None):
            raise ValueError("a model without its accuracy, or the other way round")
        if self.model is not None and not any(self.model.prices.values()):
            raise ValueError("its model has no price above 0")
        if self.accuracy is not None and "model" not in self.accuracy:
            raise ValueError("the accuracy of its model is missing")

    @property
    def unit(self) -> float:
        """Milliseconds of the anchor: the median over all groups."""
        return float(np.median(self.anchor_ms))

    @property
    def doubt(self) -> str:
        """Why predictions may be off, in a line; empty where the model was accepted."""
        missed = ["it is a quick one"] if self.quick else []
        missed += [] if self.accuracy is None else shortfalls(self.accuracy["model"])
        target = f"{self.target.engine} with {counted(self.target.threads, 'thread')}"
        return f"the calibration of {target} was not accepted: {'; '.join(missed)}" if missed else ""

    def latencies(self, *uses: Use) -> dict[NetworkSpec, float]:
        """Milliseconds of the networks that were measured for these uses, without those that failed."""
        return {one.spec: one.ratio * self.unit for one in self.measured if one.use in uses and one.ratio is not None}

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """The least and the most of each dimension (see `dimensions`) of the networks that the model is fitted to."""
        values: dict[str, set[int]] = {}
        for spec in self.latencies("probe", "network"):
            for what, value in dimensions(spec):
                values.setdefault(what, set()).add(value)
        return {what: (min(found), max(found)) for what, found in values.items()}

    def outside(self, spec: NetworkSpec) -> list[str]:
        """The dimensions of a network that lie outside of `ranges`, each as `what value (least to most)`."""
        ranges, found = self.ranges, []
        for what, value in dict.fromkeys(dimensions(spec)):
            low, high = ranges.get(what, (value, value))
            if not low <= value <= high:
                found.append(f"{what} {value} ({low} to {high})")
        return found

    def has_size(self, size: int) -> bool:
        """Whether an input size is within what was measured; of a model without measurements it is taken to be."""
        low, high = self.ranges.get(INPUT_SIZE, (size, size))
        return low <= size <= high

    def save(self, path: Path) -> None:
        """Write JSON, in one step."""
        atomic_write_text(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n")


def read_calibration(path: Path, cure: str = "give a file that pplcnet search --calibrate wrote") -> Calibration:
    """What `Calibration.save` wrote. Raises UserError for a file that is missing or something else.

    Args:
        cure: what to do about something else.
    """
    try:
        content = read_json(path)
    except Unreadable as error:
        cure = cure if os.path.lexists(path) else "make one with pplcnet search --calibrate"
        raise UserError(f"calibration {path}: {error}; {cure}") from error
    try:
        if isinstance(content, dict) and content.pop("format", None) != FORMAT:
            raise ValueError("its format is another")
        if isinstance(content, dict) and "quick" not in content:  # of an earlier version
            content["quick"] = "--quick" in str(content.get("command")).split()
        found = checked(Calibration, content)
        for one in found.measured:
            _ = one.spec  # raises for a text that is no network
        return found
    except ValueError as error:
        raise UserError(f"calibration {path}: it is not as this version writes it ({error}); {cure}") from error
