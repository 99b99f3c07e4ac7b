"""Evolution under a bound, on a quality that is made up."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.models.spec import SCALES, LCNetSpec
from ppcls_ext.search.bound import bounded_space, scale_within, space_around
from ppcls_ext.search.costs import costs_of
from ppcls_ext.search.evolution import Evolution, SearchedNetwork, crossed, front_of, mutated
from ppcls_ext.search.judge import Quality
from ppcls_ext.search.space import space_named
from ppcls_ext.training.interrupts import Stopped
from tests.helpers.spaces import SIDE, latency, tiny_space

SPACE = tiny_space()
BOUND = 0.5 * (latency(SPACE.smallest()) + latency(SPACE.largest()))


def quality(spec: NetworkSpec) -> Quality:
    """More of the work in SE and large kernels is better here, the rest is worth little."""
    blocks = [block for stage in spec.stages for block in stage]
    good = sum(block.se + (block.kernel == 5) for block in blocks) / (2 * len(blocks))
    return Quality(good, round(good, 1))


@pytest.fixture
def evolution(tmp_path: Path) -> Evolution:
    return Evolution(SPACE, latency, BOUND, tmp_path / "candidates.json", {"seed": 0}, population=12, generations=6)


def test_the_best_comes_near_what_can_be_reached_and_all_meet_the_bound(evolution: Evolution) -> None:
    found = evolution.run(quality)
    assert len({c.arch for c in found}) == len(found)
    assert all(c.ms == latency(c.spec) <= BOUND and c.spec in SPACE for c in found)
    drawn = max(c.expected for c in found if c.generation == 0)
    assert max(c.expected for c in found) > drawn
    assert max(c.expected for c in found) >= 0.9


@pytest.mark.slow
def test_a_search_that_was_stopped_finds_the_same(evolution: Evolution, tmp_path: Path) -> None:
    whole = evolution.run(quality)
    calls: list[NetworkSpec] = []

    def stops(spec: NetworkSpec) -> Quality:
        calls.append(spec)
        if len(calls) in (5, 31):
            os.kill(os.getpid(), signal.SIGTERM)
        return quality(spec)

    stopped = replace(evolution, file=tmp_path / "stopped.json")
    for _ in range(2):
        with pytest.raises(Stopped):
            stopped.run(stops)
    assert stopped.run(stops) == whole
    assert len(calls) == len(whole)  # nothing is judged twice
    assert front_of(whole) == front_of(stopped.run(stops))


def test_another_search_does_not_go_on_with_the_file(evolution: Evolution) -> None:
    evolution.run(quality)
    with pytest.raises(UserError, match="a search with seed 0, not 1; give another --out"):
        replace(evolution, identity={"seed": 1}).check()


@pytest.mark.slow
def test_another_calibration_keeps_what_was_judged_and_predicts_anew(evolution: Evolution) -> None:
    evolution.run(quality)
    judged: list[str] = []

    def seen(spec: NetworkSpec) -> Quality:
        judged.append(spec.text)
        return quality(spec)

    def slower(spec: NetworkSpec) -> float:
        return 1.1 * latency(spec)

    earlier = {c["arch"] for c in json.loads(evolution.file.read_text())["candidates"]}
    again = replace(evolution, latency=slower, calibration="another")
    found = again.run(seen)
    assert all(c.ms == slower(c.spec) <= BOUND for c in found)
    assert {c.arch for c in found} & earlier
    assert set(judged) == {c.arch for c in found} - earlier
    fresh = replace(again, file=evolution.file.with_name("fresh.json"))
    assert fresh.run(quality) == found

    # What was judged before is kept through a stop, and through a third calibration.
    before = len(judged)
    assert again.run(seen) == found
    assert replace(evolution, calibration="a third").run(seen) == replace(evolution, file=fresh.file).run(quality)
    assert not set(judged[before:]) & earlier


def test_a_bound_far_from_the_space_is_found_before_anything_is_judged(evolution: Evolution) -> None:
    ends = f"the smallest takes {latency(SPACE.smallest()):.3g} ms, the largest {latency(SPACE.largest()):.3g}"
    for bound in (100 * BOUND, 0.01 * BOUND):  # as of a supernet that is used for another latency
        with pytest.raises(UserError, match=f"none of 2400 random networks takes .*; {ends}; give a latency between"):
            replace(evolution, bound=bound).check()


@pytest.mark.parametrize("damage", ["", "[]", '{"identity": {}}', '{"identity": [], "candidates": []}',
                                    '{"identity": {}, "candidates": [{"arch": 3}]}',
                                    '{"identity": {"seed": 0}, "candidates": [], "judged": {"a": [1]}}'])  # fmt: skip
def test_a_damaged_file_is_one_line(evolution: Evolution, damage: str) -> None:
    evolution.file.write_text(damage)
    with pytest.raises(UserError, match="not a file that a search wrote") as raised:
        evolution.check()
    assert "\n" not in str(raised.value)


GOOD = {"arch": SPACE.smallest().text, "ms": 1.0, "expected": 0.5, "top1": 0.5, "generation": 0}


@pytest.mark.parametrize(("name", "value"), [("expected", "0.5"), ("expected", math.nan), ("ms", "fast"), ("ms", -1.0),
                                             ("top1", None), ("top1", True), ("generation", [0])])  # fmt: skip
def test_a_figure_that_is_none_is_one_line(evolution: Evolution, name: str, value: object) -> None:
    content = {"identity": {"seed": 0}, "calibration": "", "candidates": [{**GOOD, name: value}], "judged": {}}
    evolution.file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"not a file that a search wrote \(candidates.0.{name}: ") as raised:
        evolution.check()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", ["0.5", True, math.nan])
def test_what_a_network_was_judged_to_be_is_a_number(evolution: Evolution, value: object) -> None:
    content = {"identity": {"seed": 0}, "candidates": [], "judged": {GOOD["arch"]: [value, 0.5]}}
    evolution.file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="not a file that a search wrote"):
        evolution.check()


def test_scores_drop_the_worst_before_they_are_judged(evolution: Evolution, tmp_path: Path) -> None:
    judged: list[NetworkSpec] = []

    def seen(spec: NetworkSpec) -> Quality:
        judged.append(spec)
        return quality(spec)

    with_score = replace(
        evolution, file=tmp_path / "scored.json", score=lambda spec: quality(spec).expected, generations=2
    )
    with_score.run(seen)
    plain = replace(evolution, file=tmp_path / "plain.json", generations=2).run(quality)
    bred = [quality(spec).expected for spec in judged[12:]]
    assert len(bred) <= 12
    assert sum(bred) / len(bred) > sum(c.expected for c in plain[12:]) / len(plain[12:])


def test_the_front_is_sorted_and_beaten_by_none() -> None:
    candidates = [
        SearchedNetwork(str(k), ms, good, good, 0) for k, (ms, good) in enumerate([(1, 0.5), (2, 0.4), (3, 0.9)])
    ]
    assert [c.ms for c in front_of(candidates)] == [1, 3]


def test_children_stay_in_the_space() -> None:
    rng = random.Random(0)
    for _ in range(20):
        one, other = SPACE.sample(rng), SPACE.sample(rng)
        assert crossed(one, other, rng) in SPACE
        changed = mutated(SPACE, one, rng)
        assert changed in SPACE


# The part of a space that a bound leaves


def test_a_bound_that_nothing_meets_names_the_fastest() -> None:
    fastest = latency(SPACE.smallest())
    with pytest.raises(UserError, match=f"so fast at 32 px; the fastest takes {fastest:.3g} ms") as raised:
        bounded_space(SPACE, latency, 0.01, 32)
    assert SPACE.smallest().text in str(raised.value)


def test_a_bound_just_above_the_fastest_network_finds_it_and_its_like(tmp_path: Path) -> None:
    """Where calls are what costs, narrow networks of PP-LCNet's depth are not the fastest."""

    def calls(spec: NetworkSpec) -> float:
        return sum(value for name, value in costs_of(spec).items() if name.endswith("calls"))

    lcnet = space_named("lcnet")
    fastest = lcnet.replace(input_sizes=(SIDE,)).smallest()
    assert scale_within(calls, 1.05 * calls(fastest), SIDE) is None
    space, scale = bounded_space(lcnet, calls, 1.05 * calls(fastest), SIDE)
    assert fastest in space
    assert any(len(stage.widths) > 1 for stage in space.stages)
    search = Evolution(space, calls, 1.05 * calls(fastest), tmp_path / "file.json", {}, population=3, generations=3)
    found = search.run(quality)
    assert found[0].spec == fastest
    assert len(found) > 3
    assert space == space_around(lcnet, scale, SIDE)  # from which a search with its supernet makes it again


