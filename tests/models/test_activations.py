"""A network fresh from its constructor is not fit for timing; with the statistics of its inputs it is."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.core.errors import CheckFailed
from ppcls_ext.models.factory import build_arch

import paddle  # isort: skip  (after ppcls_ext, which silences its warnings)
from paddle import nn  # isort: skip

from ppcls_ext.models.activations import (  # isort: skip
    LEAST_OUTPUTS,
    Activations,
    check_activations,
    give_realistic_statistics,
    measure_activations,
)


@pytest.fixture
def images() -> paddle.Tensor:
    paddle.seed(1)
    return paddle.randn([4, 3, 96, 96])


def network(name: str) -> nn.Layer:
    paddle.seed(0)
    model = build_arch({"name": name})
    model.eval()
    return model


@pytest.mark.parametrize("name", ["PPLCNet_x0_25", "PPLCNet_x0_5_se_1111111111111", "MobileNetV2_x0_25"])
def test_default_statistics_fail_and_those_of_the_input_pass(name: str, images: paddle.Tensor) -> None:
    model = network(name)
    with pytest.raises(CheckFailed, match="root mean square"):
        check_activations(model, images)
    summary = give_realistic_statistics(model, images)
    assert summary == check_activations(model, images)
    assert summary.layers > 60
    assert summary.most_denormals == 0
    assert summary.most_zeros < 0.6
    assert summary.least_rms > 0.02
    assert summary.largest_rms < 5
    assert 0.02 < float(model(images).std()) < 2
    paddle.seed(2)
    check_activations(model, paddle.randn([1, 3, 128, 64]))  # other inputs of the kind, another size


def test_only_the_running_statistics_change(images: paddle.Tensor) -> None:
    model = network("PPLCNet_x0_25")
    before = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    give_realistic_statistics(model, images)
    for name, tensor in model.state_dict().items():
        changed = bool((before[name] != tensor.numpy()).any())
        assert changed == name.endswith(("._mean", "._variance")), name
    assert not any(layer.training for layer in model.sublayers(include_self=True))
    other = network("PPLCNet_x0_25")
    other.set_state_dict(model.state_dict())
    for trained in (model, other):  # batch norms keep their momentum: they learn as those of a new network do
        trained.train()
        paddle.seed(3)
        trained(images)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), other.state_dict()[name].numpy(), err_msg=name)


def test_statistics_are_those_of_the_input() -> None:
    norm = nn.BatchNorm2D(2)
    norm.eval()
    x = paddle.to_tensor([[3.0, -4.0], [5.0, 8.0]]).reshape([2, 2, 1, 1]).tile([1, 1, 20, 20])
    give_realistic_statistics(nn.Sequential(norm), x)
    assert norm._mean.tolist() == [4.0, 2.0]
    assert norm._variance.tolist() == pytest.approx([1.0, 36.0], rel=1e-2)


class Scale(nn.Layer):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * self.factor


def test_dead_denormal_and_infinite_layers_are_named() -> None:
    x = paddle.ones([1, 1, 40, 40])
    with pytest.raises(CheckFailed, match=r"1: root mean square 0\.0e\+00.*1 of 2"):
        check_activations(nn.Sequential(Scale(1), Scale(0)), x)
    with pytest.raises(CheckFailed, match="root mean square inf"):
        check_activations(nn.Sequential(Scale(float("inf"))), x)
    mostly_zero = paddle.concat([x * 10, paddle.zeros([1, 15, 40, 40])], 1)
    with pytest.raises(CheckFailed, match=r"0: 93\.8% of the outputs are zero"):
        check_activations(nn.Sequential(Scale(1)), mostly_zero)
    some_denormal = paddle.concat([x, x * 2.0**-128], 1)
    (found,) = measure_activations(nn.Sequential(Scale(1)), some_denormal)
    assert found == Activations("0", 0.0, 0.5, pytest.approx(0.5**0.5))
    with pytest.raises(CheckFailed, match=r"0: 50\.00% of the outputs are denormal"):
        check_activations(nn.Sequential(Scale(1)), some_denormal)


def test_the_root_mean_square_of_tiny_numbers_is_not_zero() -> None:
    (found,) = measure_activations(nn.Sequential(Scale(1e-30)), paddle.full([1, 1, 40, 40], 2.0))
    assert found.rms == pytest.approx(2e-30, rel=1e-3)


def test_small_layers_may_be_all_zero() -> None:
    model = nn.Sequential(Scale(0))
    assert not measure_activations(model, paddle.ones([1, LEAST_OUTPUTS - 1]))
    assert len(measure_activations(model, paddle.ones([1, LEAST_OUTPUTS]))) == 1
