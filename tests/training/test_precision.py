"""`ppcls_ext.training.precision`: refused where the device has no float16, and in the right order where it has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.training.precision import AMP, Precision
from ppcls_ext.training.trainer import train
from tests.helpers.configs import config_of, write_config


@pytest.mark.slow
@pytest.mark.parametrize("section", [{}, {"use_amp": True, "level": "O1", "scale_loss": 128.0}])
def test_it_is_refused_on_the_cpu_in_one_line(section: dict[str, Any], data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path / "output")
    config["AMP"] = section
    path = write_config(tmp_path / "run.yaml", config)
    with pytest.raises(UserError, match=r"AMP: mixed precision needs a GPU, this is cpu; -o AMP.use_amp=false"):
        train(load_config(path))
    assert not (tmp_path / "output").exists()
    train(load_config(path, ["AMP.use_amp=false", "Global.iters=1", "Optimizer.lr=0.1"]))


def test_level_o2_is_refused(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path / "output")
    config["AMP"] = {"level": "O2"}
    with pytest.raises(UserError, match=r"AMP.level: input should be 'O1', got 'O2'"):
        train(load_config(write_config(tmp_path / "run.yaml", config)))


class FakeScaler:
    """What Paddle's does on a GPU, without a GPU: a scaling that is dynamic doubles with each step."""

    def __init__(self, init_loss_scaling: float, use_dynamic_loss_scaling: bool) -> None:
        self.scaling, self.dynamic, self.steps = init_loss_scaling, use_dynamic_loss_scaling, 0

    def scale(self, loss: paddle.Tensor) -> paddle.Tensor:
        return loss * self.scaling

    def step(self, optimizer: paddle.optimizer.Optimizer) -> None:
        for parameter in optimizer._parameter_list:
            parameter.grad.set_value(parameter.grad / self.scaling)
        optimizer.step()
        self.steps += 1

    def update(self) -> None:
        self.scaling *= 2 if self.dynamic else 1

    def state_dict(self) -> dict[str, Any]:
        return {"scale": np.array([self.scaling], np.float32), "incr_count": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scaling, self.steps = state["scale"][0], state["incr_count"]


@pytest.mark.parametrize("dynamic", [True, False])
def test_on_a_gpu_the_loss_is_scaled_and_the_step_unscaled(dynamic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []

    @contextlib.contextmanager
    def auto_cast(level: str) -> Iterator[None]:
        levels.append(level)
        yield

    monkeypatch.setattr(paddle.amp, "GradScaler", FakeScaler)
    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    precision = Precision(AMP(scale_loss=64.0, use_dynamic_loss_scaling=dynamic), "gpu:0")
    model = nn.Linear(1, 1, bias_attr=False)
    before = model.weight.item()
    optimizer = paddle.optimizer.SGD(1.0, model.parameters())
    for part in (1.0, 2.0):  # two batches of one step
        with precision.forward():
            loss = model(paddle.to_tensor([[part]])).sum()
        precision.backward(loss)
    assert model.weight.grad.item() == pytest.approx(64 * 3)
    precision.step(optimizer)
    assert before - model.weight.item() == pytest.approx(3.0)
    assert model.weight.grad is None or model.weight.grad.item() == 0
    assert levels == ["O1", "O1"]
    assert precision.state() == {"scale": 128.0 if dynamic else 64.0, "incr_count": 1}
    precision.load({"scale": 32.0, "incr_count": 3})
    assert precision.state() == {"scale": 32.0, "incr_count": 3}
