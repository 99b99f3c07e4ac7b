"""Scores without training: functions of network and seed."""

from __future__ import annotations

import itertools

import numpy as np
import paddle
import pytest

from ppcls_ext.core.seeding import seed_all
from ppcls_ext.models.lcnet import PPLCNet
from ppcls_ext.search.bound import space_around
from ppcls_ext.search.scores import SCORES, Scorer, rank_correlations, zen_score
from ppcls_ext.search.space import space_named
from tests.helpers.spaces import SIDE, tiny_space

SPACE = tiny_space()


def test_scores_are_finite_and_the_same_again() -> None:
    scorer = Scorer(3, seed=0)
    for spec in SPACE.samples(3, seed=0):
        scores = scorer.all(spec)
        assert set(scores) == set(SCORES)
        assert all(np.isfinite(value) for value in scores.values())
        assert scorer.all(spec) == scores
        assert scorer(spec) == scores["zen"]


def test_more_channels_let_more_flow() -> None:
    scorer = Scorer(3, seed=0)
    assert scorer(SPACE.largest(), "synflow") > scorer(SPACE.smallest(), "synflow")


def test_no_score_depends_on_the_others_or_on_their_order() -> None:
    scorer, spec = Scorer(3, seed=0), SPACE.largest()  # it drops out, and has batch norms
    alone = {name: scorer(spec, name) for name in SCORES}
    for order in itertools.permutations(SCORES):
        assert scorer.all(spec, order) == alone


def test_the_flow_through_a_wide_network_is_a_number() -> None:
    wide = space_around(space_named("lcnet"), 2.5, SIDE).largest()
    assert np.isfinite(Scorer(3, seed=0)(wide, "synflow"))


def test_the_zen_score_adds_back_what_batch_norms_divide_by() -> None:
    """With the stem ten times as large, its batch norm divides by ten times as much, and nothing else changes."""
    found = []
    for factor in (1.0, 10.0):
        seed_all(0)
        network = PPLCNet(SPACE.largest(), 3)
        network.conv1.conv.weight.set_value(factor * network.conv1.conv.weight)
        found.append(zen_score(network, paddle.randn([4, 3, SIDE, SIDE])))
    assert found[1] - found[0] == pytest.approx(np.log(10), abs=1e-2)


def test_what_is_ranked_by_parameters_correlates_with_them() -> None:
    specs = SPACE.samples(8, seed=1)
    found = rank_correlations(Scorer(3, seed=0), specs, [float(spec.count(3).params) for spec in specs])
    assert found["parameters"][0] == 1.0
    assert set(found) == {*SCORES, "parameters", "multiply-adds", "random order"}
