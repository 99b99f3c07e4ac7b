"""`ppcls_ext.search.space`: which networks a search may choose from."""

from __future__ import annotations

import random

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.models.block_kinds import BLOCK_KINDS
from ppcls_ext.models.network_spec import NetworkSpec, parse_spec
from ppcls_ext.models.spec import SPECS
from ppcls_ext.search.space import SPACES, Space, StageSpace, block_choices, family_space, space_named, widths_between

INSIDE = SPECS["PPLCNet_x0_5"].network().text


@pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))
@pytest.mark.parametrize("name", SPECS)
def test_every_scale_and_ablation_is_a_point(space: Space, name: str) -> None:
    assert space.problem(SPECS[name].network()) is None


def tiny() -> Space:
    choices = block_choices(kernels=(3, 5), se=(False,))
    stages = (StageSpace((0, 1), (8, 16), choices), *[StageSpace((1,), (24,), choices[:1])] * 4)
    return Space("tiny", (8,), stages, last_widths=(0, 32), input_sizes=(64, 96))


def test_the_size_is_the_number_of_networks() -> None:
    # 2 widths and no block, or one of 2; and 2 last convolutions, 2 input sizes. Widths of no block count too.
    assert tiny().size == 2 * (1 + 2) * 2 * 2
    one = tiny().replace(stages=(StageSpace((1,), (8, 16), tiny().stages[0].blocks), *tiny().stages[1:]))
    assert len(one.samples(one.size, seed=1)) == one.size == 16
    with pytest.raises(UserError, match="space 'tiny': it has 16 networks, 17 are asked for; ask for fewer"):
        one.samples(17, seed=1)


@pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))
def test_samples_lie_in_the_space_and_repeat_with_their_seed(space: Space) -> None:
    found = space.samples(100, seed=7)
    assert len(set(found)) == 100
    assert all(spec in space for spec in found)
    assert found == space.samples(100, seed=7) != space.samples(100, seed=8)
    assert all(parse_spec(spec.text) == spec for spec in found)


def test_samples_reach_every_choice() -> None:
    found = SPACES["cpu"].samples(500, seed=0)
    blocks = {block for spec in found for stage in spec.stages for block in stage}
    assert {block.kind for block in blocks} == set(BLOCK_KINDS) - {"conv"}
    assert {block.kernel for block in blocks} == {2, 3, 5}
    assert {spec.depths[3] for spec in found} == set(range(1, 10))
    assert {spec.input_size for spec in found} == set(SPACES["cpu"].input_sizes)


def test_neighbours_are_one_step_away_and_each_has_the_way_back() -> None:
    space = SPACES["lcnet"]
    start = SPECS["PPLCNet_x0_5"].network()
    found = list(space.neighbours(start))
    assert len(set(found)) == len(found)
    assert start not in found
    assert all(spec in space for spec in found)
    assert all(start in set(space.neighbours(spec)) for spec in random.Random(0).sample(found, 20))
    assert {spec.stem for spec in found} == {8, 16}
    assert {spec.depths for spec in found} >= {(2, 2, 2, 6, 2), (1, 3, 2, 6, 2), (1, 1, 2, 6, 2)}
    # Each of 13 blocks has 7 other choices: two kernels, SE or none, two activations.
    blocks = [block for stage in start.stages for block in stage]
    others = [[block for stage in spec.stages for block in stage] for spec in found if spec.depths == start.depths]
    changed = [[new for old, new in zip(blocks, other, strict=True) if new != old] for other in others]
    assert sum(len(new) == 1 and new[0].width in start_widths(start) for new in changed) == 13 * 7


def start_widths(spec: NetworkSpec) -> set[int]:
    return {blocks[0].width for blocks in spec.stages}


def test_an_empty_stage_has_neighbours_too() -> None:
    space = tiny()
    empty = parse_spec("stem8 | - | ds-c24 | ds-c24 | ds-c24 | ds-c24 | last0 | 64")
    assert empty in space
    assert "stem8 | ds-c8 | ds-c24 | ds-c24 | ds-c24 | ds-c24 | last0 | 64" in {s.text for s in space.neighbours(empty)}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stem8", "stem48", "stem is 48, which is not in the space 'lcnet' (8, 16, 24, 32, 40)"),
        ("| 224", "| 32", "input size is 32, which is not in the space 'lcnet' (96, 128, 160, 192, 224, 256, 288)"),
        ("ds-c16 ", "ds-c16*3 ", "depth of blocks2 is 3, which is not in the space 'lcnet' (1, 2)"),
        ("ds-c16 ", "ds-c88 ",
         "width of blocks2 is 88, which is not in the space 'lcnet' (8, 16, 24, 32, 40, 48, 56, 64, ... to 80)"),
        ("ds-c32*2", "ds-c32 ds-c40", "blocks3 has blocks of several widths; in the space 'lcnet' a stage has one"),
        ("ds-c32*2", "ir-c32", "blocks3 has a block 'ir-c32', which is not in the space 'lcnet'"),
        ("stem8", "stem8-strides222222", "other strides or a norm behind the last convolution, which the space 'lcnet' "
         "does not have"),
    ],
)  # fmt: skip
def test_a_network_outside_is_named_by_the_part_at_fault(old: str, new: str, message: str) -> None:
    spec = parse_spec(INSIDE.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        SPACES["lcnet"].check(spec)
    assert str(caught.value) == f"network {spec.name}: {message}"


def test_a_space_of_other_widths_has_the_same_stages() -> None:
    half = family_space("half", [block_choices()] * 5, low=0.35, high=0.6)
    assert half.stems == (8, 16)
    assert half.stages[4].widths == widths_between(512, 0.35, 0.6) == tuple(range(176, 305, 8))
    assert SPECS["PPLCNet_x0_5"].network() in half
    assert SPECS["PPLCNet_x1_0"].network() not in half


def test_an_unknown_space_is_refused() -> None:
    assert space_named("lcnet") is SPACES["lcnet"]
    with pytest.raises(UserError, match="no space 'lcnets'; did you mean 'lcnet'"):
        space_named("lcnets")
