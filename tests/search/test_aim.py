"""What a wish comes to, and what cannot be searched for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.search.aim import aim_of
from ppcls_ext.search.latency import Accuracy
from ppcls_ext.search.measurements import Calibration
from ppcls_ext.search.wish import Wish
from tests.helpers.spaces import SIDE, measured, tiny_space

SPACE = tiny_space()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency": 1e-3}, "nothing in the space 'tiny' is so fast at 32 px; the fastest takes"),
        ({"latency": None, "like": "PPLCNet_x9"}, "--like PPLCNet_x9: no network of that name"),
        (
            {"engine": "native"},
            "no calibration of native of this machine for 1 thread; make one: pplcnet search --calibrate",
        ),
        ({"threads": 2}, "no calibration of onednn of this machine for 2 threads; make one"),
        ({"space": "cpu"}, r"space 'cpu': the calibration has no .*full"),
        ({"space": "moon"}, "no space 'moon'"),
        ({"space": "moon", "threads": 7}, "no space 'moon'"),  # before the advice to calibrate
        ({"engine": "moon"}, "engine 'moon' is unknown"),
        ({"supernet": Path("nowhere")}, "--supernet nowhere: not the folder of a search"),
    ],
)
def test_what_cannot_be_found_is_one_line(wish: Wish, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        aim_of(replace(wish, **change))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": "short"}, "--accuracy short starts from nothing"),
        ({"accuracy": "scores"}, "--accuracy scores starts from nothing"),
        ({"supernet": Path("nowhere")}, "the supernet of --supernet is trained already"),
    ],
)
def test_weights_that_nothing_would_start_from_are_one_line(wish: Wish, change: dict[str, Any], message: str) -> None:
    start = replace(wish, overrides=(*wish.overrides, "Global.pretrained_model=mine.pdparams"))
    aim_of(start)  # a supernet does
    with pytest.raises(UserError, match=rf"{message}.*; leave it out, or give -o Global.pretrained_model=null"):
        aim_of(replace(start, **change))


@pytest.mark.parametrize("shape", ["[3,32,64]", "[3,100,100]"])
def test_images_that_no_network_is_for_are_one_line(wish: Wish, shape: str) -> None:
    with pytest.raises(UserError, match="square images with sides that 32 divides"):
        aim_of(replace(wish, overrides=(*wish.overrides, f"Global.image_shape={shape}")))


def test_a_calibration_of_another_machine_is_one_line(wish: Wish, calibration: Calibration, tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    replace(calibration, target=replace(calibration.target, cpu=("Another CPU",))).save(file)
    with pytest.raises(UserError, match="cpu: Another CPU, not"):
        aim_of(replace(wish, calibration=file))


def test_images_of_a_size_that_was_not_measured_are_doubted_beside_what_else_is(
    wish: Wish, calibration: Calibration, tmp_path: Path
) -> None:
    ends = [spec.replace(input_size=2 * SIDE) for spec in (SPACE.smallest(), SPACE.largest())]
    of_others = replace(calibration, anchor_ms=(1.0,), measured=measured("network", *ends))
    file = tmp_path / "others.json"
    of_others.save(file)
    by_it = replace(wish, calibration=file)
    outside = "outside what the calibration of onednn measured: input size 32 (64 to 64); predictions may be off"
    assert aim_of(by_it).doubts == (outside,)
    replace(of_others, accuracy={"model": Accuracy(0.07, 1.0, 0.99, 50)}).save(file)
    accepted, *others = aim_of(by_it).doubts
    assert accepted.endswith("was not accepted: its median error is 7.0%, more than 5%")
    assert others == [outside]
    replace(of_others, measured=measured("probe", SPACE.smallest(), SPACE.largest())).save(file)
    assert aim_of(by_it).doubts == ()


def test_another_task_is_one_line(wish: Wish, calibration: Calibration) -> None:
    with pytest.raises(UserError, match="a search knows classification, not segmentation"):
        aim_of(replace(wish, config="seg/my_masks", overrides=("Global.image_shape=[3,64,64]",)))
