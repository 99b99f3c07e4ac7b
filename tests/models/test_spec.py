"""`ppcls_ext.models.spec`: the network as data."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ppcls_ext.models.spec import BLOCKS, SCALES, SPECS, STAGES, LCNetSpec, round_width
from ppcls_ext.models.spec import scale_name as name_of
from tests.helpers.ablations import ABLATIONS, HALF


def differences(ours: LCNetSpec, base: LCNetSpec) -> dict[str, Any]:
    """Fields of `ours` that differ from `base`, with their values."""
    fields = [field.name for field in dataclasses.fields(LCNetSpec)]
    return {name: getattr(ours, name) for name in fields if getattr(ours, name) != getattr(base, name)}


def test_the_names_are_the_scales_and_the_ablations() -> None:
    assert set(SPECS) == {f"PPLCNet_{name_of(scale)}" for scale in SCALES} | set(ABLATIONS)


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_differs_from_1x_only_in_its_scale(scale: float) -> None:
    changed = differences(SPECS[f"PPLCNet_{name_of(scale)}"], LCNetSpec())
    assert changed == ({} if scale == 1.0 else {"scale": scale})


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_differs_from_its_base_only_as_its_table_says(name: str) -> None:
    base, changes = ABLATIONS[name]
    assert differences(SPECS[name], SPECS[base]) == changes


def test_the_last_step_of_table_9_adds_only_the_last_convolution() -> None:
    before = SPECS["PPLCNet_x0_5_base_hswish_k5_se"]
    assert differences(SPECS["PPLCNet_x0_5_no_dropout"], before) == {"last_width": 1280}


def test_blocks_are_thirteen_in_five_stages_with_total_stride_32() -> None:
    assert len(BLOCKS) == 13
    assert STAGES == ("blocks2", "blocks3", "blocks4", "blocks5", "blocks6")
    stride = 2  # the stem's
    for block in BLOCKS:
        stride *= block.stride
    assert stride == 32


@pytest.mark.parametrize(
    ("width", "rounded"),
    [(16 * 0.25, 8), (32 * 0.25, 8), (16 * 0.35, 8), (32 * 0.35, 16), (128 * 0.35, 48), (256 * 0.35, 88),
     (16 * 2.5, 40), (12, 16), (11.9, 16), (1, 8), (512 * 0.75, 384)],
)  # fmt: skip
def test_widths_round_to_multiples_of_8_and_keep_nine_tenths(width: float, rounded: int) -> None:
    assert round_width(width) == rounded


def test_no_width_falls_below_nine_tenths() -> None:
    for tenth in range(10, 20000, 7):
        width = tenth / 10
        rounded = round_width(width)
        assert rounded % 8 == 0
        assert rounded >= 0.9 * width
        assert rounded <= max(8, width + 8)


@pytest.mark.parametrize(("scale", "name"), [(0.25, "x0_25"), (0.5, "x0_5"), (1.0, "x1_0"), (1, "x1_0"), (2.5, "x2_5")])
def test_scale_names_are_paddleclas_spelling(scale: float, name: str) -> None:
    assert name_of(scale) == name


def test_a_spec_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPECS[HALF].scale = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scale": 0}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"act": "swish"}, "act"),
        ({"se": "01"}, "se"),
        ({"kernel5": "2" * 13}, "kernel5"),
        ({"dropout": 1.0}, "dropout"),
        ({"last_width": -1}, "last_width"),
        ({"last_width": 0}, "dropout"),
        ({"strides": (2, 2, 2, 2)}, "strides"),
    ],
)
def test_a_wrong_field_is_refused_by_name(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LCNetSpec(**wrong)


def test_replace_checks_too() -> None:
    with pytest.raises(ValueError, match="se must be"):
        LCNetSpec().replace(se="1")
