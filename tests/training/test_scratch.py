"""A run that starts from nothing on a small set names the public weights that would help."""

from __future__ import annotations

import pytest

from ppcls_ext.core.config import load_config
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.training.scratch import SMALL_SET, from_scratch

HALF = "PPLCNet_x0_5_pretrained.pdparams"


@pytest.mark.parametrize(
    ("config", "given", "end"),
    [
        ("my_images", [], f"-o Global.pretrained_model={HALF} -o Global.new_head=True"),
        ("my_images", ["Arch.name=PPLCNet_x1_0"], "=PPLCNet_x1_0_pretrained.pdparams -o Global.new_head=True"),
        ("det/my_coco", [], f"-o Global.pretrained_model={HALF}"),
        ("det/my_coco", ["Arch.backbone.scale=2"], "-o Global.pretrained_model=PPLCNet_x2_0_pretrained.pdparams"),
        ("det/my_coco_from_coco", [], "-o Global.pretrained_model=picodet_s_320_coco_lcnet.pdparams"),
        ("seg/my_masks", [], f"-o Global.pretrained_model={HALF}"),
    ],
)
def test_public_weights_are_named(config: str, given: list[str], end: str) -> None:
    line = from_scratch(make_task(load_config(config, given)), 100)
    assert line is not None
    assert line.startswith("from scratch on 100 images: public weights would gain the most; fetch https://")
    assert line.endswith(end)


@pytest.mark.parametrize(
    ("given", "images"),
    [
        (["Global.pretrained_model=FILE"], 100),
        (["Global.checkpoints=output/my_images"], 100),
        (["Arch.name=PPLCNet_x0_5", "Arch.use_last_conv=false"], 100),  # another network than the published one
        ([], SMALL_SET),
    ],
)
def test_nothing_is_said_where_they_would_not_help(given: list[str], images: int) -> None:
    assert from_scratch(make_task(load_config("my_images", given)), images) is None
