"""`ppcls_ext.models.weights`: weights and training state survive, and hostile or foreign files do not get in."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from ppcls_ext.core.errors import UserError
from ppcls_ext.models.spec import SCALES, SPECS, LCNetSpec, scale_name

import paddle  # isort: skip  (after ppcls_ext, which silences its warnings)
from paddle import nn  # isort: skip

from ppcls_ext.core.files import atomic_write, atomic_write_text  # isort: skip
from ppcls_ext.models.weights import (  # isort: skip
    describe, find_weights, load_into, load_trunk, numpy_state, read_weights, save_weights,
)  # fmt: skip
from ppcls_ext.training.state import (  # isort: skip
    load_optimizer_state, optimizer_state, read_state, save_state,
)  # fmt: skip
from ppcls_ext.models.lcnet import PPLCNet  # isort: skip
from tests.helpers.families import mostly_slow


def network(scale: float = 0.25, class_num: int = 10, seed: int = 1) -> PPLCNet:
    paddle.seed(seed)
    return PPLCNet(LCNetSpec(scale=scale, dropout=0.0), class_num)  # training without chance


def assert_same(ours: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(others)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)


@pytest.mark.parametrize("scale", mostly_slow(SCALES, 2))
def test_a_pdparams_of_paddle_save_loads_at_every_scale(scale: float, tmp_path: Path) -> None:
    source, target = network(scale, 1000), network(scale, 1000, seed=2)
    path = tmp_path / f"PPLCNet_{scale_name(scale)}_pretrained.pdparams"
    paddle.save(source.state_dict(), str(path))
    assert float((source.fc.weight - target.fc.weight).abs().max()) > 0
    assert load_into(target, read_weights(path), path) == []
    assert_same(numpy_state(target), numpy_state(source))


@pytest.mark.parametrize("protocol", [2, 4])
def test_files_of_older_paddle_and_numpy_load(protocol: int, tmp_path: Path) -> None:
    # Paddle 2.x adds a table of names; NumPy 1 called its modules numpy.core.
    weights = numpy_state(network())
    content: dict[str, Any] = {**weights, "StructuredToParameterName@@": {name: f"p_{name}" for name in weights}}
    first = next(iter(weights))
    content[first] = ("conv2d_0.w_0", weights[first])
    data = pickle.dumps(content, protocol=protocol)
    if protocol == 2:  # names have no length before them, so they can be exchanged in place
        assert b"cnumpy._core.multiarray\n" in data
        data = data.replace(b"cnumpy._core.", b"cnumpy.core.")
    (tmp_path / "old.pdparams").write_bytes(data)
    assert_same(read_weights(tmp_path / "old.pdparams"), weights)


def test_saved_weights_are_read_by_us_and_by_paddle(tmp_path: Path) -> None:
    weights = {**numpy_state(network()), "flipped": np.arange(6, dtype="float32").reshape(2, 3)[:, ::-1]}
    save_weights(tmp_path / "run" / "w.pdparams", weights)
    assert_same(read_weights(tmp_path / "run" / "w.pdparams"), weights)
    assert_same(paddle.load(str(tmp_path / "run" / "w.pdparams"), return_numpy=True), weights)


def test_the_ending_may_be_left_out(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.pdparams", {})
    assert find_weights(tmp_path / "w") == find_weights(str(tmp_path / "w.pdparams")) == tmp_path / "w.pdparams"
    with pytest.raises(UserError, match="no such file"):
        find_weights(tmp_path / "x")
    with pytest.raises(UserError, match="no such file"):
        find_weights(tmp_path)  # a folder is not a file


@pytest.mark.parametrize(
    ("scale", "class_num", "described"),
    [(0.5, 10, "PPLCNet 0.5x with 10 classes"), (0.25, 7, "PPLCNet 0.25x with 7 classes")],
)
def test_weights_of_another_network_are_refused_in_one_line(scale: float, class_num: int, described: str) -> None:
    model = network()
    before = numpy_state(model)
    with pytest.raises(UserError) as caught:
        load_into(model, numpy_state(network(scale, class_num)), "w.pdparams")
    message = str(caught.value)
    assert message.startswith(f"weights w.pdparams: {described}, but the model is PPLCNet 0.25x with 10 classes")
    assert "\n" not in message
    assert_same(numpy_state(model), before)


@pytest.mark.parametrize("shapes", [((), (2, 3)), ((512,), (3,)), ((512,), ()), ((512, 1, 1, 1), (2, 3, 4))])
def test_tensors_of_any_shape_are_described(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    last, head = map(np.zeros, shapes)
    assert describe({"blocks6.1.pw_conv.conv.weight": last, "fc.weight": head})


def test_a_missing_and_an_unknown_tensor_are_named() -> None:
    model = network()
    weights = numpy_state(model)
    some = dict(weights)
    del some["conv1.bn._mean"]
    with pytest.raises(UserError, match=r"'conv1\.bn\._mean': absent in the file, \[8\] in the model"):
        load_into(model, some, "w")
    with pytest.raises(UserError, match=r"'strange': \[1\] in the file, absent in the model"):
        load_into(model, {**weights, "strange": np.zeros(1)}, "w")


def test_a_new_head_keeps_its_initial_values_and_gets_the_trunk() -> None:
    source, model = network(class_num=7, seed=3), network(class_num=10)
    before, weights = numpy_state(model), numpy_state(source)
    with pytest.raises(UserError, match=r"Global\.new_head=True"):
        load_into(model, weights, "w")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(load_into(model, weights, "w", new_head=True)) == {"fc.weight", "fc.bias"}
    after = numpy_state(model)
    assert_same({n: after[n] for n in ("fc.weight", "fc.bias")}, {n: before[n] for n in ("fc.weight", "fc.bias")})
    assert_same(
        {n: v for n, v in after.items() if n[:3] != "fc."}, {n: v for n, v in weights.items() if n[:3] != "fc."}
    )


def test_new_head_does_not_excuse_another_trunk() -> None:
    with pytest.raises(UserError, match=r"0\.5x"):
        load_into(network(), numpy_state(network(0.5, 7)), "w", new_head=True)


def test_a_trunk_takes_classification_weights_without_their_head() -> None:
    weights = numpy_state(network())
    trunk = PPLCNet(LCNetSpec(scale=0.25), class_num=0)
    load_trunk(trunk, weights, "w")
    assert_same(numpy_state(trunk), {n: v for n, v in weights.items() if n in trunk.state_dict()})
    with pytest.raises(UserError, match=r"PPLCNet 0\.5x with 10 classes|PPLCNet 0\.5x without a head"):
        load_trunk(trunk, numpy_state(network(0.5)), "w")
    with pytest.raises(UserError, match="without a head"):
        load_trunk(trunk, {"other.weight": np.zeros(3)}, "w")


class Hostile:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused_and_not_executed(protocol: int, tmp_path: Path) -> None:
    proof, path = tmp_path / "executed", tmp_path / "w.pdparams"
    data = pickle.dumps({"conv1.conv.weight": Hostile(f"touch '{proof}'")}, protocol=protocol)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"it wants to run posix\.system") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert not proof.exists()
    pickle.loads(data)  # the file is really hostile: Python's own unpickling runs it
    assert proof.exists()


class Borrowed:
    """Names something harmful inside a module that may be used."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.fromfile, ("setup.py",)


