"""The segmentation network: same trunk as classification, every output stride, backbone, loss and config."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

from ppcls_ext.core.config import load_config, shipped_configs
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.factory import build_arch
from ppcls_ext.models.spec import SPECS
from ppcls_ext.models.weights import numpy_state, save_weights
from ppcls_ext.paper.tables import table
from ppcls_ext.training.optimizers import build_optimizer, build_schedule, lr_of
from ppcls_ext.upstream.paddleseg import paddleseg
from seg.backbones import BACKBONES, PPLCNet, mobilenet_v3_large, register_with_paddleseg
from seg.network import CLASSIFIER, LOSSES, aspp_ratios, build_losses, build_network
from seg.sections import ArchSection
from seg.task import Segmentation
from tests.helpers.families import mostly_slow
from tests.helpers.points import MIXED

OPTIONS = {"BootstrappedCrossEntropyLoss": {"min_K": 16, "loss_th": 0.3}}  # required by PaddleSeg
RATIOS = (1, 3, 6, 9)
CONFIGS = [name for name in shipped_configs() if name.startswith("seg/")]


def pictures(number: int, height: int, width: int) -> paddle.Tensor:
    values = np.random.default_rng(0).standard_normal((number, 3, height, width))
    return paddle.to_tensor(values.astype("float32"))


SEARCHED = f"{{name: LCNetSearched, arch: {MIXED}}}"


@pytest.mark.parametrize(
    "arch",
    [
        "{name: PPLCNet_x0_25}",
        "{name: PPLCNet_x0_5_no_se}",
        "{name: PPLCNet_x0_5_base}",
        "{name: MobileNetV4_conv_small}",
        SEARCHED,
    ],
)
def test_a_classification_checkpoint_gives_the_same_features(arch: str, tmp_path: Path) -> None:
    classifier = build_arch(yaml.safe_load(arch), 7)
    save_weights(tmp_path / "w.pdparams", numpy_state(classifier))
    task = Segmentation(load_config("seg/demo", ["Arch.class_num=3", f"Arch.backbone={arch}", "Arch.output_stride=32"]))
    model = task.build_model()
    task.load_pretrained(model, str(tmp_path / "w.pdparams"))
    classifier.eval()
    model.eval()
    x = pictures(1, 64, 96)
    for ours, theirs in zip(model.backbone(x), classifier.features(x).values(), strict=True):
        assert np.array_equal(ours.numpy(), theirs.numpy())


def test_weights_are_told_apart_by_their_keys(tmp_path: Path) -> None:
    classifier, whole = tmp_path / "classifier.pdparams", tmp_path / "whole.pdparams"
    save_weights(classifier, numpy_state(build_arch({"name": "PPLCNet_x0_25"}, 7)))
    narrow = "Arch.backbone.scale=0.25"
    task = Segmentation(load_config("seg/demo", ["Arch.class_num=3", narrow]))
    model = task.build_model()
    save_weights(whole, numpy_state(model))
    with pytest.raises(UserError, match="not a segmentation network"):
        task.load_trained(model, str(classifier))
    assert task.load_trained(model, str(whole))
    other = Segmentation(load_config("seg/demo", ["Arch.class_num=4", narrow]))
    with pytest.raises(UserError, match=r"for 3 classes, the model has 4.*new_head"):
        other.load_pretrained(other.build_model(), str(whole))
    fresh = Segmentation(load_config("seg/demo", ["Arch.class_num=4", narrow, "Global.new_head=true"]))
    target = fresh.build_model()
    assert "new last layer" in fresh.load_pretrained(target, str(whole))[0]
    name = "backbone.conv1.conv.weight"
    assert np.array_equal(target.state_dict()[name].numpy(), model.state_dict()[name].numpy())
    wide = Segmentation(load_config("seg/demo", ["Arch.class_num=3", "Arch.backbone.scale=1.0"]))
    with pytest.raises(UserError, match=r"PPLCNet 0\.25x"):
        wide.load_pretrained(wide.build_model(), str(classifier))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["Arch.class_num=3", "Arch.backbone.scale=0.5"], r"'backbone\.\S+': \[8, .* in the file"),
        (["Arch.class_num=3", "Arch.backbone={name: MobileNetV3_large, scale: 0.5}"], "use the weights of the same"),
        (["Arch.class_num=4", "Global.new_head=false"], r"for 3 classes, the model has 4; .*new_head=True"),
    ],
)
def test_a_segmentation_file_that_does_not_fit_is_refused_in_one_line(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    three = Segmentation(load_config("seg/my_masks", ["Arch.class_num=3", "Arch.backbone.scale=0.25"]))
    save_weights(tmp_path / "w.pdparams", numpy_state(three.build_model()))
    base = ["Arch.backbone.scale=0.25", "Global.new_head=True"]
    other = Segmentation(load_config("seg/my_masks", [*base, *overrides]))
    with pytest.raises(UserError, match=message) as error:
        other.load_pretrained(other.build_model(), str(tmp_path / "w.pdparams"))
    assert "\n" not in str(error.value)


def test_the_backbone_of_a_detector_is_taken(tmp_path: Path) -> None:
    trunk = numpy_state(PPLCNet(0.25))
    detector = {f"backbone.{name}": value for name, value in trunk.items()}
    save_weights(tmp_path / "w.pdparams", {**detector, "head.head_cls0.weight": np.zeros((5, 64, 1, 1), np.float32)})
    task = Segmentation(load_config("seg/my_masks", ["Arch.class_num=3", "Arch.backbone.scale=0.25"]))
    model = task.build_model()
    assert "the head starts anew" in task.load_pretrained(model, str(tmp_path / "w.pdparams"))[0]
    for name, value in numpy_state(model.backbone).items():
        assert np.array_equal(value, trunk[name]), name


def test_a_new_head_keeps_everything_else_of_a_segmentation_network(tmp_path: Path) -> None:
    three = Segmentation(load_config("seg/my_masks", ["Arch.class_num=3", "Arch.backbone.scale=0.25"]))
    whole = numpy_state(three.build_model())
    save_weights(tmp_path / "w.pdparams", whole)
    overrides = ["Arch.class_num=4", "Arch.backbone.scale=0.25", "Global.new_head=True"]
    four = Segmentation(load_config("seg/my_masks", overrides))
    model = four.build_model()
    before = numpy_state(model)
    four.load_pretrained(model, str(tmp_path / "w.pdparams"))
    for name, value in numpy_state(model).items():
        assert np.array_equal(value, (before if name in CLASSIFIER else whole)[name]), name


@pytest.mark.parametrize("stride", [16, 8])
def test_dilation_keeps_the_features_of_the_plain_network(stride: int) -> None:
    # Without SE, whose pool sees the finer map, the subsampled maps are equal.
    plain, dilated = PPLCNet(0.25, se="0" * 13), PPLCNet(0.25, se="0" * 13, output_stride=stride)
    dilated.set_state_dict(plain.state_dict())
    plain.eval()
    dilated.eval()
    x = pictures(1, 96, 128)
    step = 32 // stride
    fine, coarse = dilated(x)[3], plain(x)[3]
    assert fine.shape[2:] == [96 // stride, 128 // stride]
    assert np.allclose(fine[:, :, ::step, ::step].numpy(), coarse.numpy(), atol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 0.75])
def test_mobilenet_has_the_maps_that_deeplab_reads(scale: float) -> None:
    network = mobilenet_v3_large(scale, 16)
    maps = network(pictures(1, 64, 64))
    assert [m.shape[1] for m in maps] == network.feat_channels
    assert [64 // m.shape[2] for m in maps] == [4, 8, 16, 16]


def test_mobilenet_takes_classification_weights(tmp_path: Path) -> None:
    classifier = build_arch({"name": "MobileNetV3_large_x0_5"}, 5)
    save_weights(tmp_path / "w.pdparams", numpy_state(classifier))
    task = Segmentation(
        load_config("seg/demo", ["Arch.class_num=3", "Arch.backbone={name: MobileNetV3_large, scale: 0.5}"])
    )
    model = task.build_model()
    task.load_pretrained(model, str(tmp_path / "w.pdparams"))
    own = model.backbone.state_dict()
    assert all(np.array_equal(own[n].numpy(), w) for n, w in numpy_state(classifier).items() if n in own)


def test_every_network_of_the_paper_is_a_backbone() -> None:
    assert set(SPECS) <= set(BACKBONES)


def test_paddleseg_builds_our_backbone_and_a_taken_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = register_with_paddleseg()
    assert register_with_paddleseg() is manager
    assert manager.BACKBONES["PPLCNet"] is PPLCNet

    class Theirs:
        pass

    monkeypatch.setitem(manager.BACKBONES.components_dict, "PPLCNet", Theirs)
    with pytest.raises(KeyError, match=r"already registered by .*Theirs"):
        register_with_paddleseg()


def test_unknown_keys_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Arch.backbone.scal: unknown key; did you mean 'scale'"):
        build_network(ArchSection(backbone={"name": "PPLCNet", "scal": 1.0}), 2, RATIOS)
    with pytest.raises(UserError, match="did you mean 'PPLCNet_x0_5'"):
        build_network(ArchSection(backbone={"name": "PPLCNet_x05"}), 2, RATIOS)
    for name in ("PPLCNet", "MobileNetV3_large"):
        with pytest.raises(UserError, match=r"Arch.backbone: scale must be a positive number, got 'big'"):
            build_network(ArchSection(backbone={"name": name, "scale": "big"}), 2, RATIOS)
    with pytest.raises(UserError, match=r"Loss.Train.0.DiceLoss.coef: expected a number, got True"):
        build_losses([{"DiceLoss": {"coef": True}}], "Loss.Train")
    with pytest.raises(UserError, match="did you mean 'output_stride'"):
        Segmentation(load_config("seg/my_masks", ["Arch.output_strid=8"]))


def test_wrong_values_are_met_before_any_work() -> None:
    with pytest.raises(UserError, match=r"Export.size: sides must be multiples of 32, got \[100, 64\]"):
        Segmentation(load_config("seg/demo", ["Export.size=[100, 64]"]))
    with pytest.raises(UserError, match=r"Loss.Trian: unknown split; did you mean 'Train'"):
        Segmentation(load_config("seg/demo", ["Loss.Trian=[]"]))


def test_cross_entropy_is_the_mean_over_the_pixels_that_count() -> None:
    rng = np.random.default_rng(0)
    logits = paddle.to_tensor(rng.standard_normal((2, 3, 8, 9)).astype("float32"))
    labels = rng.integers(0, 3, (2, 8, 9))
    labels[rng.random(labels.shape) < 0.3] = 255
    for weight in (None, [0.2, 1.0, 3.0]):
        options = {} if weight is None else {"weight": weight}
        ((_, _, loss),) = build_losses([{"CrossEntropyLoss": options}], "Loss.Train")
        scores = logits.numpy().transpose(0, 2, 3, 1)
        log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        kept = labels != 255
        w = np.array(weight or [1.0, 1.0, 1.0])[labels[kept]]
        expected = -(w * np.take_along_axis(log_p[kept], labels[kept][:, None], 1)[:, 0]).sum() / w.sum()
        assert float(loss(logits, paddle.to_tensor(labels))) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_gradient_and_ignores_ignored_pixels(name: str) -> None:
    logits = paddle.to_tensor(np.random.default_rng(1).standard_normal((2, 3, 16, 16)).astype("float32"))
    logits.stop_gradient = False
    labels = np.random.default_rng(2).integers(0, 3, (2, 16, 16))
    labels[:, :4] = 255
    ((_, _, loss),) = build_losses([{name: OPTIONS.get(name, {})}], "Loss.Train")
    value = loss(logits, paddle.to_tensor(labels))
    value.backward()
    gradient = logits.grad.numpy()
    assert np.isfinite(float(value))
    assert np.abs(gradient).sum() > 0
    assert not gradient[:, :, :4].any()


@pytest.mark.parametrize("name", mostly_slow(CONFIGS, 1))
def test_config_trains_a_step(name: str) -> None:
    config = load_config(name, ["Arch.class_num=19"])
    task = Segmentation(config)
    model = task.build_model()
    schedule = build_schedule(lr_of(config["Optimizer"]), 1, 4, 2, 4)
    optimizer = build_optimizer(config["Optimizer"], model, schedule)
    weight = model.backbone.parameters()[0]
    before = weight.numpy()
    labels = paddle.to_tensor(np.random.default_rng(0).integers(0, 19, (2, 64, 64)).astype("uint8"))
    step = task.step(model, [pictures(2, 64, 64), labels])
    step.losses["loss"].backward()
    optimizer.step()
    assert np.isfinite(float(step.losses["loss"]))
    assert not np.array_equal(before, weight.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seg/demo", "seg/my_masks", "seg/deeplabv3p_pplcnet_x0_5_cityscapes"])
def test_every_tap_of_aspp_is_trained_at_the_configs_crop(name: str) -> None:
    task = Segmentation(load_config(name, ["Arch.class_num=2"]))
    model = task.build_model()
    model.eval()
    model(pictures(1, *task.crop))[0].square().mean().backward()
    kernels = [p for n, p in model.named_parameters() if "aspp_blocks" in n and p.ndim == 4]
    assert len(kernels) > 4
    for kernel in kernels:
        assert kernel.grad.abs().sum([0, 1]).min() > 0


def test_rates_are_paddlesegs_at_its_crops_and_stay_with_a_run() -> None:
    assert [aspp_ratios((512, 1024), stride) for stride in (32, 16, 8)] == [
        (1, 3, 6, 9),
        (1, 6, 12, 18),
        (1, 12, 24, 36),
    ]
    assert aspp_ratios((32, 32), 32) == (1, 1, 1, 1)
    resolved = Segmentation(load_config("seg/demo", ["Arch.class_num=2"])).resolved()
    resolved["Global"]["image_shape"] = [3, 512, 512]
    assert Segmentation(resolved).aspp_ratios == (1, 2, 3, 4)


def test_table_5_has_a_config_for_each_row_that_expects_its_figure() -> None:
    expected = {round(load_config(n)["Expect"]["mIoU"]["value"] * 100, 2) for n in CONFIGS if "cityscapes" in n}
    assert expected == {row.miou for row in table(5).rows}


def test_polynomial_decay_ends_at_the_last_step() -> None:
    schedule = build_schedule({"name": "Linear", "learning_rate": 0.01, "power": 0.9}, 3, 4, 32, last_step=10)
    rates = []
    for _ in range(11):
        rates.append(schedule.lr())
        schedule.lr.step()
    assert rates == pytest.approx([0.01 * (1 - i / 10) ** 0.9 for i in range(11)])


def test_importing_paddleseg_leaves_numpy_as_it_was() -> None:
    before = np.get_printoptions()
    paddleseg("models")
    assert np.get_printoptions() == before
