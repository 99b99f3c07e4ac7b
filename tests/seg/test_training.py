"""Training end to end on generated scenes: it learns, resumes exactly, exports, and predicts the same classes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paddle import nn
from PIL import Image

from ppcls_ext.core.config import Config, load_config
from ppcls_ext.core.errors import CheckFailed
from ppcls_ext.core.images import find_images
from ppcls_ext.core.run_folder import RunFolder, read_log
from ppcls_ext.deploy.evaluate import evaluate
from ppcls_ext.deploy.export import export
from ppcls_ext.deploy.infer import Output, infer, open_exported
from ppcls_ext.deploy.weights import open_weights
from ppcls_ext.tasks.step import Step
from ppcls_ext.training.state import read_state
from ppcls_ext.training.trainer import Stopped, Trainer, train
from seg.demo import make_scenes
from seg.metrics import PixelConfusion
from seg.task import Segmentation
from tests.helpers.exports import checked_on
from tests.helpers.runs import assert_only_the_backbone_stayed, log_of, small_run, trained_alone_and_in_two

pytestmark = pytest.mark.slow

MIOU_REACHED = 0.7  # a run on shapes against background reaches more; a network that learned nothing has 0.45


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of 64 px whose shapes are all one class."""
    root = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 32), ("val", 8)):
        make_scenes(root, split, count, side=64)
    return root


def settings(data: Path, output: Path) -> list[str]:
    return [
        *small_run(data, output, 64),
        "Masks.values={0: 0, 1: 1, 2: 1, 3: 1, 4: 1}",
        "Arch.class_num=2",
        "Arch.backbone.scale=0.25",
        f"Masks.class_names={data / 'two.txt'}",
    ]


def small(data: Path, output: Path, *overrides: str) -> Config:
    return load_config("seg/demo", [*settings(data, output), *overrides])


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    (data / "two.txt").write_text("background\nshape\n")
    output = tmp_path_factory.mktemp("run")
    # A rate at which so few steps settle, and no average that lags behind them.
    settings = ["EMA=null", "Optimizer.lr.learning_rate=0.03", "Global.iters=60", "Global.eval_interval=100"]
    return train(small(data, output, *settings, "Global.print_batch_step=4"))


