"""Public weights: PaddleDetection's PicoDet has our names and values, and its files of every age load."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

from det.task import Detection
from det.weights import load_detector
from ppcls_ext.core.config import load_config, shipped_configs
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.weights import Weights, numpy_state, save_weights
from ppcls_ext.upstream.paddledet import ppdet


class PicoDetSize(NamedTuple):
    """A network of PaddleDetection's model zoo: its options, and its parameters in millions as published there."""

    scale: float
    width: int
    convs: int
    published: float


SIZES = {
    "xs": PicoDetSize(0.35, 96, 2, 0.70),
    "s": PicoDetSize(0.75, 96, 2, 1.18),
    "m": PicoDetSize(1.5, 128, 4, 3.46),
    "l": PicoDetSize(2.0, 160, 4, 5.80),
}
# AP and AP50 in percent, from the table in PaddleDetection's configs/picodet/README.
PUBLISHED = {
    ("xs", 320): (23.5, 36.1),
    ("xs", 416): (26.2, 39.3),
    ("s", 320): (29.1, 43.4),
    ("s", 416): (32.5, 47.6),
    ("m", 320): (34.4, 50.0),
    ("m", 416): (37.5, 53.4),
    ("l", 320): (36.1, 52.0),
    ("l", 416): (39.4, 55.7),
    ("l", 640): (42.6, 59.2),
}


def name_of(size: str, side: int) -> str:
    return f"picodet_{size}_{side}_coco_lcnet"


def task(size: str, side: int = 320, *overrides: str) -> Detection:
    return Detection(load_config(f"det/{name_of(size, side)}", ["Arch.class_num=80", *overrides]))


def of_paddledet(size: PicoDetSize) -> nn.Layer:
    """The network of a public row, of PaddleDetection's own classes with the options of its `picodet_v2.yml`."""
    head = ppdet("modeling.heads.pico_head")
    backbone = ppdet("modeling.backbones.lcnet").LCNet(scale=size.scale, feature_maps=[3, 4, 5])
    # Its default list of scales grows with every network that is built (paddledet 2.6.0).
    neck = ppdet("modeling.necks.lc_pan").LCPAN(
        [shape.channels for shape in backbone.out_shape],
        size.width,
        num_features=4,
        spatial_scales=[1 / 8, 1 / 16, 1 / 32],
    )
    features = head.PicoFeat(
        feat_in=size.width,
        feat_out=size.width,
        num_convs=size.convs,
        num_fpn_stride=4,
        share_cls_reg=True,
        use_se=True,
    )
    loss = ppdet("modeling.losses.varifocal_loss").VarifocalLoss(use_sigmoid=False)
    return ppdet("modeling.architectures.picodet").PicoDet(
        backbone,
        neck,
        head.PicoHeadV2(
            conv_feat=features,
            fpn_stride=[8, 16, 32, 64],
            feat_in_chan=size.width,
            reg_max=7,
            cell_offset=0.5,
            loss_class=loss,
            static_assigner=None,
            assigner=None,
        ),
    )


def random_weights(model: nn.Layer) -> Weights:
    """Weights, also of batch norms, that let every layer count; what the model has under two names is equal in both."""
    rng = np.random.default_rng(0)
    drawn: dict[int, np.ndarray] = {}
    for name, tensor in model.state_dict().items():
        fan_in = max(1, math.prod(tensor.shape[1:]))
        values = rng.standard_normal(tensor.shape) / math.sqrt(fan_in)
        if name.endswith(("_variance", "norm.weight", "bn.weight", "bn1.weight", "bn2.weight")):
            values = rng.uniform(0.5, 1.5, tensor.shape)
        if name.endswith("distribution_project.project"):
            values = tensor.numpy()
        drawn.setdefault(id(tensor), values.astype(np.float32))
    return {name: drawn[id(tensor)] for name, tensor in model.state_dict().items()}


