"""Scores without training: functions of network and seed that leave a network as it was."""

from __future__ import annotations

import numpy as np
import paddle

from ppcls_ext.core.seeding import seed_all
from ppcls_ext.models.lcnet import PPLCNet
from ppcls_ext.models.weights import numpy_state
from ppcls_ext.search.scores import SCORES, Scorer, rank_correlations, synflow
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


def test_synflow_gives_the_weights_back() -> None:
    seed_all(0)
    network = PPLCNet(SPACE.smallest(), 3)
    before = numpy_state(network)
    synflow(network, paddle.randn([1, 3, SIDE, SIDE]))
    for name, value in numpy_state(network).items():
        np.testing.assert_allclose(value, before[name], atol=1e-7)


def test_what_is_ranked_by_parameters_correlates_with_them() -> None:
    specs = SPACE.samples(8, seed=1)
    found = rank_correlations(Scorer(3, seed=0), specs, [float(spec.count(3).params) for spec in specs])
    assert found["parameters"][0] == 1.0
    assert set(found) == {*SCORES, "parameters", "multiply-adds", "random order"}