def test_training_reduces_the_loss_and_finds_shapes(run: RunFolder) -> None:
    events = read_log(run.path / "log.jsonl")
    losses = [e["loss"] for e in events if e["event"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    assert next(e for e in events if e["event"] == "eval")["mIoU"] > MIOU_REACHED
    assert run.labels.read_text() == "background\nshape\n"


def test_evaluation_repeats_what_training_measured(run: RunFolder, tmp_path: Path) -> None:
    measured = next(e for e in read_log(run.path / "log.jsonl") if e["event"] == "eval")
    metrics = evaluate(load_config(run.path), draw=tmp_path)
    assert metrics == pytest.approx({name: measured[name] for name in metrics}, abs=1e-9)
    assert len(list(tmp_path.glob("*_overlay.png"))) == 8
    assert (run.eval / "confusion.png").is_file()


def test_drawn_classes_are_those_that_were_counted(run: RunFolder, data: Path, tmp_path: Path) -> None:
    # Windows that do not fit the image, and an export of another size, which is nothing to evaluation.
    settings = ["Eval={mode: sliding, window: [40, 48], flip: true}", "Export.size=[32, 32]"]
    metrics = evaluate(load_config(run.path, settings), tmp_path / "report", draw=tmp_path / "drawn")
    drawn = PixelConfusion(2)
    for file in sorted((tmp_path / "drawn").glob("*_labels.png")):
        truth = np.array(Image.open(data / "masks/val" / f"{file.name.split('_')[1]}.png"))
        drawn.add(np.array(Image.open(file)), (truth > 0).astype(np.uint8))
    assert drawn.metrics() == metrics


def test_an_engine_measures_what_paddle_measures(run: RunFolder, tmp_path: Path) -> None:
    config = load_config(run.path, ["Eval={mode: sliding, window: [40, 48], flip: true}"])
    expected = evaluate(config, tmp_path)
    assert evaluate(config, tmp_path, engine="onednn") == pytest.approx(expected, abs=1e-3)


@pytest.fixture(scope="module")
def exported(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In all formats, checked on every engine, each in its process."""
    folder = tmp_path_factory.mktemp("exported") / "any_size"
    return export(load_config(run.path, [f"Global.save_inference_dir={folder}"]))


def test_the_exported_model_gives_the_classes_of_the_weights(
    run: RunFolder, exported: Path, data: Path, tmp_path: Path
) -> None:
    # The image is a part of the scene with the largest shapes, whose sides are no multiples of 32. It is padded to the
    # training size: at others so short a training is not reliable.
    masks = sorted((data / "masks/val").iterdir())
    largest = max(masks, key=lambda file: np.count_nonzero(np.array(Image.open(file))))
    Image.open(data / "images/val" / largest.name).crop((0, 0, 61, 53)).save(tmp_path / "odd.png")
    shown = []
    for name, opened in (
        ("onednn", open_exported(exported, {}, {"engine": "onednn", "threads": 1})),
        ("weights", open_weights(load_config(run.path), {})),
    ):
        infer([str(tmp_path / "odd.png")], opened, Output("json", tmp_path / f"{name}.json", tmp_path / name))
        labels = Image.open(tmp_path / name / "0001_odd_labels.png")
        assert labels.mode == "P"
        classes = np.array(labels)
        assert classes.shape == (53, 61)
        (result,) = json.loads((tmp_path / f"{name}.json").read_text())
        assert [a["pixels"] for a in result["areas"]] == [int((classes == k).sum()) for k in (0, 1)]
        assert np.array(Image.open(tmp_path / name / "0001_odd_overlay.png")).shape == (53, 61, 3)
        shown.append(classes)
    assert 0 < (shown[0] == 1).mean() < 1
    assert (shown[0] != shown[1]).mean() < 1e-3


def test_logits_of_a_fixed_size_export_give_the_same_kind_of_result(run: RunFolder, data: Path, tmp_path: Path) -> None:
    options = [f"Global.save_inference_dir={tmp_path / 'fixed'}", "Export={argmax: false, size: [64, 64], batch: 1}"]
    with checked_on("native"):
        folder = export(load_config(run.path, options), formats="json")
    results = tmp_path / "areas.csv"
    native = open_exported(folder, {}, {"engine": "native", "threads": 1})
    infer(find_images([str(data / "images/val")]), native, Output("csv", results))
    header, *rows = results.read_text().splitlines()
    assert header == "image,class,label,pixels,share,error"
    assert all(int(row.split(",")[3]) > 0 for row in rows)
    assert sum(float(row.split(",")[4]) for row in rows) == pytest.approx(8)


def test_an_export_with_other_logits_fails_though_its_classes_are_the_same(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def double_logits(deployed: nn.Layer, *_: object) -> None:
        classifier = deployed.network.head.decoder.conv
        for parameter in classifier.parameters():
            parameter.set_value(parameter * 2)

    monkeypatch.setattr("ppcls_ext.deploy.export.fold_batch_norm", double_logits)
    config = load_config(run.path, [f"Global.save_inference_dir={tmp_path / 'other'}", "Export.size=[64, 64]"])
    with checked_on("native"), pytest.raises(CheckFailed, match="json on native: differs from dygraph"):
        export(config, formats="json")
    assert not (tmp_path / "other").exists()


def test_resume_equals_an_uninterrupted_run(data: Path, run: RunFolder, tmp_path: Path) -> None:
    settings = ["Global.iters=6", "Global.eval_interval=100", "Global.print_batch_step=1"]
    straight = train(small(data, tmp_path / "straight", *settings))

    stopped = Trainer(Segmentation(small(data, tmp_path / "stopped", *settings)))
    stopped.start()
    take = stopped.task.step

    def interrupt_in_step_3(*arguments: Any) -> Step:  # step 3 is in the middle of the first epoch
        if stopped.position.total_steps == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return take(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopped.task, "step", interrupt_in_step_3)
        with pytest.raises(Stopped):
            stopped.fit()
    assert stopped.position.total_steps == 3
    stopped.folder.unlock()
    resumed = train(load_config(stopped.folder.path, [f"Global.checkpoints={stopped.folder.path}"]))

    ours, theirs = read_state(resumed.latest)[0], read_state(straight.latest)[0]
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].tobytes() == tensor.tobytes(), name


def test_options_of_training_work_here_too(run: RunFolder, data: Path, tmp_path: Path) -> None:
    """A frozen backbone, two batches a step, clipping, and an end when nothing gets better.

    Slow: a run for each option.
    """
    options = ["Global.freeze=[backbone]", "Global.update_freq=2", "Optimizer.clip_norm_global=5.0", "EMA=null"]
    options += ["Global.epochs=9", "Global.early_stop=1", "Optimizer.lr=1e-9", f"Global.pretrained_model={run.latest}"]
    tuned = train(small(data, tmp_path, *options))
    assert len([e for e in read_log(tuned.path / "log.jsonl") if e["event"] == "eval"]) < 9
    assert_only_the_backbone_stayed(run.latest, tuned.latest)


def test_two_processes_train_and_measure_as_one(run: RunFolder, data: Path, tmp_path: Path) -> None:
    """From weights that find something, with an odd number of images in the last batch.

    With its norms fixed the network is steep: at ten times this rate a difference of 1e-7 grows to 1e-3 in three steps.
    """
    changes = [*settings(data, tmp_path), f"Global.pretrained_model={run.best}", "EMA=null", "Optimizer.lr=0.0001"]
    two = trained_alone_and_in_two("seg/demo", tmp_path, [*changes, "Global.iters=3"], 14)
    (measured,) = log_of(two, "eval")
    assert measured["mIoU"] > MIOU_REACHED