@pytest.mark.parametrize(
    "content",
    [
        {"w": Borrowed()},
        {"w": np.array([{}, "x"], dtype=object)},
        {"w": np.zeros(2, dtype=[("a", "O")])},
        {"w": [1.0, 2.0]},
        {"w": "text"},
        {"w": {"nested": np.zeros(1)}},
        [np.zeros(1)],
    ],
    ids=["numpy function", "object array", "object field", "list", "text", "nested", "not named"],
)
def test_what_is_not_a_plain_tensor_is_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"w\.pdparams"):
        read_weights(tmp_path / "w.pdparams")


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_a_truncated_file_is_refused(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "w.pdparams"
    save_weights(path, numpy_state(network()))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else int(kept)])
    with pytest.raises(UserError, match="not loaded"):
        read_weights(path)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    atomic_write_text(path, "new")
    assert path.read_text() == "new"


def test_saving_weights_that_cannot_be_written_keeps_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "w.pdparams"
    save_weights(path, {"w": np.ones(2)})

    class Bomb:
        def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        save_weights(path, {"a": np.zeros(1000), "w": Bomb()})  # type: ignore[dict-item]
    assert_same(read_weights(path), {"w": np.ones(2)})
    assert list(tmp_path.iterdir()) == [path]


def test_training_state_round_trips(tmp_path: Path) -> None:
    tensors = {
        "model/w": np.arange(6, dtype="float32").reshape(2, 3).T,
        "optimizer/w/velocity_0": np.zeros(0),
        "step": np.array(3),
    }
    info = {"epoch": 4, "best": {"top1": 0.5}, "name": "Größe"}
    save_state(tmp_path / "state.safetensors", tensors, info)
    read, read_info = read_state(tmp_path / "state.safetensors")
    assert read_info == info
    assert_same(read, tensors)
    assert read["model/w"].dtype == np.float32
    # As weights, it is its model.
    assert_same(read_weights(tmp_path / "state.safetensors"), {"w": tensors["model/w"]})


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_a_damaged_training_state_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {"w": np.ones(100)}, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="damaged"):
        read_state(path)
    with pytest.raises(UserError, match="no such file"):
        read_state(tmp_path / "absent.safetensors")


