"""Networks that are cut out of a supernet: the same as networks of their own, on weights that they share."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import paddle
import pytest

from ppcls_ext.core.seeding import seed_all
from ppcls_ext.models.block_kinds import BlockSpec
from ppcls_ext.models.factory import build_searched
from ppcls_ext.models.kernels import speed_up
from ppcls_ext.models.lcnet import PPLCNet
from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.models.spec import LCNetSpec
from ppcls_ext.models.weights import load_into, numpy_state
from ppcls_ext.search.bound import space_around
from ppcls_ext.search.judge import give_statistics
from ppcls_ext.search.space import Space, space_named, with_width
from ppcls_ext.search.supernet import Supernet
from tests.helpers.spaces import SIDE, tiny_space

EVERY_KIND = ("ds", "rep", "ir", "fused", "grouped")


def images(count: int = 2) -> paddle.Tensor:
    seed_all(1)
    return paddle.randn([count, 3, SIDE, SIDE])


@pytest.fixture(scope="module", params=[("ds",), EVERY_KIND], ids=["ds", "every kind"])
def supernet(request: pytest.FixtureRequest) -> Supernet:
    seed_all(0)
    return Supernet(tiny_space(request.param), 3)


def some(space: Space, number: int = 6) -> list[NetworkSpec]:
    rng = random.Random(0)
    return [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(number))]


@pytest.mark.slow
def test_a_network_gives_what_it_gives_alone(supernet: Supernet) -> None:
    for spec in some(supernet.space):
        subnet = supernet.cut(spec)
        give_statistics(subnet.network, [images(4)])
        subnet.network.eval()
        alone = build_searched(spec.text, class_num=3)
        load_into(alone, supernet.weights_of(subnet), "the supernet")
        alone.eval()
        dropout = 1 - spec.dropout  # of released weights: inference multiplies
        bias = alone.fc.bias
        expected = (alone(images()) - bias) / dropout + bias
        np.testing.assert_allclose(subnet.network(images()).numpy(), expected.numpy(), rtol=1e-3, atol=1e-4)


def test_gradients_reach_what_a_network_uses_and_nothing_else(supernet: Supernet) -> None:
    supernet.clear_gradients()
    space = supernet.space
    subnet = supernet.cut(space.smallest())
    subnet.network(images()).square().mean().backward()
    used = {shared for _, _, shared, _ in subnet.parts}
    for name, parameter in supernet.named_parameters():
        assert (parameter.grad is not None) == (name in used), name
    stem = supernet._parameters["conv1/conv/weight"].grad
    assert float(stem[:8].abs().sum()) > 0
    assert float(stem[8:].abs().sum()) == 0
    supernet.clear_gradients()


def test_a_change_of_the_shared_weights_is_a_change_of_every_network(supernet: Supernet) -> None:
    subnet = supernet.cut(supernet.space.smallest())
    before = subnet.network(images()).numpy()
    shared = supernet._parameters["conv1/conv/weight"]
    kept = shared.numpy()
    shared.set_value(-kept)
    supernet.lend(subnet)
    after = subnet.network(images()).numpy()
    shared.set_value(kept)
    assert np.abs(before - after).max() > 1e-4


def test_fast_kernels_give_the_same_network_and_gradients(supernet: Supernet) -> None:
    found = []
    for fast in (False, True):
        supernet.clear_gradients()
        subnet = supernet.cut(some(supernet.space)[3])
        if fast:
            speed_up(subnet.network, 1)
        out = subnet.network(images(4))
        out.square().mean().backward()
        found.append((out.numpy(), supernet._parameters["conv1/conv/weight"].grad.numpy()))
    for plain, of_kernels in zip(*found, strict=True):
        np.testing.assert_allclose(of_kernels, plain, rtol=1e-2, atol=1e-4)
    supernet.clear_gradients()


def test_the_kernel_that_is_cut_out_is_the_middle() -> None:
    supernet = Supernet(tiny_space(), 3)
    name = "blocks2/0/ds/dw_conv/conv/weight"
    shape = supernet._parameters[name].shape
    supernet._parameters[name].set_value(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    subnet = supernet.cut(supernet.space.smallest())
    cut = next(layer.weight for layer, part, shared, _ in subnet.parts if shared == name and part == "weight")
    np.testing.assert_array_equal(cut.numpy(), supernet._parameters[name].numpy()[:8, :, 1:4, 1:4])


@pytest.mark.parametrize("kind", [kind for kind in EVERY_KIND if kind != "grouped"])  # whose groups depend on the width
def test_every_width_and_kernel_gives_at_first_what_the_smallest_gives(kind: str) -> None:
    supernet = Supernet(tiny_space((kind,)), 3)
    smallest = supernet.space.smallest()

    def output(spec: NetworkSpec) -> np.ndarray:
        subnet = supernet.cut(spec)
        give_statistics(subnet.network, [images(4)])
        subnet.network.eval()
        return subnet.network(images()).numpy()

    def changed(change: Callable[[BlockSpec], BlockSpec]) -> NetworkSpec:
        return smallest.replace(stages=tuple(tuple(map(change, stage)) for stage in smallest.stages))

    wide = changed(lambda block: with_width(block, 16)).replace(stem=16)
    seeing_more = changed(lambda block: replace(block, kernel=5))
    for spec in (wide, seeing_more):
        assert spec in supernet.space
        np.testing.assert_allclose(output(spec), output(smallest), rtol=1e-3, atol=1e-5)


def deeper_network(space: Space) -> NetworkSpec:
    """The largest one but for its blocks, which are like the smallest's."""
    largest, smallest = space.largest(), space.smallest()
    stages = tuple(
        tuple(with_width(few[0], many[0].width) for _ in many)
        for many, few in zip(largest.stages, smallest.stages, strict=True)
    )
    return largest.replace(stages=stages)


