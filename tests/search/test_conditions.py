"""What a search says of how far its result is to be trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ppcls_ext.search.aim import aim_of
from ppcls_ext.search.conditions import nothing_learned, seen_before
from ppcls_ext.search.evolution import SearchedNetwork
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


BALANCED, UNEVEN = [0, 1], [0] * 9 + [1]


@pytest.mark.parametrize(
    ("labels", "expected", "top1", "nothing"),
    [
        (BALANCED, 0.54, 0.60, True),
        (BALANCED, 0.72, 0.82, False),  # scores are smoothed, and two classes are told apart all the same
        (UNEVEN, 0.82, 0.90, True),  # the frequency of the classes as scores
        (UNEVEN, 0.89, 0.90, True),  # always the frequent class
        (UNEVEN, 0.86, 0.95, False),
        (list(range(100)), 0.014, 0.03, True),
        (list(range(100)), 0.03, 0.08, False),  # a tenth of the images is far more than a guess here
    ],
)
def test_what_knows_no_more_than_how_frequent_classes_are_has_learned_nothing(
    wish: Wish, labels: list[int], expected: float, top1: float, nothing: bool
) -> None:
    aim = aim_of(wish)
    found = [SearchedNetwork("one", 1.0, expected, top1, 0), SearchedNetwork("other", 2.0, 0.0, 0.0, 0)]
    assert nothing_learned(aim, found, labels) == nothing
    assert not nothing_learned(replace(aim, wish=replace(wish, accuracy="scores")), found, labels)
