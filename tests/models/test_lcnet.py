"""`ppcls_ext.models.lcnet`: the backbone computes what PaddleClas's does, and what its spec says."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from ppcls_ext.models.spec import BLOCKS, SCALES, SPECS, STAGES, LCNetSpec, scale_name
from ppcls_ext.upstream.paddleclas import ppcls
from tests.helpers.ablations import ABLATIONS

import paddle  # isort: skip  (after ppcls_ext, which silences its warnings)
from paddle import nn  # isort: skip

from ppcls_ext.models.lcnet import FEATURE_STRIDES, PPLCNet  # isort: skip
from tests.helpers.families import mostly_slow

Shapes = dict[str, tuple[int, ...]]


def images(number: int = 4, size: int = 64, seed: int = 0) -> paddle.Tensor:
    values = np.random.default_rng(seed).standard_normal((number, 3, size, size))
    return paddle.to_tensor(values.astype("float32"))


def give_realistic_statistics(model: nn.Layer, x: paddle.Tensor) -> None:
    """Make the activations of an untrained network unit-scale: batch norms take the statistics of `x`."""
    norms = [layer for layer in model.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    momenta = [norm._momentum for norm in norms]
    for norm in norms:
        norm._momentum = 0.0
    model.train()
    with paddle.no_grad():
        model.features(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm._momentum = momentum
    model.eval()


def shapes(model: nn.Layer) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def seeded(spec: LCNetSpec, class_num: int = 10, **options: Any) -> PPLCNet:
    paddle.seed(1)
    return PPLCNet(spec, class_num, **options)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return ppcls("arch.backbone.legendary_models.pp_lcnet")


@pytest.mark.parametrize("scale", mostly_slow(SCALES, 2))
def test_output_equals_paddleclas_with_the_same_weights(scale: float, theirs: Any) -> None:
    ours = seeded(LCNetSpec(scale=scale), 100)
    x = images(8, 96)
    give_realistic_statistics(ours, x)
    other = theirs.PPLCNet(theirs.MODEL_STAGES_PATTERN["PPLCNet"], scale=scale, class_num=100)
    assert shapes(other) == shapes(ours)
    other.set_state_dict(ours.state_dict())
    other.eval()
    probe = x[:2]
    with paddle.no_grad():
        expected, got = other(probe).numpy(), ours(probe).numpy()
        last = ours.features(probe)[32].numpy()
    # Unit scale all the way: else a difference could hide in denormals.
    assert 0.2 < last.std() < 5
    assert expected.std() > 0.02
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_the_comparison_with_paddleclas_can_fail(theirs: Any) -> None:
    ours = seeded(LCNetSpec(scale=0.25), 100)
    x = images()
    give_realistic_statistics(ours, x)
    other = theirs.PPLCNet(theirs.MODEL_STAGES_PATTERN["PPLCNet"], scale=0.25, class_num=100)
    state = {name: tensor.numpy() for name, tensor in ours.state_dict().items()}
    state["blocks2.0.dw_conv.conv.weight"] = state["blocks2.0.dw_conv.conv.weight"][:, :, ::-1].copy()
    other.set_state_dict(state)
    other.eval()
    with paddle.no_grad():
        assert float((other(x) - ours(x)).abs().max()) > 1e-3


def test_dropout_is_downscaled_in_inference(theirs: Any) -> None:
    # Parity in eval mode says nothing about training mode.
    model, other = seeded(LCNetSpec()), theirs.PPLCNet([], scale=1.0)
    assert (model.dropout.p, model.dropout.mode) == (other.dropout.p, other.dropout.mode) == (0.2, "downscale_in_infer")


@pytest.mark.parametrize("name", mostly_slow(SPECS))
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = seeded(SPECS[name])
    model.train()
    loss = nn.functional.cross_entropy(model(images(8)), paddle.arange(8))
    loss.backward()
    without = [
        n for n, p in model.named_parameters() if not p.stop_gradient and not (p.grad is not None and p.grad.any())
    ]
    assert without == []


def expected_shape_changes(name: str) -> tuple[set[str], set[str], Shapes]:
    """What an ablation's state_dict has beyond its base's, lacks of it, and has in another shape."""
    spec, base = SPECS[name], SPECS[ABLATIONS[name][0]]
    added: set[str] = set()
    removed: set[str] = set()
    reshaped: Shapes = {}
    channels, position = spec.width(16), dict.fromkeys(STAGES, 0)
    for block, new, old, new5, old5 in zip(BLOCKS, spec.se, base.se, spec.kernel5, base.kernel5, strict=True):
        prefix = f"{block.stage}.{position[block.stage]}"
        se = {f"{prefix}.se.{conv}.{part}" for conv in ("conv1", "conv2") for part in ("weight", "bias")}
        if new > old:
            added |= se
        if new < old:
            removed |= se
        if new5 != old5:
            kernel = 5 if new5 == "1" else 3
            reshaped[f"{prefix}.dw_conv.conv.weight"] = (channels, 1, kernel, kernel)
        channels = spec.width(block.width)
        position[block.stage] += 1
    if spec.last_width != base.last_width:
        (added if spec.last_width else removed).add("last_conv.weight")
        reshaped["fc.weight"] = (spec.last_width or channels, 10)
    return added, removed, reshaped


@pytest.mark.parametrize("name", mostly_slow(ABLATIONS))
def test_an_ablation_changes_only_the_tensors_of_its_technique(name: str) -> None:
    ours, base = shapes(seeded(SPECS[name])), shapes(seeded(SPECS[ABLATIONS[name][0]]))
    added, removed, reshaped = expected_shape_changes(name)
    assert set(ours) - set(base) == added
    assert set(base) - set(ours) == removed
    assert {n: ours[n] for n in ours if n in base and ours[n] != base[n]} == reshaped


def test_activation_and_its_absence_from_the_gate() -> None:
    def kinds(model: nn.Layer) -> list[str]:
        return [type(layer).__name__ for layer in model.sublayers() if type(layer).__module__.endswith("activation")]

    half, relu = kinds(seeded(SPECS["PPLCNet_x0_5"])), kinds(seeded(SPECS["PPLCNet_x0_5_no_hswish"]))
    # Stem, 2 in each block, last convolution; ReLU and H-Sigmoid in each of the two gates.
    assert {kind: half.count(kind) for kind in set(half)} == {"Hardswish": 28, "ReLU": 2, "Hardsigmoid": 2}
    assert {kind: relu.count(kind) for kind in set(relu)} == {"ReLU": 30, "Hardsigmoid": 2}


def strides_of(model: nn.Layer) -> list[int]:
    return [layer._stride[0] for layer in model.sublayers() if isinstance(layer, nn.Conv2D) and layer._groups > 1]


def test_instances_share_no_mutable_state(theirs: Any) -> None:
    strides = strides_of(seeded(LCNetSpec(scale=0.5)))
    first = seeded(LCNetSpec(scale=0.5, strides=(1, 1, 1, 1, 1)))
    assert set(strides_of(first)) == {1}
    first.feature_channels[4] = -1
    second = seeded(LCNetSpec(scale=0.5))
    assert strides_of(second) == strides == [block.stride for block in BLOCKS]
    assert second.feature_channels[4] == 32
    assert SPECS["PPLCNet_x0_5"].strides == (2, 2, 2, 2, 2)
    with paddle.no_grad():
        assert first.conv1.conv.weight is not second.conv1.conv.weight
    # PaddleClas's own network writes the strides of each instance into one table of its module.
    before = [row[0][3] for row in theirs.NET_CONFIG.values()]
    theirs.PPLCNet([], scale=0.25, stride_list=[2, 2, 2, 2, 1])
    assert [row[0][3] for row in theirs.NET_CONFIG.values()] != before
    assert strides_of(seeded(LCNetSpec(scale=0.5))) == strides


def test_no_default_is_mutable() -> None:
    for parameter in inspect.signature(PPLCNet).parameters.values():
        assert not isinstance(parameter.default, list | dict | set)


@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_feature_maps_have_the_stated_strides_and_channels(scale: float) -> None:
    spec = LCNetSpec(scale=scale)
    model = seeded(spec, class_num=0)
    model.eval()
    with paddle.no_grad():
        maps = model.features(paddle.zeros([1, 3, 64, 96]))
    assert tuple(maps) == FEATURE_STRIDES == (4, 8, 16, 32)
    widths = {4: 64, 8: 128, 16: 256, 32: 512}
    assert model.feature_channels == {stride: spec.width(width) for stride, width in widths.items()}
    for stride, x in maps.items():
        assert x.shape == [1, model.feature_channels[stride], 64 // stride, 96 // stride]


def test_class_num_0_is_the_trunk_alone() -> None:
    trunk, whole = shapes(seeded(LCNetSpec(scale=0.25), class_num=0)), shapes(seeded(LCNetSpec(scale=0.25)))
    assert set(whole) - set(trunk) == {"last_conv.weight", "fc.weight", "fc.bias"}
    assert trunk.items() <= whole.items()
    with pytest.raises(TypeError, match="class_num=0"):
        seeded(LCNetSpec(scale=0.25), class_num=0)(images(1))


@pytest.mark.parametrize("output_stride", [16, 8])
def test_output_stride_dilates_the_same_trunk(output_stride: int) -> None:
    spec = LCNetSpec(scale=0.25, se="0" * 13)  # SE pools over the whole map, which differs on purpose
    plain, dense = seeded(spec, class_num=0), seeded(spec, class_num=0, output_stride=output_stride)
    assert shapes(dense) == shapes(plain)
    x = images(4, 96)
    give_realistic_statistics(plain, x)
    dense.set_state_dict(plain.state_dict())
    dense.eval()
    x = x[:1]
    with paddle.no_grad():
        expected, got = plain.features(x), dense.features(x)
    for stride in FEATURE_STRIDES:
        side = 96 // min(stride, output_stride)
        assert got[stride].shape == [1, dense.feature_channels[stride], side, side]
        # Dilation keeps every value of the strided network, at the places that it had looked at.
        step = max(1, stride // output_stride)
        assert float(expected[stride].std()) > 0.1
        kept = got[stride][:, :, ::step, ::step].numpy()
        np.testing.assert_allclose(kept, expected[stride].numpy(), rtol=0, atol=1e-4)


def test_learning_rate_multipliers_reach_their_stages() -> None:
    model = seeded(LCNetSpec(scale=0.25), lr_mult_list=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    rates: dict[str, set[float]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            rates.setdefault(name.split(".")[0], set()).add(parameter.optimize_attr["learning_rate"])
    assert rates == {
        "conv1": {0.1}, "blocks2": {0.2}, "blocks3": {0.3}, "blocks4": {0.4}, "blocks5": {0.5}, "blocks6": {0.6},
        "last_conv": {1.0}, "fc": {1.0},
    }  # fmt: skip


def test_batch_norm_has_no_weight_decay_and_everything_else_has_the_optimizers() -> None:
    exempt = {
        name for name, p in seeded(LCNetSpec(scale=0.25)).named_parameters()
        if p.regularizer is not None and p.regularizer._coeff == 0.0
    }  # fmt: skip
    norms = {n for n in shapes(seeded(LCNetSpec(scale=0.25))) if ".bn." in n and n.endswith(("weight", "bias"))}
    assert exempt == norms
    assert len(norms) == 2 * 27


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr_mult_list": (1.0,)}, "lr_mult_list must have 6"),
        ({"output_stride": 4}, "output_stride"),
        ({"class_num": -1}, "class_num"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PPLCNet(LCNetSpec(scale=0.25), **options)


def test_scale_names_cover_the_published_networks(theirs: Any) -> None:
    assert {f"PPLCNet_{scale_name(scale)}" for scale in SCALES} == set(theirs.MODEL_URLS)
