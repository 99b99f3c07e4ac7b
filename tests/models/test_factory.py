"""`ppcls_ext.models.factory`: networks by name, in our configs and in PaddleClas's."""

from __future__ import annotations

import inspect
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppcls_ext.core.errors import UserError
from ppcls_ext.models.factory import (
    ARCHS,
    build_arch,
    download_weights,
    known_archs,
    register_with_paddleclas,
    spec_of_arch,
)
from ppcls_ext.models.lcnet import PPLCNet
from ppcls_ext.models.spec import ALL, SPECS, STAGES, LCNetSpec
from ppcls_ext.models.weights import numpy_state, save_weights
from ppcls_ext.upstream.paddleclas import ppcls
from tests.helpers.points import MIXED

import paddle  # isort: skip  (after ppcls_ext, which silences its warnings)


@pytest.fixture(scope="module")
def ppcls_arch() -> Any:
    return ppcls("arch")


@pytest.mark.parametrize("name", SPECS)
def test_every_name_builds_its_spec(name: str) -> None:
    model = build_arch({"name": name}, class_num=3)
    assert model.spec == SPECS[name]
    assert model.fc.weight.shape[1] == 3


def test_spec_fields_build_a_network_without_a_name() -> None:
    model = build_arch({"name": "PPLCNet", "scale": 0.4, "se": ALL, "act": "relu", "class_num": 7})
    assert (model.spec.scale, model.spec.se, model.spec.act) == (0.4, ALL, "relu")
    assert model(paddle.zeros([1, 3, 32, 32])).shape == [1, 7]


def test_a_text_builds_any_network_of_the_space(tmp_path: Path) -> None:
    arch = {"name": "LCNetSearched", "arch": MIXED}
    model = build_arch(arch, 4)
    assert model.spec.text == MIXED
    save_weights(tmp_path / "w.pdparams", numpy_state(model))
    again = build_arch({**arch, "pretrained": str(tmp_path / "w.pdparams"), "dropout_prob": 0.0}, 4)
    assert again.spec.dropout == again.dropout.p == 0
    for name, value in numpy_state(model).items():
        np.testing.assert_array_equal(numpy_state(again)[name], value)


@pytest.mark.parametrize(
    "arch",
    [
        {"name": "PPLCNet_x0_25", "use_last_conv": False, "dropout_prob": 0.5},
        {"name": "PPLCNet_x0_25", "class_expand": 512, "dropout_prob": 0.0, "pretrained": False, "class_num": 7},
        {"name": "PPLCNet_x0_25", "stride_list": [2, 2, 2, 2, 1]},
        {"name": "PPLCNet_x0_5_no_se"},
        {"name": "PPLCNet", "scale": 0.4, "se": ALL, "last_width": 0, "dropout": 0.0},
        {"name": "LCNetSearched", "arch": MIXED, "dropout_prob": 0.0},
    ],
)
def test_the_spec_of_a_section_is_that_of_the_network_it_builds(arch: dict[str, Any]) -> None:
    built = build_arch(arch, 7).spec
    assert spec_of_arch(arch) == (built.network() if isinstance(built, LCNetSpec) else built)


@pytest.mark.parametrize(
    "arch",
    [
        {"name": "PPLCNet_x1_0", "use_last_conv": "no"},
        {"name": "PPLCNet_x1_0", "clas_num": 3},
        {"name": "PPLCNet_x1_0", "stride_list": 2},
        {"name": "PPLCNet", "strides": [2, 2, 2, 2, 1]},
        {"name": "LCNetSearched"},
        {"name": "LCNetSearched", "arch": "stem16"},
    ],
)
def test_a_section_that_builds_nothing_has_no_spec_for_the_same_reason(arch: dict[str, Any]) -> None:
    with pytest.raises(UserError) as built:
        build_arch(arch)
    with pytest.raises(UserError) as told:
        spec_of_arch(arch)
    assert str(told.value) == str(built.value)


