"""`ppcls_ext.models.kernels`: values and gradients are Paddle's, threads change nothing, the rest goes to Paddle."""

from __future__ import annotations

import copy
import os
import signal
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from det.network import ActivatedConvNorm, Features
from ppcls_ext.core.config import load_config
from ppcls_ext.models.factory import build_arch
from ppcls_ext.models.kernels import speed_up
from ppcls_ext.models.kernels.autograd import origin_of
from ppcls_ext.models.kernels.geometry import Geometry, Layout
from ppcls_ext.models.kernels.layers import (
    FastBatchNorm2D,
    FastBiasConv2D,
    FastDenseConv2D,
    FastDepthwiseConv2D,
    FastHardswish,
    FastResize,
    Fused,
)
from ppcls_ext.models.layers import ConvBNLayer, Resize
from ppcls_ext.models.weights import numpy_state
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.upstream.paddledet import ppdet
from ppcls_ext.upstream.paddleseg import paddleseg

# Channels, size, kernel, stride, padding, dilation: those of the networks, and everything that is unlike them.
CASES = {
    "3x3": (8, (28, 28), 3, 1, 1, 1),
    "5x5, stride 2": (6, (14, 14), 5, 2, 2, 1),
    "stride 2, odd size": (5, (15, 9), 3, 2, 1, 1),
    "dilated": (4, (17, 17), 3, 1, 2, 2),
    "stride and dilation": (5, (13, 19), 3, 3, 1, 2),
    "not square": (3, (12, 20), (3, 5), (2, 1), (0, 2), (1, 3)),
    "no padding, last rows unread": (3, (18, 18), 3, 2, 0, 3),
    "more padding than kernel": (2, (4, 4), 3, 1, 3, 1),
    "1x1": (4, (5, 5), 1, 1, 0, 1),
    "a plane of one": (4, (1, 1), 3, 1, 1, 1),
    "SAME": (4, (9, 7), 5, 1, "SAME", 1),
    "stride 2, long rows": (3, (7, 37), 3, 2, 1, 1),
    "stride of rows alone": (3, (9, 6), 3, (2, 1), 1, 1),
}


def outputs_and_gradients(layer: nn.Layer, x: np.ndarray) -> list[np.ndarray]:
    x = paddle.to_tensor(x, stop_gradient=False)
    layer.clear_gradients()
    out = layer(x)
    factors = np.random.default_rng(1).standard_normal(out.shape).astype(np.float32)
    (out * paddle.to_tensor(factors.astype(x.numpy().dtype))).sum().backward()
    return [out.numpy(), x.grad.numpy(), *(p.grad.numpy() for p in layer.parameters() if p.grad is not None)]


def sample(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) * scale).astype(np.float32)