def outputs(model: nn.Layer, forward: Any) -> list[np.ndarray]:
    model.eval()
    images = np.random.default_rng(1).standard_normal((1, 3, 128, 192)).astype(np.float32)
    with paddle.no_grad():
        return [value.numpy() for value in forward(paddle.to_tensor(images))]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_paddledet_has_the_same_names_and_gives_the_same_boxes(size: str) -> None:
    theirs, ours = of_paddledet(SIZES[size]), task(size).build_model()
    assert {n: tuple(t.shape) for n, t in theirs.state_dict().items()} == {
        n: tuple(t.shape) for n, t in ours.state_dict().items()
    }
    weights = random_weights(theirs)
    theirs.set_state_dict(weights)
    assert load_detector(ours, weights, "w") == []
    expected = outputs(theirs, lambda x: theirs.head(theirs.neck(theirs.backbone({"image": x}))))
    assert np.ptp(expected[0]) > 0.01
    for found, wanted in zip(outputs(ours, ours), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    parameters = sum(int(p.size) for p in ours.parameters() if not p.stop_gradient)
    assert parameters / 1e6 == pytest.approx(SIZES[size].published, abs=0.01)


@pytest.fixture(scope="module")
def detector() -> nn.Layer:
    """PicoDet-XS with 80 classes and random weights."""
    model = task("xs").build_model()
    model.set_state_dict(random_weights(model))
    return model


def of_march_2022(model: nn.Layer) -> dict[str, paddle.Tensor]:
    """What PaddleDetection saved then: the last layers have one name each."""
    return {n: t for n, t in model.state_dict().items() if "head_cls_list" not in n and "head_reg_list" not in n}


def test_a_file_of_the_time_before_the_second_names_loads(detector: nn.Layer, tmp_path: Path) -> None:
    state = of_march_2022(detector)
    assert len(state) == len(detector.state_dict()) - 16
    paddle.save(state, str(tmp_path / "old.pdparams"))
    reader = task("xs")
    model = reader.build_model()
    assert reader.load_trained(model, str(tmp_path / "old.pdparams")) == [f"weights from {tmp_path / 'old.pdparams'}"]
    for found, wanted in zip(outputs(model, model), outputs(detector, detector), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_new_head_takes_the_rest_of_a_public_file(detector: nn.Layer, tmp_path: Path) -> None:
    paddle.save(of_march_2022(detector), str(tmp_path / "old.pdparams"))
    network = ["Arch.class_num=3", "Arch.backbone.scale=0.35"]
    kept = Detection(load_config("det/my_coco_from_coco", [*network, "Global.new_head=False"]))
    with pytest.raises(UserError, match=r"for 80 classes, the model has 3; .*new_head=True"):
        kept.load_pretrained(kept.build_model(), str(tmp_path / "old.pdparams"))

    fresh = Detection(load_config("det/my_coco_from_coco", network))
    model = fresh.build_model()
    before = numpy_state(model)
    note = fresh.load_pretrained(model, str(tmp_path / "old.pdparams"))[0]
    assert "new: head.head_cls" in note
    for name, value in numpy_state(model).items():
        own = name.startswith("head.head_cls")
        np.testing.assert_array_equal(value, before[name] if own else detector.state_dict()[name].numpy(), name)


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("det/my_coco", ["Arch.class_num=80"], "recipe tal, the model has that of gfl; .*picodet_s_320_coco_lcnet"),
        ("det/picodet_s_320_coco_lcnet", [], r"'backbone.conv1.conv.weight': \[8, 3, 3, 3\] in the file"),
        ("det/picodet_xs_320_coco_lcnet", ["Arch.convs=4"], r"absent in the file"),
    ],
)
def test_a_public_file_of_another_network_is_refused_in_one_line(
    detector: nn.Layer, config: str, overrides: list[str], message: str, tmp_path: Path
) -> None:
    save_weights(tmp_path / "w.pdparams", numpy_state(detector))
    other = Detection(load_config(config, [*overrides, "Arch.class_num=80", "Global.new_head=True"]))
    with pytest.raises(UserError, match=message) as caught:
        other.load_pretrained(other.build_model(), str(tmp_path / "w.pdparams"))
    assert "\n" not in str(caught.value)


def test_a_segmentation_network_is_no_detector(detector: nn.Layer, tmp_path: Path) -> None:
    state = {n: t.numpy() for n, t in detector.state_dict().items() if n.startswith("backbone.")}
    save_weights(tmp_path / "w.pdparams", {**state, "head.decoder.conv.weight": np.zeros((3, 8, 1, 1), np.float32)})
    with pytest.raises(UserError, match=r"'conv1\.conv\.weight': absent in the file") as caught:
        task("xs").load_pretrained(task("xs").build_model(), str(tmp_path / "w.pdparams"))
    assert "\n" not in str(caught.value)


def test_public_is_the_file_that_the_config_names(
    detector: nn.Layer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = task("xs", 416)
    model = own.build_model()
    with pytest.raises(UserError, match=r"no such file in this folder; fetch it from https://.*xs_416_coco_lcnet"):
        own.load_trained(model, "public")
    save_weights(tmp_path / "picodet_xs_416_coco_lcnet.pdparams", numpy_state(detector))
    assert own.load_trained(model, "public") == own.load_pretrained(model, "public")
    none = Detection(load_config("det/my_coco", ["Arch.class_num=3"]))
    with pytest.raises(UserError, match=r"has no Arch\.public_weights"):
        none.load_pretrained(none.build_model(), "public")


def test_every_public_row_has_a_config_with_its_published_result() -> None:
    rows = {f"det/{name_of(*row)}" for row in PUBLISHED}
    assert rows == {name for name in shipped_configs() if name.endswith("_coco_lcnet")}
    for (size, side), (ap, ap50) in PUBLISHED.items():
        config = load_config(f"det/{name_of(size, side)}")
        public = task(size, side)
        assert public.size == (side, side)
        assert public.interpolation == "cubic"
        assert (public.arch.backbone["scale"], public.arch.width, public.arch.convs) == SIZES[size][:3]
        assert public.arch.public_weights is not None
        assert public.arch.public_weights.endswith(f"/{name_of(size, side)}.pdparams")
        assert config["Expect"]["images"] == 5000
        for metric, percent in (("AP", ap), ("AP50", ap50)):
            assert config["Expect"][metric]["value"] == pytest.approx(percent / 100, abs=1e-9)


def test_an_export_says_how_images_are_resized() -> None:
    public = task("xs")
    recipe = yaml.safe_load(yaml.safe_dump(public.deployment(public.build_model()).recipe))
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    cubic = public.inference(recipe).prepare(image)[0]
    del recipe["preprocess"]["interpolation"]  # exports had no such key before there was a choice
    linear = public.inference(recipe).prepare(image)[0]
    assert cubic.shape == linear.shape == (3, 320, 320)
    assert np.abs(cubic - linear).max() > 0.1
    with pytest.raises(UserError, match=r"Resize\.interpolation: .*'lanczos'"):
        task("xs", 320, "Resize.interpolation=bicubic")


def test_a_number_in_place_of_a_tensor_of_the_head_is_one_line() -> None:
    model = task("xs").build_model()
    head = min(model.head_names())
    with pytest.raises(UserError, match=rf"'{head}': \[\] in the file"):
        load_detector(model, {**numpy_state(model), head: np.array(1.0)}, "w")