def test_paddleclas_keywords_change_the_named_spec() -> None:
    model = build_arch({"name": "PPLCNet_x0_25", "dropout_prob": 0, "class_expand": 64, "stride_list": [2, 2, 2, 2, 1]})
    assert (model.spec.dropout, model.spec.last_width, model.spec.strides) == (0, 64, (2, 2, 2, 2, 1))
    no_last = build_arch({"name": "PPLCNet_x0_25", "use_last_conv": False, "class_num": 5})
    assert no_last.last_conv is None
    assert no_last(paddle.zeros([1, 3, 32, 32])).shape == [1, 5]
    assert SPECS["PPLCNet_x0_25"].last_width == 1280


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({}, "Arch.name is missing: say which network to build, such as PPLCNet_x1_0"),
        ({"name": "PPLCNet_x1.0"}, "Arch.name: no network 'PPLCNet_x1.0'; did you mean 'PPLCNet_x1_0'?"),
        ({"name": "PPLCNet_x1_0", "clas_num": 3}, "Arch.clas_num: unknown key; did you mean 'class_num'?"),
        ({"name": "PPLCNet_x1_0", "lr_mult_list": [1]},
         "Arch: lr_mult_list must have 6 numbers (stem, blocks2, blocks3, blocks4, blocks5, blocks6)"),
        ({"name": "LCNetSearched", "arch": "stem16"},
         "Arch: arch must have 8 pieces between '|' (stem, 5 stages, last, input size), got 1"),
        ({"name": "LCNetSearched"}, "Arch: key 'arch' is missing"),
        ({"name": "LCNetSearched", "arch": MIXED, "pretrained": True},
         "Arch.pretrained: no public weights are known for LCNetSearched; give the path of a .pdparams file"),
        ({"name": "PPLCNet", "act": "gelu"}, "Arch: act must be 'hardswish' or 'relu', got 'gelu'"),
        ({"name": "PPLCNet_x1_0", "pretrained": "absent"},
         "weights absent: no such file (nor with .pdparams or .safetensors at its end)"),
    ],
)  # fmt: skip
def test_a_bad_section_is_refused_in_one_line(arch: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_arch(arch)
    assert str(caught.value) == message


def test_a_paddleclas_network_that_refuses_a_key_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"Arch.nonsense: unknown key; known: class_num, ") as caught:
        build_arch({"name": "MobileNetV2_x0_25", "nonsense": 1})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["MobileNetV2_x0_25", "ShuffleNetV2_x0_33", "MobileNetV3_small_x0_35"])
def test_paddleclas_networks_build_more_than_once(name: str) -> None:
    # MobileNetV2 and ShuffleNetV2 give their parameters fixed names, which Paddle takes once per process.
    first, second = build_arch({"name": name}, class_num=4), build_arch({"name": name}, class_num=4)
    assert first(paddle.zeros([1, 3, 32, 32])).shape == [1, 4]
    assert {id(p) for p in first.parameters()}.isdisjoint(id(p) for p in second.parameters())
    # The names that Paddle makes up for others stay unique.
    names = [
        p.name for model in (build_arch({"name": "PPLCNet_x0_25"}, 4) for _ in range(2)) for p in model.parameters()
    ]
    assert len(names) == len(set(names))


def test_pretrained_sets_the_weights_of_a_file(tmp_path: Path) -> None:
    weights = numpy_state(build_arch({"name": "PPLCNet_x0_25"}, class_num=4))
    save_weights(tmp_path / "w.pdparams", weights)
    model = build_arch({"name": "PPLCNet_x0_25", "pretrained": str(tmp_path / "w")}, class_num=4)
    for name, value in numpy_state(model).items():
        np.testing.assert_array_equal(value, weights[name])


def test_ssld_weights_must_be_given_as_a_path() -> None:
    with pytest.raises(UserError, match="use_ssld"):
        build_arch({"name": "PPLCNet_x0_5", "pretrained": True, "use_ssld": True})


def test_known_archs_has_ours_and_paddleclas_networks() -> None:
    known = known_archs()
    assert all(known[name] is ARCHS[name] for name in ARCHS)
    assert {"ResNet50_vd", "MobileNetV1", "ShuffleNetV2_x1_5", "MobileNetV3_large_x0_35"} <= set(known)
    assert all(callable(factory) for factory in known.values())


# This is paddleclas 2.4.2's; a standard config has more sections, which do not concern the network.
IMAGENET = """
Global: {device: cpu, output_dir: ./output/, image_shape: [3, 224, 224]}
Arch:
  name: PPLCNet_x1_0
  class_num: 12
Optimizer: {name: Momentum, momentum: 0.9}
"""
RECOGNITION = """
name: RecModel
infer_output_key: features
infer_add_softmax: False
Backbone: {name: PPLCNet_x0_25, pretrained: False, use_ssld: True}
BackboneStopLayer: {name: flatten}
Neck: {name: FC, embedding_size: 1280, class_num: 32}
Head: {name: ArcMargin, embedding_size: 32, class_num: 10, margin: 0.15, scale: 30}
"""


def test_a_standard_paddleclas_config_builds_ours(ppcls_arch: Any) -> None:
    model = ppcls_arch.build_model(yaml.safe_load(IMAGENET))
    assert isinstance(model, PPLCNet)
    assert model.spec == SPECS["PPLCNet_x1_0"]
    assert model(paddle.zeros([1, 3, 32, 32])).shape == [1, 12]


