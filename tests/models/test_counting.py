"""`ppcls_ext.models.counting`: exact parameters, and the published FLOPs."""

from __future__ import annotations

import pytest

from ppcls_ext.models.spec import SPECS

import paddle  # isort: skip  (after ppcls_ext, which silences its warnings)
from paddle import nn  # isort: skip

from ppcls_ext.models.counting import Count, count, count_params  # isort: skip
from ppcls_ext.models.lcnet import PPLCNet  # isort: skip
from tests.helpers.families import mostly_slow

# Trainable parameters, and FLOPs in millions with two decimals, at 224 x 224 and 1000 classes.
EXACT = {
    "PPLCNet_x0_25": (1521184, "18.23"),
    "PPLCNet_x0_35": (1643090, "29.43"),
    "PPLCNet_x0_5": (1879576, "47.25"),
    "PPLCNet_x0_75": (2357008, "98.77"),
    "PPLCNet_x1_0": (2952520, "160.74"),
    "PPLCNet_x1_5": (4499832, "341.75"),
    "PPLCNet_x2_0": (6521512, "590.28"),
    "PPLCNet_x2_5": (9017560, "906.33"),
}


@pytest.mark.parametrize("name", mostly_slow(EXACT, 2))
def test_exact_counts_at_every_scale(name: str) -> None:
    counted = count(PPLCNet(SPECS[name]), paddle.zeros([1, 3, 224, 224]))
    assert (counted.params, f"{counted.flops / 1e6:.2f}") == EXACT[name]


def test_the_rule_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2D(3, 8, 3, stride=2, padding=1, bias_attr=False), nn.BatchNorm2D(8), nn.ReLU(),
        nn.Conv2D(8, 8, 3, padding=1, groups=8), nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    params = 8 * 3 * 9 + 2 * 8 + (8 * 9 + 8) + (8 * 5 + 5)
    convolutions = 16 * 16 * 8 * 3 * 9 + 16 * 16 * 8 * 9
    flops = convolutions + 2 * 16 * 16 * 8 + 8 * 5
    assert count(model, paddle.zeros([1, 3, 32, 32])) == Count(params, flops)
    assert count(model, paddle.zeros([4, 3, 32, 32])) == Count(params, 4 * flops)


def test_a_transposed_convolution_by_hand() -> None:
    # Each of the 5 x 5 x 6 input elements is multiplied by 4 kernels of 2 x 2.
    model = nn.Conv2DTranspose(6, 4, 2, stride=2, bias_attr=False)
    counted = count(model, paddle.zeros([1, 6, 5, 5]))
    assert counted.params == 6 * 4 * 4
    assert counted.flops == 5 * 5 * 6 * 4 * 4


def test_frozen_parameters_and_running_statistics_are_not_parameters() -> None:
    model = nn.Sequential(nn.Conv2D(3, 4, 1, bias_attr=False), nn.BatchNorm2D(4))
    model[0].weight.stop_gradient = True
    assert count_params(model) == 8


def test_counting_leaves_the_model_as_it_was() -> None:
    model = PPLCNet(SPECS["PPLCNet_x0_25"], 10)
    model.train()
    model.blocks2.eval()  # a frozen part stays frozen
    x = paddle.randn([2, 3, 32, 32])
    before = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    first = count(model, x)
    assert model.training
    assert model.blocks3.training
    assert not any(layer.training for layer in model.blocks2.sublayers(include_self=True))
    assert all((before[name] == tensor.numpy()).all() for name, tensor in model.state_dict().items())
    assert count(model, x) == first


def test_counting_restores_the_model_when_the_forward_fails() -> None:
    model = PPLCNet(SPECS["PPLCNet_x0_25"], class_num=0)
    model.train()
    with pytest.raises(TypeError, match="no head"):
        count(model, paddle.zeros([1, 3, 32, 32]))
    assert model.training
