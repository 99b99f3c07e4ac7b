"""The trunk is classification's; every config builds and trains a step; weights find their place."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import paddle
import pytest

from det.backbones import build_backbone
from det.demo import make_scenes
from det.network import ExportedDetector, Features, WithNms
from det.sections import NmsSection
from det.task import Detection
from det.transforms import Sample
from ppcls_ext.core.config import load_config, shipped_configs
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.counting import count
from ppcls_ext.models.factory import build_arch
from ppcls_ext.models.spec import SPECS
from ppcls_ext.models.weights import load_trunk, numpy_state, save_weights
from ppcls_ext.tasks.export import ExportedModel
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.training.optimizers import build_optimizer, build_schedule, lr_of
from ppcls_ext.upstream.paddledet import ppdet
from tests.helpers.families import mostly_slow
from tests.helpers.points import MIXED

CONFIGS = [name for name in shipped_configs() if name.startswith("det/")]
TABLE_4 = {  # trainable parameters with 80 classes, counted by PaddleDetection's own constructors
    "PPLCNet_x0_5": 418_787,
    "PPLCNet_x1_0": 1_207_059,
    "MobileNetV3_large_x0_35": 489_395,
    "MobileNetV3_large_x0_75": 1_749_731,
}


@pytest.mark.parametrize(
    "arch",
    [
        {"name": "PPLCNet_x0_25"},
        {"name": "PPLCNet_x0_5_no_se"},
        {"name": "PPLCNet_x0_5_base"},
        {"name": "MobileNetV4_conv_small"},
        {"name": "LCNetSearched", "arch": MIXED},
    ],
    ids=lambda arch: arch["name"],
)
def test_features_equal_those_of_the_classifier(arch: dict[str, str]) -> None:
    classifier = build_arch(arch, 10)
    backbone, channels, strides = build_backbone(arch)
    load_trunk(backbone, numpy_state(classifier), "classifier")
    classifier.eval()
    backbone.eval()
    images = paddle.randn([2, 3, 64, 96])
    maps = backbone({"image": images})
    for stride, width, found in zip(strides, channels, maps, strict=True):
        assert found.shape == [2, width, 64 // stride, 96 // stride]
        np.testing.assert_array_equal(found.numpy(), classifier.features(images)[stride].numpy())


@pytest.mark.parametrize("name", mostly_slow(SPECS))
def test_every_scale_and_ablation_is_a_backbone(name: str) -> None:
    _, channels, _ = build_backbone({"name": name})
    assert channels == [SPECS[name].width(base) for base in (128, 256, 512)]


def test_ppdet_creates_our_backbone_by_name_and_nothing_can_take_it() -> None:
    workspace = ppdet("core.workspace")
    section = workspace.global_config["PPLCNet"]  # where PaddleDetection's YAML goes
    section.update(scale=0.25, feature_strides=[4, 32])
    try:
        backbone = workspace.create("PPLCNet")
    finally:
        section.clear()
    assert [(s.channels, s.stride) for s in backbone.out_shape] == [(16, 4), (128, 32)]
    with pytest.raises(ValueError, match="already registered"):
        workspace.register(type("PPLCNet", (), {}))


def test_wrong_backbones_are_refused() -> None:
    with pytest.raises(UserError, match=r"Arch\.backbone\.name is missing"):
        build_backbone({"scale": 0.5})
    with pytest.raises(UserError, match="did you mean 'PPLCNet'"):
        build_backbone({"name": "PPLCNett"})
    with pytest.raises(UserError, match=r"Arch\.backbone: arch: 'dw-c16': no block kind 'dw'; did you mean 'ds'"):
        build_backbone({"name": "LCNetSearched", "arch": MIXED.replace("conv-c16-k2-relu", "dw-c16")})
    with pytest.raises(UserError, match=r"Arch\.backbone\.scalee: unknown key; did you mean 'scale'"):
        build_backbone({"name": "PPLCNet", "scalee": 1})
    with pytest.raises(UserError, match="feature_strides: expected neighbours among"):
        build_backbone({"name": "PPLCNet", "feature_strides": [64]})
    for strides in (8, [8, 32], [16, 8], [], [8, 8], "8"):
        with pytest.raises(UserError, match="feature_strides: expected neighbours among"):
            build_backbone({"name": "PPLCNet", "feature_strides": strides})


def test_other_strides_train_a_step() -> None:
    overrides = ["Arch.class_num=3", "Arch.backbone.feature_strides=[4, 8, 16, 32]"]
    assert step(Detection(load_config("det/demo", overrides)), 96, 3)["box_loss"] > 0


def test_mobilenet_has_the_name_of_segmentation_and_that_of_earlier_configs() -> None:
    now, earlier = (
        build_backbone({"name": name, "scale": 0.35})[0].state_dict() for name in ("MobileNetV3_large", "MobileNetV3")
    )
    assert {n: t.shape for n, t in now.items()} == {n: t.shape for n, t in earlier.items()}


@pytest.mark.slow
def test_mobilenet_takes_the_weights_of_paddleclas(tmp_path: Path) -> None:
    classifier = build_arch({"name": "MobileNetV3_large_x0_35"}, 10)
    save_weights(tmp_path / "classifier.pdparams", numpy_state(classifier))
    task = Detection(load_config("det/picodet_MobileNetV3_large_x0_35_320"))
    model = task.build_model()
    assert "classification" in task.load_pretrained(model, str(tmp_path / "classifier.pdparams"))[0]
    classifier.eval()
    model.eval()
    images = paddle.randn([1, 3, 64, 96])
    deepest = model.backbone({"image": images})[-1]
    np.testing.assert_allclose(deepest.numpy(), classifier.blocks(classifier.conv(images)).numpy(), atol=1e-5)

    other = Detection(load_config("det/picodet_MobileNetV3_large_x0_75_320"))
    with pytest.raises(UserError, match="use the weights of the same network"):
        other.load_pretrained(other.build_model(), str(tmp_path / "classifier.pdparams"))


def step(task: Detection, side: int, boxes: int, model: paddle.nn.Layer | None = None) -> dict[str, float]:
    """One forward and backward pass on an image of noise with so many boxes, beside one with none."""
    model = task.build_model() if model is None else model
    model.train()
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 3, side, side)).astype(np.float32)
    corners = rng.uniform(0, side / 2, (boxes, 2))
    found = np.concatenate([corners, corners + side / 3], axis=1).astype(np.float32)
    empty = Sample(images[0], np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    samples = [empty, Sample(images[1], found, np.arange(boxes, dtype=np.int64))]
    targets = task.targets(images, samples, 0)
    result = task.step(model, [paddle.to_tensor(a) for a in (images, *targets)])
    result.losses["loss"].backward()
    assert all(p.grad is None or bool(paddle.isfinite(p.grad).all()) for p in model.parameters())
    first = next(p for n, p in model.named_parameters() if n.startswith("backbone."))
    assert boxes == 0 or float(first.grad.abs().sum()) > 0
    return {name: float(value) for name, value in result.losses.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_and_trains_a_step(name: str) -> None:
    side = 192 if load_config(name)["Arch"]["recipe"] == "tal" else 96
    task = Detection(load_config(name, ["Arch.class_num=80", f"Global.image_shape=[3,{side},{side}]"]))
    model = task.build_model()
    losses = step(task, side, 3, model)
    assert losses["box_loss"] > 0
    schedule = build_schedule(lr_of(task.config["Optimizer"]), task.global_section.epochs, 523, 224)
    build_optimizer(task.config["Optimizer"], model, schedule)
    parameters = sum(int(p.size) for p in model.parameters() if not p.stop_gradient)
    for network, published in TABLE_4.items():
        if f"picodet_{network}_" in name:
            assert parameters == published


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if "picodet_" in name])
def test_the_cost_that_a_config_states_is_counted(name: str) -> None:
    config = load_config(name, ["Arch.class_num=80"])
    stated = re.search(r"Cost: ([\d.]+) M parameters, (\d+) M multiply-adds", config.path.read_text())
    assert stated
    task = Detection(config)
    found = count(task.build_model(), paddle.zeros([1, *task.global_section.image_shape]))
    assert (f"{found.params / 1e6:.2f}", f"{found.flops / 1e6:.0f}") == stated.groups()


@pytest.mark.parametrize("with_se", [False, True])
def test_the_features_of_the_head_are_those_of_paddledetection(with_se: bool) -> None:
    options = {"feat_in": 8, "feat_out": 8, "num_convs": 2, "share_cls_reg": True, "use_se": with_se}
    own, theirs = Features(**options), ppdet("modeling.heads.pico_head").PicoFeat(**options)
    assert [name for name, _ in own.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    own.set_state_dict(theirs.state_dict())
    maps = paddle.randn([2, 8, 5, 7])
    for found, expected in zip(own(maps, 1), theirs(maps, 1), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_configs_of_table_4_are_all_there() -> None:
    assert {f"det/picodet_{n}_{size}" for n in TABLE_4 for size in (320, 416)} < set(CONFIGS)


@pytest.mark.parametrize("recipe", ["gfl", "tal"])
def test_a_batch_without_boxes_has_a_finite_loss(recipe: str) -> None:
    overrides = ["Arch.class_num=3", f"Arch.recipe={recipe}", "Global.image_shape=[3,192,192]"]
    losses = step(Detection(load_config("det/demo", overrides)), 192, 0)
    assert np.isfinite(losses["loss"])
    assert losses["box_loss"] == 0


def test_tal_trains_a_step_with_boxes() -> None:
    overrides = ["Arch.class_num=3", "Arch.recipe=tal", "Global.image_shape=[3,192,192]"]
    assert step(Detection(load_config("det/demo", overrides)), 192, 3)["box_loss"] > 0
    with pytest.raises(UserError, match="sides of 192"):
        Detection(load_config("det/demo", [*overrides, "Global.image_shape=[3,96,96]"])).build_model()


def test_weights_of_classifiers_and_detectors_are_told_apart(tmp_path: Path) -> None:
    three = Detection(load_config("det/demo", ["Arch.class_num=3"]))
    classifier = build_arch({"name": "PPLCNet_x0_25"}, 10)
    save_weights(tmp_path / "classifier.pdparams", numpy_state(classifier))
    model = three.build_model()
    assert "classification" in three.load_pretrained(model, str(tmp_path / "classifier.pdparams"))[0]
    name = "blocks6.1.pw_conv.conv.weight"
    np.testing.assert_array_equal(model.state_dict()[f"backbone.{name}"], classifier.state_dict()[name])

    with pytest.raises(UserError, match="they are not a detector's"):
        three.load_trained(model, str(tmp_path / "classifier.pdparams"))

    save_weights(tmp_path / "detector.pdparams", numpy_state(model))
    assert three.load_trained(model, str(tmp_path / "detector.pdparams"))
    other = Detection(load_config("det/demo", ["Arch.class_num=5"]))
    with pytest.raises(UserError, match="new_head"):
        other.load_pretrained(other.build_model(), str(tmp_path / "detector.pdparams"))
    fresh = Detection(load_config("det/demo", ["Arch.class_num=5", "Global.new_head=True"]))
    taken = fresh.build_model()
    assert "head.head_cls0" in fresh.load_pretrained(taken, str(tmp_path / "detector.pdparams"))[0]
    np.testing.assert_array_equal(taken.state_dict()[f"backbone.{name}"], classifier.state_dict()[name])


def test_names_are_taken_from_whatever_is_there(tmp_path: Path) -> None:
    def names(*overrides: str) -> tuple[tuple[str, ...], list[int]]:
        task = Detection(load_config("det/my_coco", [f"Global.data_root={tmp_path}", *overrides]))
        model = task.build_model()
        recipe = task.deployment(model).recipe
        assert len(task.deployment(model).samples(2)[0]) == 2
        return tuple(recipe["labels"]), recipe["category_ids"]

    absent = "Global.data_root=/no/such/folder"
    assert names("Arch.class_num=2", absent) == (("0", "1"), [1, 2])
    with pytest.raises(UserError, match="no such folder"):
        names(absent)
    for split in ("val", "train"):
        make_scenes(tmp_path, split, 2, side=96)
    digits = tuple(map(str, range(10))), list(range(10))
    assert names() == digits
    (tmp_path / "annotations" / "instances_train.json").unlink()
    assert names("Arch.class_num=10") == digits


@pytest.mark.parametrize("name", ["det/demo", "seg/demo", "demo"])
def test_a_metric_that_a_task_does_not_have_is_refused_before_anything(name: str) -> None:
    with pytest.raises(UserError, match=r"Expect\.AP55: not a metric of this task"):
        make_task(load_config(name, ["Expect.AP55={value: 0.5, tolerance: 0.1}"]))


@pytest.mark.parametrize("batch", [1, 2])
def test_an_export_is_evaluated_alike_with_and_without_nms_in_its_graph(batch: int) -> None:
    """The ONNX format of a detector has none where its batch is free, and Paddle's formats of the same export do."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 1, (2, 3, 40)).astype(np.float32)
    scores[1] = 0  # nothing is found in the second image
    corners = rng.uniform(0, 50, (2, 40, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 20], axis=2)
    nms = NmsSection()
    without = ExportedModel(lambda inputs: [array[inputs[0].astype(int)] for array in (scores, boxes)])
    rows, counts = ExportedDetector(without, nms)(paddle.arange(batch))

    class Raw(paddle.nn.Layer):
        def forward(self, images: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
            return tuple(paddle.to_tensor(array)[images] for array in (scores, boxes))

    inside = WithNms(Raw(), nms)
    within = ExportedModel(lambda inputs: [output.numpy() for output in inside(paddle.to_tensor(inputs[0]))])
    same_rows, same_counts = ExportedDetector(within, nms)(paddle.arange(batch))
    assert counts.numpy().tolist() == [len(rows), 0][:batch]
    assert len(rows) > 0
    np.testing.assert_array_equal(rows.numpy(), same_rows.numpy())
    np.testing.assert_array_equal(counts.numpy(), same_counts.numpy())


def test_another_scale_is_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "half.pdparams", numpy_state(build_arch({"name": "PPLCNet_x0_5"}, 10)))
    task = Detection(load_config("det/demo", ["Arch.class_num=3"]))
    with pytest.raises(UserError, match=r"PPLCNet 0\.5x"):
        task.load_pretrained(task.build_model(), str(tmp_path / "half.pdparams"))
