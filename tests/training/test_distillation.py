"""Distillation: the divergences, the cache, images without labels, exact resume, and what is refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_ext.cls.splits import UNLABELLED
from ppcls_ext.cls.task import Classification
from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.weights import numpy_state, read_weights, save_weights
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.training.distillation import DIVERGENCES, DistillSection, digest_of_paths
from ppcls_ext.training.trainer import Stopped, train
from tests.helpers.configs import config_of, write_config
from tests.helpers.runs import assert_same_run, log_of

pytestmark = pytest.mark.slow

Fails = Callable[..., str]


def student(path: Path, data: Path, teacher: Any, *, epochs: int = 3, **distill: Any) -> Path:
    """A config that distils from `teacher`, written to `path`; its run goes to `path`'s folder.

    On `few`, an epoch has 5 steps, the last of them half full. To prepare another engine takes longer than such a run.
    """
    config = config_of(data, path.parent / "output")
    config["Global"] |= {"epochs": epochs, "image_shape": [3, 32, 32], "seed": 3}
    config["Distill"] = {"teacher": str(teacher) if isinstance(teacher, Path) else teacher, "engine": "paddle"}
    config["Distill"] |= distill
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_config(path, config)


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(-1)


def test_earlier_configs_call_the_first_engine_auto() -> None:
    assert DistillSection(teacher="run", engine="auto") == DistillSection(teacher="run")


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_divergences_are_their_formulas(name: str) -> None:
    rng = np.random.default_rng(0)
    student_logits, teacher_logits = (3 * rng.standard_normal((6, 5)) for _ in range(2))
    p, q = softmax(student_logits), softmax(teacher_logits)
    m = (p + q) / 2
    expected = {"symmetric_kl": (kl(p, q) + kl(q, p)) / 2, "js": (kl(p, m) + kl(q, m)) / 2}[name].mean()
    ours = DIVERGENCES[name](paddle.to_tensor(student_logits), paddle.to_tensor(teacher_logits))
    assert float(ours) == pytest.approx(expected, rel=1e-6)
    assert float(DIVERGENCES[name](*[paddle.to_tensor(teacher_logits)] * 2)) == pytest.approx(0, abs=1e-12)


def test_a_student_learns_from_the_teacher_without_a_label(trained: Path, data: Path, tmp_path: Path) -> None:
    """The training list has only paths, and class names are not those of folders."""
    files = sorted((data / "train").rglob("*.png"))
    (tmp_path / "paths.txt").write_text("".join(f"{f.relative_to(data)}\n" for f in files))
    path = student(tmp_path / "run.yaml", data, trained, epochs=6, engine="first")
    unlabelled = ["Arch.class_num=3", "Infer.PostProcess.class_id_map_file=" + str(trained / "labels.txt")]
    unlabelled += [f"DataLoader.Train.dataset.{k}={v}" for k, v in LIST.items()]
    unlabelled += [f"DataLoader.Train.dataset.cls_label_path={tmp_path / 'paths.txt'}"]
    config = load_config(path, unlabelled)
    task = make_task(config)
    assert set(task.data.train_split.labels) == {UNLABELLED}  # type: ignore[attr-defined]
    run = train(config).path
    first, last = log_of(run, "train")[0], log_of(run, "train")[-1]
    assert "top1" not in last
    assert last["loss"] < 0.5 * first["loss"]
    assert last["as_teacher"] > 1 / 3
    assert "top1" in log_of(run, "eval")[-1]  # evaluation has its labels


LIST = {"name": "ImageNetDataset", "image_root": "."}


def test_a_label_is_needed_where_the_ground_truth_counts(trained: Path, few: Path, tmp_path: Path) -> None:
    (tmp_path / "paths.txt").write_text("train/red/00.png\n")
    overrides = [f"DataLoader.Train.dataset.{k}={v}" for k, v in LIST.items()]
    overrides += [f"DataLoader.Train.dataset.cls_label_path={tmp_path / 'paths.txt'}"]
    config = load_config(student(tmp_path / "run.yaml", few, trained, ground_truth=0.5), overrides)
    with pytest.raises(UserError, match=r"paths\.txt, line 1: expected 'path label'"):
        train(config)
    config = load_config(student(tmp_path / "run.yaml", few, trained), overrides)
    with pytest.raises(UserError, match="no line has a label, so the classes are unknown"):
        train(config)


def step_losses(config: Path, *overrides: str) -> dict[str, float]:
    task = make_task(load_config(config, overrides))
    loader = task.train_loader()
    paddle.seed(0)
    model = task.build_model()
    model.eval()
    task.prepare()
    return {n: float(v) for n, v in task.step(model, next(loader.epoch())).losses.items()}


def test_the_ground_truth_term_is_weighted_and_off_by_default(trained: Path, few: Path, tmp_path: Path) -> None:
    path = student(tmp_path / "run.yaml", few, trained)
    soft = step_losses(path)
    assert set(soft) == {"DistillLoss", "loss"}
    both = step_losses(path, "Distill.ground_truth=0.25", "Distill.weight=2.0")
    assert both["DistillLoss"] == pytest.approx(2 * soft["DistillLoss"])
    one = step_losses(path, "Distill.ground_truth=1.0")
    assert both["CELoss"] == pytest.approx(0.25 * one["CELoss"])
    assert both["loss"] == pytest.approx(both["DistillLoss"] + both["CELoss"])


@pytest.fixture(scope="module")
def cached(trained: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A student's run that has filled a cache of two epochs, and the cache."""
    folder = tmp_path_factory.mktemp("cached")
    path = student(folder / "run.yaml", few, trained, cache=str(folder / "cache"), cache_epochs=2)
    return train(load_config(path)).path, folder / "cache"


