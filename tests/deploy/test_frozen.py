"""A network that is not trained any more runs on an engine, if that gives what Paddle gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext.core.errors import UserError
from ppcls_ext.deploy import frozen
from ppcls_ext.deploy.frozen import OnEngine, on_engine
from ppcls_ext.runtime.engines.base import Engine

SHAPE = (3, 8, 8)


def network() -> nn.Layer:
    paddle.seed(0)
    model = nn.Sequential(nn.Conv2D(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(4, 5))
    model.eval()
    return model


def images(count: int, side: int = 8) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(1).random((count, 3, side, side), np.float32))


@pytest.mark.parametrize("name", ["onednn", "onnxruntime"])
def test_an_engine_gives_what_paddle_gives(name: str) -> None:
    model, lines = network(), list[str]()
    found, chosen = on_engine(model, SHAPE, name, "teacher", lines.append)
    assert chosen == name
    assert lines[0].startswith(f"teacher: runs on {name} (largest difference from Paddle ")
    assert isinstance(found, OnEngine)
    for batch in (images(3), images(1), images(2, side=12)):  # the last of a shape that was not asked for
        np.testing.assert_allclose(found(batch).numpy(), model(batch).numpy(), atol=1e-5)


class Map(nn.Layer):
    """A network for images of any size, with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3, padding=1)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        x = self.conv(x)
        return [x, x.mean([2, 3]) * 100]


@pytest.mark.parametrize("name", ["onednn", "onnxruntime"])
def test_a_network_may_give_a_list_and_take_any_size(name: str) -> None:
    paddle.seed(0)
    model = Map()
    model.eval()
    found, chosen = on_engine(model, (3, -1, -1), name, "eval", lambda _: None)
    assert chosen == name
    for batch in (images(3), images(1, side=13)):
        outputs = found(batch)
        assert isinstance(outputs, list)
        for output, expected in zip(outputs, model(batch), strict=True):
            np.testing.assert_allclose(output.numpy(), expected.numpy(), atol=1e-4)


def test_the_first_engine_that_can_run_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(frozen.engine_class("onednn"), "open", refuse)
    lines = list[str]()
    _, chosen = on_engine(network(), SHAPE, "first", "teacher", lines.append)
    assert chosen == "onnxruntime"
    assert lines[0] == "teacher: not on onednn, which cannot run it (no such operator)"


def test_an_engine_that_gives_what_is_no_number_does_not_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = frozen.engine_class("onednn")
    given, calls = kind.__call__, list[int]()

    def last_lost(engine: Engine, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        calls.append(len(inputs[0]))
        factor = np.float32(np.nan if len(calls) == len(frozen.TRIED) else 1)
        return [output * factor for output in given(engine, inputs)]

    monkeypatch.setattr(kind, "__call__", last_lost)
    model, lines = network(), list[str]()
    assert on_engine(model, SHAPE, "onednn", "teacher", lines.append) == (model, "paddle")
    assert "differs from Paddle by nan" in lines[0]
    assert calls == list(frozen.TRIED)


def test_paddle_runs_it_where_the_outputs_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "TOLERANCE", -1.0)
    model, lines = network(), list[str]()
    assert on_engine(model, SHAPE, "onednn", "teacher", lines.append) == (model, "paddle")
    assert "differs from Paddle by" in lines[0]


def test_an_engine_can_be_chosen_and_declined() -> None:
    model, lines = network(), list[str]()
    assert on_engine(model, SHAPE, "paddle", "teacher", lines.append) == (model, "paddle")
    assert not lines
    with pytest.raises(UserError, match="engine 'onedn' is unknown; did you mean 'onednn'"):
        on_engine(model, SHAPE, "onedn", "teacher", lines.append)
    with pytest.raises(UserError, match="engine onednn-bf16 rounds numbers"):
        on_engine(model, SHAPE, "onednn-bf16", "teacher", lines.append)
