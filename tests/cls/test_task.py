"""`ppcls_ext.cls.task`: what losses make of labels that are smoothed or mixed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_ext.cls.network import build_losses
from ppcls_ext.cls.task import Classification
from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.seeding import seed_all
from ppcls_ext.models.factory import build_arch
from ppcls_ext.models.weights import numpy_state, save_weights
from ppcls_ext.paper.tables import table
from tests.helpers.configs import config_of, write_config

MIX = "DataLoader.Train.dataset.batch_transform_ops=[{%s: {alpha: 0.4}}]"


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("epsilon", [None, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_takes_labels_hard_soft_and_smoothed(epsilon: float | None, soft: bool) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4, 5)).astype(np.float32)
    hard = np.array([[0], [3], [1], [4]])
    target = np.eye(5, dtype=np.float32)[hard[:, 0]]
    if soft:
        target = 0.7 * target + 0.3 * target[::-1]
    ((weight, loss),) = build_losses([{"CELoss": {"weight": 1.0, "epsilon": epsilon}}], "Loss.Train")
    value = weight * float(loss(paddle.to_tensor(logits), paddle.to_tensor(target if soft else hard))["CELoss"])
    smooth = target * (1 - (epsilon or 0)) + (epsilon or 0) / 5
    assert value == pytest.approx(float(-(smooth * log_softmax(logits)).sum(-1).mean()), rel=1e-5)


def test_a_smoothing_that_paddleclas_would_ignore_is_refused() -> None:
    with pytest.raises(UserError, match=r"Loss\.Train\.0\.CELoss\.epsilon: expected 0 to below 1, got 2"):
        build_losses([{"CELoss": {"epsilon": 2}}], "Loss.Train")


def task_of(data: Path, tmp_path: Path, *overrides: str) -> Classification:
    return Classification(load_config(write_config(tmp_path / "run.yaml", config_of(data, tmp_path)), overrides))


@pytest.mark.parametrize("name", ["MixupOperator", "CutmixOperator"])
def test_a_mixed_batch_is_the_plain_one_mixed_with_itself(name: str, data: Path, tmp_path: Path) -> None:
    loaders = [task_of(data, tmp_path, *o).train_loader() for o in ([], [MIX % name])]
    for epoch in (0, 1):
        (plain, labels), (mixed, targets) = (next(loader.epoch(epoch)) for loader in loaders)
        assert (mixed.dtype, targets.dtype) == (paddle.float32, paddle.float32)
        assert tuple(targets.shape) == (8, 3)
        np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
        own = np.take_along_axis(targets.numpy(), labels.numpy(), 1).min()  # the share of the image's own label
        assert own < 1
        same = np.isclose(mixed.numpy(), plain.numpy()).mean()
        assert same < 1 if name == "MixupOperator" else same == pytest.approx(own, abs=0.35)
        again = next(loaders[1].epoch(epoch))
        np.testing.assert_array_equal(again[0], mixed)  # a function of (seed, epoch, batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MixupOperator", "CutmixOperator"])
def test_a_network_learns_from_a_mixed_batch(name: str, data: Path, tmp_path: Path) -> None:
    """The loss comes near the least that a mixed target allows, which is its entropy."""
    task = task_of(data, tmp_path, MIX % name, "Global.image_shape=[3,32,32]", "Arch.dropout_prob=0.0")
    batch = next(task.train_loader().epoch(0))
    targets = batch[1].numpy()
    least = float(-(targets * np.log(np.maximum(targets, 1e-12))).sum(-1).mean())
    seed_all(0)
    model = task.build_model()
    optimizer = paddle.optimizer.Adam(0.003, parameters=model.parameters())
    losses = []
    for _ in range(20):
        step = task.step(model, batch)
        step.losses["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(step.losses["loss"]))
        assert "top1" not in step.stats  # an image of two classes has no right one
    assert losses[-1] - least < 0.5 * (losses[0] - least)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({row.arch for number in (2, 3) for row in table(number).rows}))
def test_public_weights_fit_every_network_and_keep_all_but_its_head_for_other_classes(
    name: str, tmp_path: Path
) -> None:
    public = numpy_state(build_arch({"name": name}, 1000))
    file = tmp_path / f"{name}_pretrained.pdparams"
    save_weights(file, public)

    whole = Classification(load_config(name))
    model = whole.build_model()
    assert whole.load_trained(model, str(file)) == [f"weights from {file}"]
    assert all(np.array_equal(value, public[n]) for n, value in numpy_state(model).items())

    other = Classification(load_config(name, ["Arch.class_num=5"]))
    with pytest.raises(
        UserError, match=r"\[\d+, 1000\] in the file, \[\d+, 5\] in the model\); .*new_head=True"
    ) as error:
        other.load_pretrained(other.build_model(), str(file))
    assert "\n" not in str(error.value)

    tuned = Classification(load_config(name, ["Arch.class_num=5", "Global.new_head=True"]))
    model = tuned.build_model()
    assert "new head: " in tuned.load_pretrained(model, str(file))[0]
    kept = [n for n, value in numpy_state(model).items() if np.array_equal(value, public[n])]
    assert len(kept) == len(public) - 2


def test_a_file_of_another_task_is_refused_in_one_line(tmp_path: Path) -> None:
    trunk = numpy_state(build_arch({"name": "PPLCNet_x0_25"}, 5))
    save_weights(tmp_path / "w.pdparams", {f"backbone.{name}": value for name, value in trunk.items()})
    task = Classification(load_config("PPLCNet_x0_25", ["Arch.class_num=5", "Global.new_head=True"]))
    with pytest.raises(UserError, match=r"'conv1.conv.weight': absent in the file.*same network") as error:
        task.load_pretrained(task.build_model(), str(tmp_path / "w.pdparams"))
    assert "\n" not in str(error.value)


def test_one_class_is_nothing_to_train(images: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for folder in sorted((images / split).iterdir())[1:]:
            shutil.rmtree(folder)
    task = Classification(load_config(write_config(tmp_path / "c.yaml", config_of(images, tmp_path / "out"))))
    with pytest.raises(UserError, match="there is one class, so there is nothing to tell apart"):
        task.train_loader()
    assert any("has one class" in text for text in task.check_data().errors)


def test_a_class_folder_whose_name_no_line_holds(images: Path, tmp_path: Path) -> None:
    folder = sorted((images / "train").iterdir())[0]
    folder.rename(folder.with_name("a\nb"))
    task = Classification(load_config(write_config(tmp_path / "c.yaml", config_of(images, tmp_path / "out"))))
    with pytest.raises(UserError, match="its name has a line break or another control character"):
        task.train_loader()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["DataLoader.Eval.loader.decode=scaled"], "scaled is for training; evaluation decodes in full"),
        (["DataLoader.Train.loader.cache=true"], "scaled decodes another part in every epoch, so nothing can be kept"),
        (
            ["DataLoader.Train.dataset.transform_ops=[{ResizeImage: {size: auto}}]"],
            "scaled needs RandCropImage as the first operation",
        ),
    ],
)
def test_scaled_decoding_is_refused_where_it_means_nothing(given: list[str], message: str, data: Path) -> None:
    settings = [f"Global.data_root={data}", "DataLoader.Train.loader.decode=scaled", *given]
    task = Classification(load_config("my_images", settings))
    with pytest.raises(UserError, match=message):
        (task.train_loader(), task.eval_loader())


def test_scaled_decoding_keeps_what_is_small_as_it_is(data: Path) -> None:
    settings = ["DataLoader.Train.loader.num_workers=0", "DataLoader.Train.sampler.batch_size=4"]
    exact, scaled = (
        Classification(load_config("my_images", [f"Global.data_root={data}", *settings, decode])).train_loader()
        for decode in ("DataLoader.Train.loader.decode=exact", "DataLoader.Train.loader.decode=scaled")
    )
    for ours, theirs in zip(scaled.epoch(), exact.epoch(), strict=True):
        np.testing.assert_array_equal(ours[0].numpy(), theirs[0].numpy())
