"""`ppcls_ext.models.network_spec`: any network of the space as data, counted without being built."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ppcls_ext.models.block_kinds import BLOCK_KINDS, BlockSpec
from ppcls_ext.models.network_spec import NetworkSpec, parse_spec
from ppcls_ext.models.spec import SPECS
from tests.helpers.points import EVERY_KIND, SMALL

import paddle  # isort: skip  (after ppcls_ext, which silences its warnings)

from ppcls_ext.models.counting import count  # isort: skip
from ppcls_ext.models.folding import fold_branches  # isort: skip
from ppcls_ext.models.lcnet import PPLCNet  # isort: skip
from tests.helpers.families import mostly_slow

PPLCNET_1X = "stem16 | ds-c32 | ds-c64*2 | ds-c128*2 | ds-c256 ds-c256-k5*5 | ds-c512-k5-se*2 | last1280-drop0.2 | 224"


def test_the_text_of_pp_lcnet_1x() -> None:
    assert SPECS["PPLCNet_x1_0"].network().text == PPLCNET_1X


@pytest.mark.parametrize("name", mostly_slow(SPECS))
def test_a_named_network_is_built_from_its_expansion_with_the_same_tensors(name: str) -> None:
    spec = SPECS[name]
    by_name, by_blocks = PPLCNet(spec, 10), PPLCNet(parse_spec(spec.network().text), 10)
    tensors = [[(n, tuple(t.shape)) for n, t in model.state_dict().items()] for model in (by_name, by_blocks)]
    assert tensors[0] == tensors[1]


@pytest.mark.parametrize("text", mostly_slow([*EVERY_KIND.values(), *(spec.network().text for spec in SPECS.values())]))
def test_counts_of_a_spec_are_those_of_the_network_that_is_built(text: str) -> None:
    spec = parse_spec(text)
    for class_num, size in ((7, spec.input_size), (7, 97)):  # an odd side: every stride rounds up
        model = PPLCNet(spec, class_num)
        built = count(model, paddle.zeros([1, 3, size, size]))
        assert tuple(spec.count(class_num, size)) == tuple(built)
    model.eval()
    fold_branches(model)
    folded = count(model, paddle.zeros([1, 3, 97, 97]))
    assert tuple(spec.count(7, 97, folded=True)) == tuple(folded)


def test_a_trunk_is_counted_without_a_head() -> None:
    spec = parse_spec(SMALL)
    model = PPLCNet(spec, 0)
    assert spec.count(0).params == sum(int(p.size) for p in model.parameters() if not p.stop_gradient)
    assert spec.count(1000).params - spec.count(0).params == 64 * 32 + 32 * 1000 + 1000


def test_every_kind_is_in_the_points_that_are_tested() -> None:
    assert {block.kind for text in EVERY_KIND.values() for stage in parse_spec(text).stages for block in stage} == set(
        BLOCK_KINDS
    )


@pytest.mark.parametrize("text", EVERY_KIND.values())
def test_a_text_is_read_back(text: str) -> None:
    assert parse_spec(text).text == text


def test_a_text_is_read_with_its_words_in_any_order() -> None:
    loose = SMALL.replace("ds-c32-k5-se-relu", "ds-relu-se-k5-c32").replace(" | ", "|")
    assert loose != SMALL
    assert parse_spec(loose) == parse_spec(SMALL)


def test_numbers_that_are_no_short_decimals_survive_the_text() -> None:
    spec = parse_spec(SMALL)
    block = BlockSpec("ir", 16, expansion=1.1 + 2.2)
    spec = spec.replace(dropout=1 / 3, stages=((block,), *spec.stages[1:]))
    assert parse_spec(spec.text) == spec


def test_the_name_is_stable_and_differs_with_every_field() -> None:
    assert parse_spec(PPLCNET_1X).name == "LCNet-916c9bb5"
    spec = parse_spec(PPLCNET_1X)
    changes: list[dict[str, Any]] = [
        {"stem": 24}, {"act": "relu"}, {"last_width": 640}, {"dropout": 0.1}, {"input_size": 192},
        {"strides": (2, 1, 2, 2, 2, 1)}, {"last_norm": True}, {"stages": (spec.stages[0] * 2, *spec.stages[1:])},
    ]  # fmt: skip
    assert {next(iter(change)) for change in changes} == {field.name for field in dataclasses.fields(NetworkSpec)}
    assert len({spec.name, *(spec.replace(**change).name for change in changes)}) == 1 + len(changes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("| 224", "", "arch must have 8 pieces between '|' (stem, 5 stages, last, input size), got 7"),
        ("stem16", "16", "arch: '16' is no stem; write it as stem16 or stem16-relu"),
        ("stem16", "stem12", "stem must be a positive multiple of 8, got 12"),
        ("ds-c32 ", "dw-c32 ", "arch: 'dw-c32': no block kind 'dw'; did you mean 'ds'?"),
        ("ds-c32 ", "ds-c30 ", "arch: 'ds-c30': width of a block 'ds' must be a positive multiple of 8, got 30"),
        ("ds-c32 ", "ds ", "arch: 'ds' has no width; add its channels, such as ds-c32"),
        ("ds-c32 ", "ds-c32-c64 ", "arch: 'ds-c32-c64' says width twice"),
        ("ds-c32 ", "ds-c32-relu7 ", "arch: 'relu7' in 'ds-c32-relu7' means nothing; did you mean 'relu'?"),
        ("ds-c32 ", "ds-c32-k4 ",
         "arch: 'ds-c32-k4': kernel of a block 'ds' must be one of (2, 3, 5, 7), got 4"),
        ("ds-c32 ", "ds-c32-e4 ", "arch: 'ds-c32-e4': a block 'ds' has no expansion, got 4.0"),
        ("ds-c32 ", "grouped-c32-g3 ",
         "arch: 'grouped-c32-g3': groups of a block 'grouped' must be 1, 2 or 4, got 3"),
        ("ds-c64*2", "ds-c64*0", "arch: 'ds-c64*0': after '*' stands how often the block is repeated, 1 to 100"),
        ("ds-c64*2", "ds-c64*60 ds-c64*60", "arch: a stage of more than 100 blocks"),
        ("ds-c64*2", "-", "stage blocks3 has no block: only blocks2 may be empty"),
        ("ds-c64*2", "ir-c64-k0-e4", "block 0 of blocks3 must halve the map, but has no spatial convolution: give it a "
         "kernel, got 'ir-c64-k0-e4'"),
        ("last1280-drop0.2", "last1280-drop2", "arch: 'last1280-drop2' is no last convolution; write it as "
         "last1280-drop0.2 or last0"),
        ("last1280-drop0.2", "last0-drop0.2", "dropout and a norm follow the last 1x1 convolution: without it (last0) "
         "there is neither"),
        ("224", "225", "input size must be a positive multiple of 32, got 225"),
        ("224", "big", "arch: 'big' is no input size; write the side of the images in pixels, such as 224"),
    ],
)  # fmt: skip
def test_a_wrong_text_is_refused_in_one_line_that_names_the_piece(old: str, new: str, message: str) -> None:
    text = PPLCNET_1X.replace(old, new, 1)
    assert text != PPLCNET_1X
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        parse_spec(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [None, 3, ["stem16"], {}])
def test_an_arch_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="arch must be a text"):
        parse_spec(value)
