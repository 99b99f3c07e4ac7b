"""Evolution under a bound: the accuracy of few networks is asked for, each is predicted to be fast enough."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic

from ppcls_ext.core.display import bar, say
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.pareto import pareto_front
from ppcls_ext.core.reading import Unreadable, read_json
from ppcls_ext.core.seeding import derive
from ppcls_ext.core.stored import STORED, Positive, Stored, checked
from ppcls_ext.models.network_spec import NetworkSpec, parse_spec
from ppcls_ext.models.spec import SCALES, LCNetSpec
from ppcls_ext.search.judge import Quality
from ppcls_ext.search.space import Space
from ppcls_ext.training.interrupts import Interrupt, Stopped

EVOLVE = 1_302  # the stream of random numbers
LEAST_SHARE = 0.6  # a network that is faster than this share of the bound belongs to another search
PARENTS = 0.25  # this share of all networks so far may have children, and those of the front
MOST_STEPS = 3  # a mutation takes one to so many
TRIES = 200  # so many are made for each child, before a generation makes do with fewer


@dataclass(frozen=True)
class SearchedNetwork:
    """A network whose quality is known.

    Attributes:
        ms: predicted.
        generation: that it belongs to; 0 is the first, which is not bred.
    """

    __pydantic_config__ = STORED

    arch: str
    ms: Positive
    expected: float
    top1: float
    generation: Annotated[int, pydantic.Field(ge=0)]

    @property
    def spec(self) -> NetworkSpec:
        """The network."""
        return parse_spec(self.arch)


def front_of(networks: Sequence[SearchedNetwork]) -> list[SearchedNetwork]:
    """Those that no other beats in both, the fastest first."""
    kept = pareto_front({one.arch: (one.ms, one.expected) for one in networks})
    return sorted((one for one in networks if one.arch in kept), key=lambda one: (one.ms, one.arch))


class _StoredSearch(Stored):
    """What the file of a search holds; those of earlier versions have no `calibration` and no `judged`."""

    identity: dict[str, Any]
    candidates: list[SearchedNetwork]
    calibration: str | None = None
    judged: dict[str, Quality] = {}


@dataclass
class Evolution:
    """What is looked for, and how.

    Attributes:
        latency: predicted milliseconds of a network.
        score: what the worst of twice as many children are dropped by before they are judged, or None.
        file: that all judged networks are kept in, after each.
        identity: what else they depend on; a file with another one is not gone on with.
        calibration: what the latencies depend on. Of a file with another one the qualities are kept, and networks are
            looked for anew.
        population: of a generation.
    """

    space: Space
    latency: Callable[[NetworkSpec], float]
    bound: float
    file: Path
    identity: Mapping[str, Any]
    calibration: str = ""
    seed: int = 0
    population: int = 40
    generations: int = 10
    score: Callable[[NetworkSpec], float] | None = None

    def check(self) -> None:
        """Look whether `run` can begin, before anything is trained for it.

        Raises:
            UserError: the file is of another search, or damaged; the space is far faster than the bound, or slower.
        """
        self._begin()
        self._first()

    def run(self, quality: Callable[[NetworkSpec], Quality]) -> list[SearchedNetwork]:
        """Go on with what the file has, to the last generation; gives all judged networks.

        Args:
            quality: of a network, which takes long.
        Raises:
            Stopped: Ctrl-C or SIGTERM; everything is kept.
            UserError: see `check`.
        """
        found, judged = self._begin()
        if judged and not found:
            say(f"{self.file}: calibrated anew since; what {len(judged)} networks were judged to be is kept")
        total = self.population * self.generations
        with Interrupt() as interrupt, bar(total, "search", len(found)) as progress:
            for generation in range(self.generations):
                earlier = [c for c in found if c.generation < generation]
                done = {c.arch for c in found}
                specs = self._children(earlier, generation) if generation else self._first()
                for spec in specs:
                    if spec.text not in done:
                        good = judged.get(spec.text) or quality(spec)
                        found.append(SearchedNetwork(spec.text, self.latency(spec), *good, generation))
                        self._save(found, judged)
                        best = max(found, key=lambda c: c.expected)
                        progress.advance(1, f"best {best.expected:.4f} at {best.ms:.2f} ms")
                    if interrupt.requested:
                        raise Stopped(interrupt.requested)
        return found

    # Generations: each is a function of the seed and of those before it, so that one that was stopped is made again.

    def _fits(self, spec: NetworkSpec) -> bool:
        return LEAST_SHARE * self.bound <= self.latency(spec) <= self.bound

    def _first(self) -> list[NetworkSpec]:
        """PP-LCNet's scales that fit, and random networks that do: near the fastest, none may be drawn but that one."""
        size = self.space.input_sizes[0]
        scales = [LCNetSpec(scale=scale).network().replace(input_size=size) for scale in SCALES]
        found = dict.fromkeys(s for s in scales if s in self.space and self.latency(s) <= self.bound)
        rng, drawn = self._rng(0), False
        for _ in range(TRIES * self.population):
            if drawn and len(found) >= self.population:
                break
            spec = self.space.sample(rng)
            if self._fits(spec):
                found[spec], drawn = None, True
        if not drawn:
            found[self._smallest_within()] = None
        return list(found)

    def _smallest_within(self) -> NetworkSpec:
        """The smallest network, where no random one fits. Raises UserError where it does not fit either."""
        smallest, largest = self.space.smallest(), self.space.largest()
        if not self._fits(smallest):
            raise UserError(
                f"of the part of space '{self.space.name}' that is searched, none of "
                f"{TRIES * self.population} random networks takes "
                f"{LEAST_SHARE * self.bound:.3g} to {self.bound:.3g} ms; the smallest takes "
                f"{self.latency(smallest):.3g} ms, the largest {self.latency(largest):.3g}; give a latency between"
            )
        return smallest

    def _children(self, earlier: Sequence[SearchedNetwork], generation: int) -> list[NetworkSpec]:
        rng = self._rng(generation)
        best = sorted(earlier, key=lambda c: (-c.expected, c.arch))[: max(2, round(PARENTS * len(earlier)))]
        parents = [parse_spec(arch) for arch in dict.fromkeys(c.arch for c in [*best, *front_of(earlier)])]
        known, wanted = {c.arch for c in earlier}, self.population * (1 if self.score is None else 2)
        found: dict[NetworkSpec, None] = {}
        for _ in range(TRIES * wanted):
            if len(found) >= wanted:
                break
            child = rng.choice(parents)
            if rng.random() < 0.5:
                child = crossed(child, rng.choice(parents), rng)
            if rng.random() < 0.75 or child.text in known:
                child = mutated(self.space, child, rng)
            if child.text not in known and child not in found and self._fits(child):
                found[child] = None
        children = list(found)
        if self.score is not None:
            children = sorted(children, key=self.score, reverse=True)[: self.population]
        return children

    def _rng(self, generation: int) -> random.Random:
        return random.Random(derive(self.seed, EVOLVE, generation))

    # The file

    def _begin(self) -> tuple[list[SearchedNetwork], dict[str, Quality]]:
        """The networks of the file, and what networks were judged to be under earlier calibrations."""
        if not self.file.is_file():
            return [], {}
        try:
            content = checked(_StoredSearch, read_json(self.file))
            found, judged = content.candidates, content.judged
            for candidate in found:
                _ = candidate.spec
        except (Unreadable, ValueError) as error:
            raise UserError(f"{self.file}: not a file that a search wrote ({error}); give another --out") from error
        for what, now in self.identity.items():
            then = content.identity.get(what)
            if then != now:
                raise UserError(
                    f"{self.file}: a search with {what} {then}, not {now}; give another --out, or remove the file"
                )
        if content.calibration != self.calibration:
            return [], {**judged, **{c.arch: Quality(c.expected, c.top1) for c in found}}
        return found, judged

    def _save(self, found: Sequence[SearchedNetwork], judged: Mapping[str, Quality]) -> None:
        content = {
            "identity": dict(self.identity),
            "calibration": self.calibration,
            "candidates": [asdict(c) for c in found],
            "judged": judged,
        }
        text = json.dumps(content, indent=1, allow_nan=False)  # of what is no number nothing would be read again
        atomic_write_text(self.file, text + "\n")


def mutated(space: Space, spec: NetworkSpec, rng: random.Random) -> NetworkSpec:
    """A network a few steps away. Steps of blocks, of which there are many, are as likely as all others together."""
    for _ in range(rng.randint(1, MOST_STEPS)):
        beside = list(space.neighbours(spec))
        of_blocks = [other for other in beside if _outline(other) == _outline(spec)]
        others = [other for other in beside if _outline(other) != _outline(spec)]
        spec = rng.choice([of_blocks, others][rng.random() < 0.5] or beside)
    return spec


def _outline(spec: NetworkSpec) -> tuple[Any, ...]:
    widths = tuple(blocks[0].width if blocks else 0 for blocks in spec.stages)
    return spec.stem, spec.depths, widths, spec.act, spec.last_width


def crossed(one: NetworkSpec, other: NetworkSpec, rng: random.Random) -> NetworkSpec:
    """A network with the stem, each stage and the head of one of two."""
    head, stem = rng.choice([one, other]), rng.choice([one, other])
    stages = tuple(rng.choice(pair) for pair in zip(one.stages, other.stages, strict=True))
    return head.replace(stem=stem.stem, act=stem.act, stages=stages)