def test_a_paddleclas_config_can_name_an_ablation(ppcls_arch: Any) -> None:
    model = ppcls_arch.build_model({"Arch": {"name": "PPLCNet_x0_5_no_se", "class_num": 3}, "Global": {}})
    assert model.spec == SPECS["PPLCNet_x0_5_no_se"]


def test_a_recognition_model_has_our_backbone_cut_after_flatten(ppcls_arch: Any) -> None:
    model = ppcls_arch.build_model({"Arch": yaml.safe_load(RECOGNITION), "Global": {}})
    assert isinstance(model.backbone, PPLCNet)
    model.eval()
    out = model(paddle.randn([2, 3, 32, 32]), paddle.zeros([2, 1], dtype="int64"))
    assert out["backbone"].shape == [2, 1280]
    assert out["features"].shape == [2, 32]
    assert out["logits"].shape == [2, 10]


@pytest.mark.parametrize(
    ("layer", "shape"), [("blocks3", [1, 16, 8, 8]), ("blocks6[0]", [1, 128, 1, 1]), ("flatten", [1, 1280])]
)
def test_stop_after_gives_what_the_layer_gives(layer: str, shape: list[int]) -> None:
    model = build_arch({"name": "PPLCNet_x0_25"})
    model.eval()
    x = paddle.randn([1, 3, 32, 32])
    wanted: list[paddle.Tensor] = []
    target: Any = model
    for part in layer.replace("]", "").split("["):
        target = target[part] if part.isdigit() else getattr(target, part)
    hook = target.register_forward_post_hook(lambda _layer, _inputs, output: wanted.append(output))
    model(x)
    hook.remove()
    assert model.stop_after(layer)
    cut = model(x)
    assert cut.shape == shape
    np.testing.assert_array_equal(cut.numpy(), wanted[0].numpy())


def test_return_stages_give_the_stage_outputs() -> None:
    model = build_arch({"name": "PPLCNet_x0_25", "return_stages": True, "class_num": 4})
    model.eval()
    x = paddle.zeros([1, 3, 64, 64])
    out = model(x)
    assert set(out) == {"logits", *STAGES}
    assert [out[stage].shape[-1] for stage in STAGES] == [32, 16, 8, 4, 2]


def test_factories_have_paddleclas_keywords() -> None:
    keywords = {
        "pretrained",
        "use_ssld",
        "class_num",
        "lr_mult_list",
        "stride_list",
        "return_stages",
        "return_patterns",
    }
    for name in SPECS:
        signature = inspect.signature(ARCHS[name])
        assert keywords <= set(signature.parameters)
        assert "name" not in signature.parameters
        assert ARCHS[name].__name__ == name


def test_a_foreign_owner_of_one_of_our_names_is_named() -> None:
    def PPLCNet_x0_5_base() -> None:
        pass

    arch = types.SimpleNamespace(backbone=types.SimpleNamespace(), PPLCNet_x0_5_base=PPLCNet_x0_5_base)
    with pytest.raises(
        KeyError, match=rf"'PPLCNet_x0_5_base' is already registered by {__name__}\..*PPLCNet_x0_5_base"
    ):
        register_with_paddleclas(arch)
    assert arch.PPLCNet_x0_5_base is PPLCNet_x0_5_base


def test_registering_with_paddleclas_is_repeatable(ppcls_arch: Any) -> None:
    register_with_paddleclas(ppcls_arch)
    for module in (ppcls_arch, ppcls_arch.backbone):
        assert all(getattr(module, name) is ARCHS[name] for name in SPECS)


def test_weights_are_fetched_but_not_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def fetch(url: str) -> str:
        asked.append(url)
        return str(tmp_path / "file.pdparams")

    monkeypatch.setattr(ppcls("utils.download"), "get_weights_path_from_url", fetch)
    names = ("PPLCNet_x1_0", "MobileNetV1", "MobileNetV3_small_x0_35")
    for name in names:
        assert download_weights(name) == tmp_path / "file.pdparams"
    assert [url.rsplit("/", 1)[1] for url in asked] == [f"{name}_pretrained.pdparams" for name in names]


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str) -> str:
        raise RuntimeError("no network")

    monkeypatch.setattr(ppcls("utils.download"), "get_weights_path_from_url", fail)
    with pytest.raises(
        UserError, match=r"cannot download https://\S+PPLCNet_x1_0_pretrained\.pdparams \(RuntimeError\)"
    ):
        download_weights("PPLCNet_x1_0")
    with pytest.raises(UserError, match="no public weights are known for PPLCNet_x0_5_no_se"):
        download_weights("PPLCNet_x0_5_no_se")
