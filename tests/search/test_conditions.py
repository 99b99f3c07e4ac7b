"""What a search says of how far its result is to be trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ppcls_ext.search.aim import aim_of
from ppcls_ext.search.conditions import seen_before
from ppcls_ext.search.wish import Wish


def test_weights_that_a_run_has_left_are_warned_of(wish: Wish, tmp_path: Path) -> None:
    public, run = tmp_path / "public.pdparams", tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "environment.json"):
        (run / name).touch()

    def warned(weights: Path | None) -> str:
        start = () if weights is None else (f"Global.pretrained_model={weights}",)
        return seen_before(aim_of(replace(wish, overrides=(*wish.overrides, *start))))

    assert warned(None) == warned(public) == ""
    assert f"the run of {run / 'best.pdparams'} may have been trained on the images" in warned(run / "best.pdparams")