OPTIMIZERS = {
    "momentum": lambda p: paddle.optimizer.Momentum(0.1, 0.9, parameters=p, weight_decay=1e-3),
    "scheduled": lambda p: paddle.optimizer.Momentum(
        paddle.optimizer.lr.CosineAnnealingDecay(0.1, 10), 0.9, parameters=p
    ),
    "adamw": lambda p: paddle.optimizer.AdamW(0.01, parameters=p),
}


def step(model: nn.Layer, optimizer: Any, seed: int) -> None:
    model.train()  # batch statistics keep the activations of an untrained network at unit scale
    x = np.random.default_rng(seed).standard_normal((4, 3, 64, 64)).astype("float32")
    (model(paddle.to_tensor(x)) ** 2).mean().backward()
    optimizer.step()
    optimizer.clear_grad()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizer_state_continues_where_it_stopped_in_another_process(kind: str, tmp_path: Path) -> None:
    make = OPTIMIZERS[kind]
    whole = network()
    optimizer = make(whole.parameters())
    step(whole, optimizer, 0)
    step(whole, optimizer, 1)
    weights = numpy_state(whole)
    save_state(tmp_path / "s.safetensors", optimizer_state(whole, optimizer), {})
    step(whole, optimizer, 2)

    # In the next process other networks were built before, so Paddle's names for the parameters differ.
    network(0.35)
    resumed = network(seed=9)
    assert {p.name for p in resumed.parameters()}.isdisjoint(p.name for p in whole.parameters())
    load_into(resumed, weights, "w")
    fresh = make(resumed.parameters())
    load_optimizer_state(resumed, fresh, read_state(tmp_path / "s.safetensors")[0])
    step(resumed, fresh, 2)
    expected = numpy_state(whole)
    for name, value in numpy_state(resumed).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)

    # Without the state the same step leads elsewhere: the comparison can fail.
    forgetful = network(seed=9)
    load_into(forgetful, weights, "w")
    step(forgetful, make(forgetful.parameters()), 2)
    assert np.abs(forgetful.fc.weight.numpy() - whole.fc.weight.numpy()).max() > 1e-4


