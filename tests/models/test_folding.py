"""Folding batch norms changes a network's speed, not its output."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext.models.factory import build_arch
from ppcls_ext.models.folding import fold_batch_norm
from ppcls_ext.models.norms import BATCH_NORMS, batch_norms

NAMES = [
    "PPLCNet_x0_25",
    "PPLCNet_x0_5_base",
    "MobileNetV1_x0_25",
    "MobileNetV2_x0_25",
    "MobileNetV3_small_x0_35",
    "ShuffleNetV2_x0_25",
]


def realistic(model: nn.Layer, x: paddle.Tensor) -> None:
    """Give every batch norm the statistics of `x` and an affine map that is not the identity."""
    rng = np.random.default_rng(0)
    for layer in model.sublayers():
        if isinstance(layer, BATCH_NORMS):
            layer._momentum = 0.0
            layer.weight.set_value(rng.uniform(0.5, 1.5, layer.weight.shape).astype(np.float32))
            layer.bias.set_value(rng.uniform(-0.5, 0.5, layer.bias.shape).astype(np.float32))
    model.train()
    with paddle.no_grad():
        model(x)
    model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_output_is_the_same_and_no_norm_is_left(name: str) -> None:
    paddle.seed(0)
    model = build_arch({"name": name, "class_num": 10})
    x = paddle.randn([4, 3, 64, 64])
    realistic(model, x)
    norms = len(batch_norms(model))
    with paddle.no_grad():
        before = model(x).numpy()
        assert fold_batch_norm(model, x) == norms > 10
        after = model(x).numpy()
    assert np.abs(before).max() > 1e-3  # else equal outputs mean nothing
    assert not batch_norms(model)
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4 * np.abs(before).max())


def test_a_norm_that_follows_no_convolution_stays() -> None:
    model = nn.Sequential(nn.Conv2D(3, 4, 1), nn.ReLU(), nn.BatchNorm2D(4), nn.Conv2D(4, 4, 1), nn.BatchNorm2D(4))
    model.eval()
    assert fold_batch_norm(model, paddle.ones([1, 3, 2, 2])) == 1
    assert isinstance(model[2], nn.BatchNorm2D)
    assert isinstance(model[4], nn.Identity)


def test_a_convolution_used_twice_is_not_folded() -> None:
    class Shared(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2D(3, 3, 1), nn.BatchNorm2D(3)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.bn(self.conv(x)) + self.conv(x)

    model = Shared()
    model.eval()
    assert fold_batch_norm(model, paddle.ones([1, 3, 2, 2])) == 0