def test_the_space_around_a_narrow_scale_has_fewer_blocks_too() -> None:
    lcnet = space_named("lcnet")
    assert [min(stage.depths) for stage in space_around(lcnet, 0.2, SIDE).stages] == [1] * 5
    assert [min(stage.depths) for stage in space_around(lcnet, 0.25, SIDE).stages] == [1, 1, 1, 5, 1]


@pytest.mark.parametrize("name", ["lcnet", "cpu"])
def test_every_scale_is_in_the_space_around_it(name: str) -> None:
    """What was found for a scale could not be compared with 0.35x: its first stage is 16 wide, where 11.2 is asked."""
    whole = space_named(name)
    for scale in SCALES:
        assert LCNetSpec(scale=scale).network().replace(input_size=SIDE) in space_around(whole, scale, SIDE), scale


def test_the_space_around_a_scale_holds_it_and_little_else() -> None:
    lcnet = space_named("lcnet")
    half = LCNetSpec(scale=0.5).network().replace(input_size=128)
    bound = half.count().flops / 1e6
    space, scale = bounded_space(lcnet, lambda spec: spec.count().flops / 1e6, bound, 128)
    assert scale == 0.5
    assert half in space
    assert LCNetSpec(scale=0.75).network().replace(input_size=128) not in space
    assert space.largest().count().flops < 4 * half.count().flops
    assert space.smallest().count().flops > half.count().flops / 4
    assert space == space_around(lcnet, 0.5, 128)
    assert scale_within(lambda spec: 2.0, 1.0, 128) is None