def test_a_hit_in_the_cache_is_the_teachers_output(cached: tuple[Path, Path], trained: Path) -> None:
    run, folder = cached
    task, direct = make_task(load_config(run)), make_task(load_config(run, ["Distill.cache=null"]))
    assert isinstance(task, Classification)
    model = task.build_model()
    model.eval()
    assert np.load(folder / "logits.npy", mmap_mode="r").dtype == np.float16
    for epoch in (0, 1, 2):  # the third epoch repeats the first
        images, labels, places = next(task.train_loader().epoch(epoch))
        for number in range(len(images)):
            part = slice(number, number + 1)
            hit = task.step(model, [images[part], labels[part], places[part]])
            asked = direct.step(model, [images[part], labels[part]])
            assert float(hit.losses["DistillLoss"]) == pytest.approx(float(asked.losses["DistillLoss"]), rel=1e-2)
    first = dict(zip(*crops(task, 0), strict=True))
    again = dict(zip(*crops(task, 2), strict=True))
    other = dict(zip(*crops(task, 1), strict=True))
    assert first == again
    assert first != other


def crops(task: Classification, epoch: int) -> tuple[list[int], list[bytes]]:
    """Index and content of an epoch's images."""
    batches = [(images, places) for images, _, places in task.train_loader().epoch(epoch)]
    return (
        [int(i) for _, places in batches for i in places[:, 1]],
        [image.tobytes() for images, _ in batches for image in images.numpy()],
    )


def test_students_of_other_seeds_share_a_cache_and_do_not_run_the_teacher(
    cached: tuple[Path, Path], few: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = cached
    before = (folder / "logits.npy").read_bytes()
    monkeypatch.setattr("ppcls_ext.training.distillation.Teacher.logits", lambda *_: pytest.fail("the teacher was run"))
    path = student(tmp_path / "run.yaml", few, trained, epochs=2, cache=str(folder), cache_epochs=2)
    train(load_config(path, ["Global.seed=4", "Arch.name=PPLCNet_x0_35"]))
    assert (folder / "logits.npy").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("Distill.crop_seed=1", "crop_seed"),
        ("Distill.cache_epochs=3", "shape"),
        ("Global.image_shape=[3,64,64]", "transforms"),
    ],
)
def test_a_cache_of_something_else_is_refused(
    change: str, named: str, cached: tuple[Path, Path], few: Path, trained: Path, tmp_path: Path
) -> None:
    path = student(tmp_path / "run.yaml", few, trained, cache=str(cached[1]), cache_epochs=2)
    with pytest.raises(UserError, match=rf"cache.* made with another {named}.*another folder"):
        train(load_config(path, [change]))


def test_a_cache_that_cannot_be_written_is_one_line(trained: Path, few: Path, tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "file").touch()
    config = student(tmp_path / "run.yaml", few, str(trained), cache=str(tmp_path / "file"))
    assert "Distill.cache" in fails("train", "-c", config, lines=None)


def test_mixed_batches_cannot_be_cached(cached: tuple[Path, Path], few: Path, trained: Path, tmp_path: Path) -> None:
    path = student(tmp_path / "run.yaml", few, trained, cache=str(cached[1]), cache_epochs=2)
    with pytest.raises(UserError, match="mixed batches"):
        train(load_config(path, ["DataLoader.Train.dataset.batch_transform_ops=[{MixupOperator: {alpha: 0.2}}]"]))


