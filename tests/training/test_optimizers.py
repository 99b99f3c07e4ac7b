"""Optimizers and schedules from PaddleClas's `Optimizer` section."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext.core.errors import UserError
from ppcls_ext.models.factory import build_arch
from ppcls_ext.training.optimizers import OPTIMIZERS, build_optimizer, build_schedule, lr_of


def rates(
    settings: Mapping[str, Any], steps: int, epochs: int = 4, per_epoch: int = 5, batch: int = 64, **more: int
) -> list[float]:
    schedule = build_schedule(settings, epochs, per_epoch, batch, **more)
    values = []
    for _ in range(steps):
        values.append(schedule.lr())
        schedule.lr.step()
    return values


def test_cosine_with_warm_up_is_the_papers_curve() -> None:
    values = rates({"name": "Cosine", "learning_rate": 0.8, "warmup_epoch": 1}, 20)
    np.testing.assert_allclose(values[:5], [0.8 * i / 5 for i in range(5)])
    np.testing.assert_allclose(values[5:], [0.4 * (1 + math.cos(math.pi * i / 15)) for i in range(15)], atol=1e-7)


def test_poly_ends_exactly_at_the_last_step_of_a_run_by_steps() -> None:
    settings = {"name": "Linear", "learning_rate": 0.01, "power": 0.9}
    values = rates(settings, 13, epochs=3, last_step=12)
    np.testing.assert_allclose(values, [0.01 * (1 - i / 12) ** 0.9 for i in range(13)], atol=1e-9)


@pytest.mark.parametrize("name", ["Cosine", "Linear"])
def test_a_warm_up_may_be_part_of_an_epoch(name: str) -> None:
    values = rates({"name": name, "learning_rate": 1.0, "warmup_epoch": 0.57}, 20)  # 2.85 of 5 steps
    assert values.index(1.0) == 3
    assert 0 < values[-1] < 0.1


def test_a_number_is_a_constant_rate() -> None:
    assert rates(0.03, 3) == [0.03] * 3  # type: ignore[arg-type]


def test_the_rate_is_scaled_to_the_batch_and_said() -> None:
    settings = {"name": "Cosine", "learning_rate": 0.8, "base_batch_size": 2048}
    schedule = build_schedule(settings, 4, 5, 512)
    assert schedule.lr() == pytest.approx(0.2)
    assert schedule.note == "learning rate 0.2: 0.8 for a batch of 2048, scaled to 512"


def test_steps_by_epoch_are_marked() -> None:
    settings = {"name": "Piecewise", "decay_epochs": [1, 2], "values": [1.0, 0.1, 0.01], "by_epoch": True}
    assert build_schedule(settings, 3, 5, 8).by_epoch
    assert not build_schedule({"name": "Cosine", "learning_rate": 1.0}, 3, 5, 8).by_epoch


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_lowers_a_loss(name: str) -> None:
    paddle.seed(0)
    model = nn.Linear(3, 1)
    optimizer = build_optimizer({"name": name}, model, build_schedule(0.01, 1, 1, 1))
    x = paddle.to_tensor([[1.0, 2.0, 3.0]])
    losses = []
    for _ in range(5):
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]


def test_batch_norm_has_no_decay() -> None:
    """With a gradient of zero, decay alone moves a weight."""
    model = build_arch({"name": "PPLCNet_x0_25", "class_num": 2})
    section = {"name": "Momentum", "momentum": 0.0, "regularizer": {"name": "L2", "coeff": 0.1}}
    optimizer = build_optimizer(section, model, build_schedule(1.0, 1, 1, 1))
    before = {n: p.numpy().copy() for n, p in model.named_parameters() if not p.stop_gradient}
    (model(paddle.zeros([2, 3, 32, 32])).sum() * 0.0).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if name in before and np.abs(before[name]).max() > 0:
            moved = not np.array_equal(parameter.numpy(), before[name])
            assert moved == (".bn." not in name), name


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("clip_norm", {"weight": [[0.6], [0.8]], "bias": [0.5]}),  # gradients of norms 5 and 0.5, each cut to 1
        ("clip_norm_global", {"weight": np.array([[3.0], [4.0]]) / 25.25**0.5, "bias": [0.5 / 25.25**0.5]}),
    ],
)
def test_gradients_are_clipped(key: str, expected: dict[str, list[float]]) -> None:
    model = nn.Linear(2, 1)
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    optimizer = build_optimizer({"name": "SGD", key: 1.0}, model, build_schedule(1.0, 1, 1, 1))
    ((model.weight * paddle.to_tensor([[3.0], [4.0]])).sum() + 0.5 * model.bias.sum()).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(before[name] - parameter.numpy(), expected[name], rtol=1e-5)


@pytest.mark.parametrize(
    ("section", "clue"),
    [
        ({"name": "Momentum", "weight_decay": 1e-4, "regularizer": {"name": "L2", "coeff": 1e-4}}, "not both"),
        ({"name": "Momentum", "regularizer": {"name": "L3", "coeff": 1}}, "expected {name: L2"),
        ({"name": "SGD", "clip_norm": 1, "clip_norm_global": 1}, "not both"),
        ({"name": "SGD", "clip_norm": 0}, "Optimizer.clip_norm: expected a number above 0"),
        ({"name": "SGD", "clip_norm_global": -1}, "Optimizer.clip_norm_global: expected a number above 0"),
        ({"name": "SGD", "clip_norm": "much"}, "Optimizer.clip_norm: expected a number"),
        ({"name": "Adam", "momentum": 0.9}, "Optimizer.momentum: unknown key"),
        ([{"SGD": {"scope": "all"}}], "not supported"),
        (None, "section is missing"),
    ],
)
def test_wrong_sections(section: object, clue: str) -> None:
    with pytest.raises(UserError) as caught:
        build_optimizer(section, nn.Linear(1, 1), build_schedule(0.1, 1, 1, 1))  # type: ignore[arg-type]
    assert clue in str(caught.value)


def test_a_schedule_needs_its_keys() -> None:
    with pytest.raises(UserError, match=r"Optimizer\.lr is missing"):
        lr_of({"name": "SGD"})
    with pytest.raises(UserError, match="learning_rate"):
        build_schedule({"name": "Cosine"}, 2, 2, 2)
    with pytest.raises(UserError, match="not less than the run's 2 epochs"):
        build_schedule({"name": "Cosine", "learning_rate": 0.1, "warmup_epoch": 2}, 2, 2, 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "Cosine", "learning_rate": 0.4, "warmup_epoch": 1, "warmup_start_lr": 0, "eta_min": 0},
        {"name": "Linear", "learning_rate": 0.4, "end_lr": 0, "warmup_epoch": 1},
        {"name": "Piecewise", "decay_epochs": [2], "values": [0.4, 0]},
    ],
)
def test_a_schedule_may_start_or_end_at_0(settings: Mapping[str, Any]) -> None:
    assert max(rates(settings, 20)) == pytest.approx(0.4)
