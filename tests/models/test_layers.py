"""`ppcls_ext.models.layers`: blocks of every kind, and branches that become one convolution."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.models.network_spec import parse_spec
from tests.helpers.points import EVERY_KIND

import paddle  # isort: skip  (after ppcls_ext, which silences its warnings)

from ppcls_ext.models.activations import give_realistic_statistics  # isort: skip
from ppcls_ext.models.folding import fold_branches  # isort: skip
from ppcls_ext.models.layers import Block, BranchedConv  # isort: skip
from ppcls_ext.models.lcnet import FEATURE_STRIDES, PPLCNet  # isort: skip


def images(number: int = 4, size: int = 64) -> paddle.Tensor:
    values = np.random.default_rng(0).standard_normal((number, 3, size, size))
    return paddle.to_tensor(values.astype("float32"))


def ready(text: str) -> PPLCNet:
    paddle.seed(3)
    model = PPLCNet(parse_spec(text), 10)
    for layer in model.sublayers():
        if isinstance(
            layer, paddle.nn.BatchNorm2D
        ):  # else the norms of branches would differ by nothing but statistics
            layer.weight.set_value(paddle.uniform(layer.weight.shape, min=0.5, max=1.5))
            layer.bias.set_value(paddle.uniform(layer.bias.shape, min=-0.5, max=0.5))
    give_realistic_statistics(model, images())
    model.eval()
    return model


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_trains_and_gives_its_maps_at_any_output_stride(kind: str) -> None:
    spec = parse_spec(EVERY_KIND[kind])
    model = PPLCNet(spec, 10)
    model.train()
    paddle.nn.functional.cross_entropy(model(images()), paddle.arange(4)).backward()
    lacking = [n for n, p in model.named_parameters() if not p.stop_gradient and p.grad is None]
    assert lacking == []
    if spec.strides != (2, 1, 2, 2, 2, 2):
        return
    dense = PPLCNet(spec, 0, output_stride=8)
    dense.set_state_dict(model.state_dict())
    for trunk, held in ((model, 32), (dense, 8)):
        trunk.eval()
        with paddle.no_grad():
            maps = trunk.features(paddle.zeros([1, 3, 64, 96]))
        for stride in FEATURE_STRIDES:
            side = min(stride, held)
            assert maps[stride].shape == [1, trunk.feature_channels[stride], 64 // side, 96 // side]


def test_an_even_kernel_rounds_odd_maps_up_as_an_odd_one_does() -> None:
    for text in ("ds-c16-k2", "fused-c16-k2-e2-g2", "conv-c16-k2"):
        block = parse_spec(EVERY_KIND["ds"].replace("ds-c16", text)).stages[0][0]
        for stride, side in ((1, 13), (2, 7)):
            assert Block(block, 8, stride, 1.0)(paddle.zeros([1, 8, 13, 13])).shape == [1, 16, side, side]


def test_only_a_kind_with_shortcuts_adds_its_input() -> None:
    for text, shortcut in (("ir-c16-e2", True), ("fused-c16-e2", True), ("ds-c16", False), ("conv-c16", False)):
        block = Block(parse_spec(EVERY_KIND["ds"].replace("ds-c16", text)).stages[0][0], 16, 1, 1.0)
        block.eval()
        for parameter in block.parameters():
            parameter.set_value(paddle.zeros_like(parameter))
        x = paddle.ones([1, 16, 4, 4])
        assert float(block(x).mean()) == float(shortcut)


def test_folded_branches_compute_the_same() -> None:
    model = ready(EVERY_KIND["rep"])
    x = images(2)
    with paddle.no_grad():
        before = model(x).numpy()
        assert fold_branches(model) == 3
        after = model(x).numpy()
    assert not any(isinstance(layer, BranchedConv) for layer in model.sublayers())
    assert before.std() > 0.05
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5)


def test_a_branch_that_is_left_out_of_the_fold_would_be_seen() -> None:
    model = ready(EVERY_KIND["rep"])
    x = images(2)
    with paddle.no_grad():
        before = model(x).numpy()
        layer = next(layer for layer in model.sublayers() if isinstance(layer, BranchedConv) and layer.identity)
        layer.identity.weight.set_value(paddle.zeros_like(layer.identity.weight))
        fold_branches(model)
        assert np.abs(model(x).numpy() - before).max() > 1e-3