def test_a_cache_goes_on_where_it_was_stopped(
    cached: tuple[Path, Path], few: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = student(tmp_path / "run.yaml", few, trained, cache=str(tmp_path / "cache"), cache_epochs=2)
    from ppcls_ext.training.distillation import Teacher

    logits, calls = Teacher.logits, 0

    def counted(self: Teacher, images: paddle.Tensor) -> paddle.Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:  # there are 2 x 5 batches
            raise KeyboardInterrupt
        return logits(self, images)

    monkeypatch.setattr(Teacher, "logits", counted)
    with pytest.raises(KeyboardInterrupt):
        train(load_config(path))
    assert json.loads((tmp_path / "cache" / "key.json").read_text())["done"] == 36 + 2 * 8
    train(load_config(path))
    assert calls == 8 + 3  # nothing twice
    assert (tmp_path / "cache" / "logits.npy").read_bytes() == (cached[1] / "logits.npy").read_bytes()


@pytest.mark.parametrize("with_cache", [False, True])
def test_a_stopped_student_resumes_exactly(
    with_cache: bool, few: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (
        {"cache": str(tmp_path / "cache"), "cache_epochs": 2}
        if with_cache
        else {"ground_truth": 0.5, "engine": "first"}
    )
    whole = train(load_config(student(tmp_path / "whole" / "run.yaml", few, trained, **settings))).path
    taken, take = 0, Classification.step

    def stop_in(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Classification, "step", stop_in)
        with pytest.raises(Stopped):
            train(load_config(student(tmp_path / "run.yaml", few, trained, **settings)))
    run = tmp_path / "output" / "run"
    train(load_config(run, [f"Global.checkpoints={run}"]))
    assert_same_run(run, whole)
    assert not any("teacher" in name for name in read_weights(run / "latest.safetensors"))


def test_resuming_with_another_teacher_is_refused(few: Path, trained: Path, tmp_path: Path) -> None:
    run = train(load_config(student(tmp_path / "run.yaml", few, trained, epochs=2))).path
    weights = read_weights(trained / "best")
    weights["fc.bias"] = weights["fc.bias"] + 1
    save_weights(tmp_path / "other.pdparams", weights)
    teacher = f"Distill.teacher={{name: PPLCNet_x0_25, pretrained: {tmp_path / 'other.pdparams'}}}"
    with pytest.raises(UserError, match="saved with distillation"):
        train(load_config(run, [f"Global.checkpoints={run}", teacher]))


def test_any_network_of_paddleclas_teaches(few: Path, tmp_path: Path) -> None:
    from ppcls_ext.models.factory import build_arch

    save_weights(tmp_path / "teacher.pdparams", numpy_state(build_arch({"name": "ResNet18_vd"}, 3)))
    teacher = {"name": "ResNet18_vd", "pretrained": str(tmp_path / "teacher")}
    run = train(
        load_config(student(tmp_path / "run.yaml", few, teacher, epochs=2, engine="first"), ["Global.iters=7"])
    ).path
    assert np.isfinite(log_of(run, "train")[-1]["loss"])
    train(load_config(run, [f"Global.checkpoints={run}"]))  # the run's config has the absolute path


def test_a_teacher_of_other_classes_is_one_line(trained: Path, few: Path, tmp_path: Path, fails: Fails) -> None:
    weights = read_weights(trained / "best")
    wider = {"fc.weight": np.zeros((1280, 7), "float32"), "fc.bias": np.zeros(7, "float32")}
    save_weights(tmp_path / "wide.pdparams", {**weights, **wider})
    teacher = {"name": "PPLCNet_x0_25", "pretrained": str(tmp_path / "wide")}
    message = fails("train", "-c", student(tmp_path / "run.yaml", few, teacher), lines=None)
    assert "it has 7 classes, the student 3" in message
    teacher = {"name": "PPLCNet_x0_5", "pretrained": str(trained / "best.pdparams")}
    message = fails("train", "-c", student(tmp_path / "run.yaml", few, teacher), lines=None)
    assert "Distill.teacher" in message
    assert "PPLCNet 0.25x with 3 classes, but the model is PPLCNet 0.5x" in message


@pytest.mark.parametrize(
    ("teacher", "clue"),
    [
        ("nowhere", "not a run folder"),
        ({"name": "PPLCNet_x1_0"}, "Distill.teacher.pretrained"),
        ({"name": "PPLCNet_x1_0", "pretrained": True}, "Distill.teacher.pretrained"),
        ({"name": "PPLCNet_x1_0", "pretrained": "nowhere"}, "no such file"),
        ({"pretrained": "nowhere"}, "Distill.teacher.name is missing"),
    ],
)
def test_a_teacher_that_is_not_there_is_one_line(
    teacher: Any, clue: str, few: Path, tmp_path: Path, fails: Fails
) -> None:
    message = fails("train", "-c", student(tmp_path / "run.yaml", few, teacher), lines=None)
    assert clue in message
    assert not (tmp_path / "output").exists()


def test_a_digest_takes_names_that_are_not_utf8() -> None:
    names = [f"/a/{name}.png" for name in ("caf\udce9", "café", "b")]
    assert len({digest_of_paths([name, "/a/c.png"]) for name in names}) == 3