@pytest.mark.parametrize("bias", [None, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_a_depthwise_convolution_is_paddles(case: str, threads: int, bias: bool | None) -> None:
    channels, size, *geometry = CASES[case]
    layer = nn.Conv2D(channels, channels, *geometry, groups=channels, bias_attr=bias)
    x = sample(3, channels, *size)
    expected = outputs_and_gradients(layer, x)
    found = outputs_and_gradients(speed_up(layer, threads), x)
    assert type(layer) is FastDepthwiseConv2D
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# Channels in and out, size, kernel, stride, padding, dilation.
DENSE = {
    "pointwise": (8, 12, (9, 7), 1, 1, 0, 1),
    "pointwise, large maps of few channels": (6, 5, (24, 24), 1, 1, 0, 1),
    "a plane of one": (6, 4, (1, 1), 1, 1, 0, 1),
    "stem": (3, 8, (32, 32), 3, 2, 1, 1),
    "stride 2, odd size": (5, 3, (15, 9), 3, 2, 1, 1),
    "dilated": (4, 6, (9, 9), 3, 1, 2, 2),
    "1x1, stride 2": (4, 6, (9, 8), 1, 2, 0, 1),
    "not square": (3, 2, (12, 20), (3, 5), (2, 3), (0, 2), (1, 3)),
    "more padding than kernel": (2, 3, (4, 4), 3, 1, 4, 1),
}


@pytest.mark.parametrize("bias", [None, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", DENSE)
def test_a_dense_convolution_is_paddles(case: str, threads: int, bias: bool | None) -> None:
    channels, out_channels, size, *geometry = DENSE[case]
    layer = nn.Conv2D(channels, out_channels, *geometry, bias_attr=bias)
    x = sample(3, channels, *size)
    expected = outputs_and_gradients(layer, x)
    found = outputs_and_gradients(speed_up(layer, threads), x)
    assert type(layer) is FastDenseConv2D
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("mode", ["training", "eval", "global statistics"])
def test_a_batch_norm_is_paddles_with_its_running_statistics(mode: str) -> None:
    layer = nn.BatchNorm2D(5, momentum=0.7, use_global_stats=True if mode == "global statistics" else None)
    layer.weight.set_value(sample(5))
    layer._mean.set_value(sample(5))
    if mode == "eval":
        layer.eval()
    fast = speed_up(copy.deepcopy(layer), 2)
    x = sample(3, 5, 9, 7) + 4
    for _ in range(2):
        for one, other in zip(outputs_and_gradients(fast, x), outputs_and_gradients(layer, x), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert type(fast) is FastBatchNorm2D
    np.testing.assert_allclose(fast._mean.numpy(), layer._mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(fast._variance.numpy(), layer._variance.numpy(), rtol=1e-5)


@pytest.mark.parametrize("act", ["hardswish", "relu"])
@pytest.mark.parametrize("groups", [1, 6], ids=["dense", "depthwise"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_gradients_of_convolution_norm_and_activation_are_those_in_double_precision(
    act: str, groups: int, training: bool
) -> None:
    layer = ConvBNLayer(6, 6, 3 if groups > 1 else 1, 1, groups, act, 1.0)
    layer.bn.weight.set_value(sample(6) + 1)
    double = copy.deepcopy(layer).to(dtype="float64")
    layer.train() if training else layer.eval()
    double.train() if training else double.eval()
    x = sample(4, 6, 13, 11)
    found = outputs_and_gradients(speed_up(layer, 2), x)
    assert isinstance(layer, Fused)
    expected = outputs_and_gradients(double, x.astype(np.float64))
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() < 3e-6 * max(1.0, np.abs(other).max())


SUITES = {
    "PaddleSeg, with a bias before the norm": lambda: paddleseg("models.layers").ConvBNReLU(6, 4, 1),
    "PaddleSeg, depthwise": lambda: paddleseg("models.layers").ConvBN(6, 6, 3, padding=2, dilation=2, groups=6),
    "PaddleDetection": lambda: ppdet("modeling.layers").ConvNormLayer(6, 6, 5, 1, groups=6),
    "PicoDet's head, with an activation": lambda: next(
        layer for layer in Features(feat_in=6, feat_out=6).sublayers() if isinstance(layer, ActivatedConvNorm)
    ),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("suite", SUITES)
def test_layers_of_the_suites_are_one_step_with_the_values_and_gradients_of_double_precision(
    suite: str, training: bool
) -> None:
    layer = SUITES[suite]()
    for name, tensor in layer.state_dict().items():
        values = sample(*tensor.shape) + 0.5
        tensor.set_value(np.abs(values) + 0.5 if "variance" in name else values)
    layer.train() if training else layer.eval()
    double = copy.deepcopy(layer).to(dtype="float64")
    x = sample(4, 6, 13, 11)
    assert isinstance(speed_up(layer, 2), Fused)
    found, expected = outputs_and_gradients(layer, x), outputs_and_gradients(double, x.astype(np.float64))
    for one, other in zip(found, expected, strict=True):
        # Sums that are 0, as the gradient of a bias before a norm, are of numbers near 1.
        assert np.abs(one - other).max() < 5e-6 * max(1.0, np.abs(other).max())
    for one, other in zip(layer.state_dict().values(), double.state_dict().values(), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [(12, 20), (3, 5), (7, 10), (1, 1), (6, 33)])
def test_resizing_is_paddles(size: tuple[int, int], threads: int) -> None:
    class Resizing(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.resize = Resize()

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.resize(x, list(size))

    layer, x = Resizing(), sample(3, 2, 6, 10)
    expected = outputs_and_gradients(layer, x)
    assert type(speed_up(layer, threads).resize) is FastResize
    for one, other in zip(outputs_and_gradients(layer, x), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_hooks_see_the_layers_that_are_fused_without_them() -> None:
    layer = speed_up(ConvBNLayer(4, 4, 1, 1, 1, "hardswish", 1.0), 1)
    seen: list[list[int]] = []
    layer.bn.register_forward_post_hook(lambda _, __, out: seen.append(out.shape))
    layer(paddle.to_tensor(sample(2, 4, 5, 5)))
    assert seen == [[2, 4, 5, 5]]


@pytest.mark.parametrize("threads", [1, 3])
def test_hardswish_is_paddles(threads: int) -> None:
    x = np.concatenate([sample(2, 5, 7, scale=3.0).ravel(), np.array([-3, 3, 0, 1e30, -1e30], np.float32)])
    expected = outputs_and_gradients(nn.Hardswish(), x)
    found = outputs_and_gradients(speed_up(nn.Sequential(nn.Hardswish()), threads), x)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_what_is_no_number_stays_so() -> None:
    network = speed_up(nn.Sequential(nn.Conv2D(2, 2, 3, padding=1, groups=2), nn.Hardswish()), 1)
    x = sample(1, 2, 4, 4)
    x[0, 0, 0, 0] = np.nan
    assert np.isnan(network(paddle.to_tensor(x)).numpy()[0, 0]).any()
    x[0, 0, 0, 0] = np.inf
    assert not np.isfinite(network(paddle.to_tensor(x)).numpy()[0, 0]).all()


def test_a_network_trains_as_with_paddles_kernels_on_any_number_of_threads() -> None:
    images, labels = paddle.to_tensor(sample(4, 3, 64, 64)), paddle.to_tensor([0, 1, 2, 3])

    def trained(threads: int | None) -> tuple[list[float], dict[str, np.ndarray]]:
        paddle.seed(0)
        with paddle.utils.unique_name.guard():
            model = build_arch({"name": "PPLCNet_x0_25"}, 4)
        if threads:
            speed_up(model, threads)
        optimizer = paddle.optimizer.Momentum(0.05, parameters=model.parameters())
        losses = []
        for _ in range(4):
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            losses.append(float(loss))
        return losses, numpy_state(model)

    theirs, one, three = trained(None), trained(1), trained(3)
    assert one[0] == three[0]
    assert one[1].keys() == theirs[1].keys()
    assert all(np.array_equal(one[1][name], three[1][name]) for name in one[1])
    np.testing.assert_allclose(one[0], theirs[0], rtol=5e-3)
    assert theirs[0][-1] < theirs[0][0]


@pytest.mark.parametrize("second", ["depthwise", "dense", "strided", "no norm"])
def test_a_map_between_two_steps_is_not_kept_and_made_again_for_gradients(second: str) -> None:
    following = {
        "depthwise": lambda: ConvBNLayer(4, 4, 5, 2, 4, "relu", 1.0),
        "dense": lambda: ConvBNLayer(4, 6, 1, 1, 1, "hardswish", 1.0),
        "strided": lambda: ConvBNLayer(4, 6, 3, 2, 1, "hardswish", 1.0),
        "no norm": lambda: nn.Conv2D(4, 3, 1),
    }
    layers = nn.Sequential(ConvBNLayer(4, 4, 3, 1, 4, "hardswish", 1.0), following[second]())
    x = sample(3, 4, 9, 7)
    double = copy.deepcopy(layers).to(dtype="float64")
    found = outputs_and_gradients(speed_up(layers, 2), x)
    for one, other in zip(found, outputs_and_gradients(double, x.astype(np.float64)), strict=True):
        assert np.abs(one - other).max() < 5e-6 * max(1.0, np.abs(other).max())
    between = layers[0](paddle.to_tensor(x))
    kept = weakref.ref(between)
    out = layers[1](between)
    del between
    assert kept() is None
    assert not out.stop_gradient


def test_a_map_that_was_changed_in_place_is_taken_as_it_is() -> None:
    layers = nn.Sequential(ConvBNLayer(4, 4, 3, 1, 4, "hardswish", 1.0), ConvBNLayer(4, 6, 1, 1, 1, "relu", 1.0))

    class Changed(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.layers[1](self.layers[0](x).scale_(2.0, bias=1.0))

    network, x = Changed(), sample(3, 4, 9, 7)
    double = copy.deepcopy(network).to(dtype="float64")
    found = outputs_and_gradients(speed_up(network, 1), x)
    for one, other in zip(found, outputs_and_gradients(double, x.astype(np.float64)), strict=True):
        assert np.abs(one - other).max() < 5e-6 * max(1.0, np.abs(other).max())


def test_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    layer = speed_up(ConvBNLayer(4, 4, 3, 1, 4, "hardswish", 1.0), 1)
    assert origin_of(layer(paddle.to_tensor(sample(2, 4, 5, 5)))) is not None
    with paddle.no_grad():
        assert origin_of(layer(paddle.to_tensor(sample(2, 4, 5, 5)))) is None


@pytest.mark.parametrize("frozen", [True, False])
def test_only_what_wants_a_gradient_gets_one(frozen: bool) -> None:
    layer = speed_up(nn.Conv2D(3, 3, 3, groups=3), 1)
    layer.weight.stop_gradient = layer.bias.stop_gradient = frozen
    x = paddle.to_tensor(sample(1, 3, 5, 5), stop_gradient=not frozen)
    layer(x).sum().backward()
    assert (x.grad is not None) is frozen
    assert (layer.weight.grad is not None) is (layer.bias.grad is not None) is not frozen


OTHERS = {
    "multiplier": (4, 8, 3, {"groups": 4}),
    "groups": (4, 4, 3, {"groups": 2, "stride": 2}),
    "SAME": (4, 4, 3, {"padding": "SAME", "groups": 4, "stride": 2}),
    "one-sided": (4, 4, 3, {"padding": [1, 2, 0, 1], "groups": 4}),
    "reflect": (4, 4, 3, {"padding": 1, "groups": 4, "padding_mode": "reflect"}),
    "NHWC": (4, 4, 3, {"groups": 4, "data_format": "NHWC"}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_convolutions_stay_paddles(case: str) -> None:
    *sizes, options = OTHERS[case]
    layer = nn.Conv2D(*sizes, bias_attr=False, **options)
    assert Geometry.of(layer) is None
    assert type(speed_up(layer, 1)) is nn.Conv2D


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", OTHERS)
def test_their_biases_are_added_as_paddle_does(case: str, threads: int) -> None:
    *sizes, options = OTHERS[case]
    layer = nn.Conv2D(*sizes, **options)
    x = sample(2, 4, 9, 4) if case == "NHWC" else sample(2, 4, 9, 7)
    expected = outputs_and_gradients(layer, x)
    assert (type(speed_up(layer, threads)) is FastBiasConv2D) is (case not in ("reflect", "NHWC"))
    for one, other in zip(outputs_and_gradients(layer, x), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_other_dtypes_and_traced_graphs_go_to_paddle(tmp_path: Path) -> None:
    layer = speed_up(nn.Conv2D(2, 2, 3, groups=2), 1).to(dtype="float64")
    assert layer(paddle.ones([1, 2, 4, 4], "float64")).dtype == paddle.float64
    network = nn.Sequential(nn.Conv2D(2, 2, 3, groups=2), nn.Hardswish())
    network.eval()
    x = paddle.to_tensor(sample(1, 2, 6, 6))
    expected = network(x).numpy()
    paddle.jit.save(speed_up(network, 1), str(tmp_path / "n"), [paddle.static.InputSpec([1, 2, 6, 6], "float32")])
    np.testing.assert_allclose(paddle.jit.load(str(tmp_path / "n"))(x).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_what_paddle_refuses_is_refused_by_paddle() -> None:
    layer = speed_up(nn.Conv2D(8, 8, 3, groups=8, bias_attr=False), 1)
    with pytest.raises(ValueError, match="number of input's channels"):
        layer(paddle.ones([2, 4, 6, 6]))
    with pytest.raises(ValueError, match="4-D"):
        layer(paddle.ones([8, 6, 6]))


def test_the_default_dtype_does_not_reach_the_kernels() -> None:
    network = nn.Sequential(nn.Conv2D(4, 4, 3, padding=1, groups=4, bias_attr=False), nn.Hardswish())
    x = sample(1, 4, 6, 6)
    expected = outputs_and_gradients(network, x)
    speed_up(network, 1)
    paddle.set_default_dtype("float64")
    try:
        found = outputs_and_gradients(network, x)
    finally:
        paddle.set_default_dtype("float32")
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_view_that_is_not_contiguous_keeps_its_gradient() -> None:
    layer = nn.Conv2D(8, 8, 3, padding=1, groups=8)

    def gradient() -> np.ndarray:
        x = paddle.to_tensor(sample(2, 5, 6, 8), stop_gradient=False)
        view = x.transpose([0, 3, 1, 2])
        assert not view.is_contiguous()
        layer(view).square().sum().backward()
        return np.asarray(x.grad.numpy())

    expected = gradient()
    speed_up(layer, 2)
    np.testing.assert_allclose(gradient(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_forked_process_has_threads_of_its_own() -> None:
    layer = speed_up(nn.Hardswish(), 2)
    x = paddle.to_tensor(sample(4, 4))
    layer(x)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that hangs
        try:
            layer(x)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_kernel_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Layout.of(Geometry((5, 5), (1, 1), (0, 0), (1, 1)), (4, 9))


def test_a_copied_network_is_its_own() -> None:
    network = speed_up(nn.Sequential(nn.Conv2D(2, 2, 3, groups=2)), 1)
    twin = copy.deepcopy(network)
    twin[0].weight.set_value(paddle.zeros_like(twin[0].weight))
    x = paddle.to_tensor(sample(1, 2, 4, 4))
    assert not np.array_equal(network(x).numpy(), twin(x).numpy())


@pytest.mark.parametrize("wanted", [True, False])
def test_the_config_says_which_kernels(wanted: bool) -> None:
    task: Any = make_task(load_config("PPLCNet_x0_25", ["Global.device=cpu", f"Global.fast_cpu={wanted}"]))
    paddle.set_device("cpu")
    model = task.made_fast(build_arch({"name": "PPLCNet_x0_25"}, 4))
    kinds = {type(layer) for layer in model.sublayers()}
    assert ({FastDepthwiseConv2D, FastHardswish} <= kinds) is wanted
    assert (nn.Hardswish in kinds) is not wanted


@pytest.mark.slow
def test_a_traced_network_is_paddles_alone(tmp_path: Path) -> None:
    model = build_arch({"name": "PPLCNet_x0_25"}, 4)
    model.eval()
    x = paddle.to_tensor(sample(1, 3, 32, 32))
    expected = model(x).numpy()
    paddle.jit.save(speed_up(model, 1), str(tmp_path / "n"), [paddle.static.InputSpec([1, 3, 32, 32], "float32")])
    np.testing.assert_allclose(paddle.jit.load(str(tmp_path / "n"))(x).numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-4, atol=1e-5)
