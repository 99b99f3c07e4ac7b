"""Every classification config on disk is understood in full, and trains a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_ext.cls.task import Classification
from ppcls_ext.core.config import load_config, shipped_configs
from ppcls_ext.models.factory import build_arch
from ppcls_ext.models.weights import numpy_state, save_weights
from ppcls_ext.paper.tables import Row, table
from ppcls_ext.training.distillation import DistillSection
from ppcls_ext.training.optimizers import build_optimizer, build_schedule, lr_of
from tests.helpers.processes import ROOT
from tests.helpers.sets import write_set

NAMES = [name for name, file in shipped_configs().items() if file.parent.name == "configs"]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images as ImageNet-style lists and as class folders."""
    root = write_set(tmp_path_factory.mktemp("configs") / "images", train=2, val=1)
    for split in ("train", "val"):
        files = sorted((root / split).rglob("*.png"))
        (root / f"{split}_list.txt").write_text(
            "".join(f"{f.relative_to(root)} {i % 3}\n" for i, f in enumerate(files))
        )
    return root


def test_the_eight_scales_and_the_networks_of_table_3_have_configs() -> None:
    wanted = {row.arch for number in (2, 3) for row in table(number).rows}
    assert wanted <= set(NAMES)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights of the teacher of the SSLD configs."""
    path = tmp_path_factory.mktemp("teacher") / "ResNet50_vd.pdparams"
    save_weights(path, numpy_state(build_arch({"name": "ResNet50_vd"}, 1000)))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_config_trains_a_step(name: str, lists: Path, teacher: Path) -> None:
    small = ["Global.image_shape=[3,64,64]", "DataLoader.Train.sampler.batch_size=2", f"Global.data_root={lists}"]
    small += ["DataLoader.Train.loader.num_workers=0", "DataLoader.Eval.loader.num_workers=0"]
    if name not in ("my_images", "demo"):
        for split in ("Train", "Eval"):
            small.append(f"DataLoader.{split}.dataset.image_root=.")
            small.append(f"DataLoader.{split}.dataset.cls_label_path={SPLIT_LISTS[split]}")
    if "_ssld" in name:
        small += [f"Distill.teacher.pretrained={teacher}", "Distill.engine=paddle"]
        small += ["Optimizer.lr.learning_rate=0.4"]  # a fine-tune has little
    config = load_config(f"configs/{name}.yaml", small)
    task = Classification(config)
    loader = task.train_loader()
    model = task.build_model()
    schedule = build_schedule(lr_of(config["Optimizer"]), 360, len(loader), 2)
    optimizer = build_optimizer(config["Optimizer"], model, schedule)
    before = {n: p.numpy().copy() for n, p in model.named_parameters()}
    model.train()
    for _ in range(2):  # a warm-up may start at a rate of 0
        schedule.lr.step()
    step = task.step(model, next(loader.epoch()))
    step.losses["loss"].backward()
    optimizer.step()
    assert np.isfinite(float(step.losses["loss"]))
    changed = [n for n, p in model.named_parameters() if not np.array_equal(before[n], p.numpy())]
    assert len(changed) > 0.9 * len(before)
    assert task.preprocessing()
    images, labels = next(task.eval_loader().epoch())
    assert tuple(images.shape[1:]) == (3, 64, 64)
    assert labels.dtype == paddle.int64


SPLIT_LISTS = {"Train": "train_list.txt", "Eval": "val_list.txt"}


@pytest.mark.parametrize("file", sorted(shipped_configs().values()), ids=lambda f: f.name)
def test_config_opens_with_its_command_and_result(file: Path) -> None:
    text = file.read_text()
    comment = text[: text.index("_base_:")]
    assert file.relative_to(ROOT).as_posix() in comment
    assert "Cost" in comment or "cost" in comment or file.stem.startswith("my_")
    assert "Expected" in comment or file.stem.startswith("my_")


@pytest.mark.parametrize("row", [r for n in (2, 3) for r in table(n).rows], ids=lambda r: r.label)
def test_expected_accuracy_is_the_papers(row: Row) -> None:
    names = [f"{row.arch}_ssld", f"{row.arch}_ssld_finetune"] if row.distilled else [row.arch]
    for name in names:
        expect = load_config(f"configs/{name}.yaml")["Expect"]
        assert expect["images"] == 50000
        for metric in ("top1", "top5"):
            assert expect[metric]["value"] == pytest.approx(getattr(row, metric) / 100, abs=1e-9)


@pytest.mark.parametrize("row", [r for r in table(2).rows if r.distilled], ids=lambda r: r.label)
def test_distillation_uses_no_label_and_evaluates_on_the_validation_list(row: Row) -> None:
    for name in (f"{row.arch}_ssld", f"{row.arch}_ssld_finetune"):
        config = load_config(f"configs/{name}.yaml")
        assert Classification(config).distillation.section == DistillSection(teacher=config["Distill"]["teacher"])
        assert config["DataLoader"]["Eval"]["dataset"]["cls_label_path"].endswith("/val_list.txt")