def test_loading_optimizer_state_leaves_the_scheduler_alone() -> None:
    model = network()
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(0.1, 10)
    optimizer = paddle.optimizer.Momentum(schedule, 0.9, parameters=model.parameters())
    step(model, optimizer, 0)
    state = optimizer_state(model, optimizer)
    for _ in range(3):
        schedule.step()
    rate = optimizer.get_lr()
    load_optimizer_state(model, optimizer, state)
    assert optimizer.get_lr() == rate < 0.1


def test_optimizer_state_of_another_network_is_refused() -> None:
    source = PPLCNet(SPECS["PPLCNet_x0_5"], 10)
    optimizer = paddle.optimizer.Momentum(0.1, 0.9, parameters=source.parameters())
    step(source, optimizer, 0)
    state = optimizer_state(source, optimizer)
    without_se = PPLCNet(SPECS["PPLCNet_x0_5_no_se"], 10)
    for other, words in (
        (network(0.25), r"is \[16, 8, 1, 1\], but the parameter is \[8, 8, 1, 1\]"),
        (without_se, r"\.se\."),
    ):
        target = paddle.optimizer.Momentum(0.1, 0.9, parameters=other.parameters())
        with pytest.raises(UserError, match=words):
            load_optimizer_state(other, target, state)


@pytest.mark.parametrize("kind", ["float16", "float64", "bfloat16"])
@pytest.mark.parametrize("form", ["pdparams", "safetensors"])
def test_other_numbers_with_fractions_become_float32_with_a_line(
    kind: str, form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, values = tmp_path / f"w.{form}", np.array([1.0, -2.5, 0.0], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    if form == "pdparams":
        path.write_bytes(pickle.dumps({"w": bits if kind == "bfloat16" else values.astype(kind)}))
    else:
        data = bits.tobytes() if kind == "bfloat16" else values.astype(kind).tobytes()
        name = {"float16": "F16", "float64": "F64", "bfloat16": "BF16"}[kind]
        header = json.dumps({"w": {"dtype": name, "shape": [3], "data_offsets": [0, len(data)]}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    found = read_weights(path)["w"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)
    assert capfd.readouterr().err == f"weights {path}: 1 tensors of {kind} are read as float32\n"


def test_numbers_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    model = network()
    weights = numpy_state(model)
    with pytest.raises(UserError, match=r"'fc.bias' is int64, but the model has numbers with fractions there"):
        load_into(model, {**weights, "fc.bias": np.zeros(10, np.int64)}, "w")
    save_weights(tmp_path / "w.pdparams", {"w": np.array([1e300])})
    with pytest.raises(UserError, match="'w' has numbers beyond float32"):
        read_weights(tmp_path / "w.pdparams")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    weights = numpy_state(network())
    weights["conv1.conv.weight"] = np.full_like(weights["conv1.conv.weight"], value)
    with pytest.raises(UserError, match=r"weights F: 'conv1.conv.weight' has numbers that are not finite"):
        load_into(network(), weights, "F")


def test_a_flipped_bit_of_a_state_is_found(tmp_path: Path) -> None:
    """In any of its bytes; a state without a checksum is read as before."""
    path = tmp_path / "s.safetensors"
    save_state(path, {"model/w": np.arange(5, dtype="float32")}, {"epoch": 1})
    data, said = path.read_bytes(), []
    for place in range(len(data)):
        spoiled = bytearray(data)
        spoiled[place] ^= 1 << place % 8
        path.write_bytes(spoiled)
        try:
            tensors, info = read_state(path)
        except UserError as error:
            said.append(str(error))
        else:  # a bit of white space, or of the name of the checksum
            assert (info, tensors["model/w"].tolist()) == ({"epoch": 1}, [0, 1, 2, 3, 4]), place
    assert len(said) > 0.8 * len(data)
    assert not [text for text in said if "\n" in text]
    path.write_bytes(safetensors.numpy.save({"w": np.ones(2)}, {"info": '{"epoch": 2}'}))
    assert read_state(path)[1] == {"epoch": 2}