@pytest.mark.parametrize("kind", [kind for kind in EVERY_KIND if kind != "grouped"])
def test_a_block_that_only_deeper_networks_have_begins_by_handing_on_what_it_gets(kind: str) -> None:
    seed_all(0)
    supernet = Supernet(tiny_space((kind,)), 3)
    network = supernet.cut(deeper_network(supernet.space)).network
    x = paddle.randn([8, 16, 6, 6])
    for out, seen in zip(*(t.transpose([1, 0, 2, 3]).numpy() for t in (network.blocks5[1](x), x)), strict=True):
        # Two norms and H-Swishes bend it; of random weights it is near 0, of a constant channel NaN.
        assert np.corrcoef(out.ravel(), seen.ravel())[0, 1] > 0.6


def test_what_is_larger_than_the_smallest_network_learns() -> None:
    seed_all(0)
    supernet = Supernet(tiny_space(), 3)
    before = {name: parameter.numpy() for name, parameter in supernet.named_parameters()}
    deeper = supernet.cut(deeper_network(supernet.space))
    optimizer = paddle.optimizer.SGD(0.1, parameters=supernet.parameters())
    for _ in range(3):  # what is read with weights of zero has no gradient in the first step
        supernet.lend(deeper)
        deeper.network(images(4)).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
    for name in ("blocks3/0/ds/pw_conv/conv/weight", "blocks5/1/ds/pw_conv/conv/weight"):
        moved = np.abs(supernet._parameters[name].numpy() - before[name])
        assert (before[name][:8, 8:] == 0).all()
        assert (moved.max(axis=(1, 2, 3)) > 0).all()  # every output
        assert (moved.max(axis=(0, 2, 3)) > 0).all()  # every input
        assert moved.max() < 1


def test_a_supernet_starts_from_the_channels_of_a_scale() -> None:
    space = space_around(space_named("lcnet"), 0.25, SIDE)
    half = LCNetSpec(scale=0.25, last_width=1280)
    trained = PPLCNet(half, 3)
    supernet = Supernet(space, 3)
    assert supernet.start_from(numpy_state(trained), half.network()) > 50
    spec = half.network().replace(input_size=SIDE)
    assert spec in space
    subnet = supernet.cut(spec)
    weights = supernet.weights_of(subnet)
    for name, value in numpy_state(trained).items():
        if not name.endswith(("_mean", "_variance")):
            np.testing.assert_array_equal(weights[name], value, err_msg=name)


def test_a_head_of_other_classes_is_left_out() -> None:
    space, half = space_around(space_named("lcnet"), 0.25, SIDE), LCNetSpec(scale=0.25)
    supernet = Supernet(space, 3)
    before = supernet._parameters["fc/weight"].numpy()
    supernet.start_from(numpy_state(PPLCNet(half, 7)), half.network())
    np.testing.assert_array_equal(supernet._parameters["fc/weight"].numpy(), before)
