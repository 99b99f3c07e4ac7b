"""Evaluation: exact counts for any batch, files, and the promise of `Expect`."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, top_k_accuracy_score

from ppcls_ext.cls.metrics import Confusion, write_report
from ppcls_ext.core.bounds import MOST_CLASSES
from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.expect import verify
from ppcls_ext.deploy import evaluate as evaluation
from ppcls_ext.deploy.evaluate import evaluate
from ppcls_ext.tasks.eval_report import read_per_class, write_metrics
from tests.helpers.configs import overrides

Fails = Callable[..., str]


@pytest.mark.parametrize("batch", [1, 7, 64, 100])
def test_metrics_equal_scikit_learns(batch: int) -> None:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((100, 9)).astype(np.float32)
    labels = np.concatenate([np.arange(9), rng.integers(0, 9, 91)])
    logits[np.arange(100), labels] += rng.integers(0, 3, 100)
    counted = Confusion(9)
    for start in range(0, 100, batch):
        counted.add(logits[start : start + batch], labels[start : start + batch])
    predicted = logits.argmax(1)
    np.testing.assert_array_equal(counted.matrix(), confusion_matrix(labels, predicted))
    assert counted.metrics()["top1"] == (predicted == labels).mean()
    assert counted.metrics()["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    wide = logits.astype(np.float64)
    log_softmax = wide - np.log(np.exp(wide).sum(1, keepdims=True))
    assert counted.metrics()["loss"] == pytest.approx(-log_softmax[np.arange(100), labels].mean())
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, zero_division=0)
    for k, row in enumerate(counted.per_class()):
        assert row == pytest.approx((support[k], (predicted == k).sum(), recall[k], precision[k], f1[k]))


def test_a_hundred_thousand_classes_take_little_memory(tmp_path: Path) -> None:
    """Their matrix would have 10,000 million cells."""
    counted = Confusion(MOST_CLASSES)
    logits = np.zeros((3, MOST_CLASSES), np.float32)
    logits[[0, 1, 2], [7, 99_999, 7]] = 1
    counted.add(logits, np.array([7, 5, 5]))
    counted = Confusion.total([counted, counted])
    assert counted.metrics()["top1"] == pytest.approx(1 / 3)
    assert counted.per_class()[5] == (4, 0, 0.0, 0.0, 0.0)
    assert counted.per_class()[7] == (2, 4, 1.0, 0.5, pytest.approx(2 / 3))
    write_report(tmp_path, counted, [f"class {k}" for k in range(MOST_CLASSES)])
    lines = (tmp_path / "confusion.csv").read_text().splitlines()
    assert lines == [
        "true,predicted,images", "class 5,class 7,2", "class 5,class 99999,2", "class 7,class 7,2"
    ]  # fmt: skip
    assert not (tmp_path / "confusion.png").exists()


def test_top5_is_left_out_where_it_means_nothing() -> None:
    counted = Confusion(5)
    counted.add(np.eye(5, dtype=np.float32), np.arange(5))
    assert set(counted.metrics()) == {"top1", "loss"}


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4, 15, 64])
def test_any_batch_size_gives_the_same_result(batch: int, trained: Path, tmp_path: Path) -> None:
    metrics = evaluate(load_config(trained, [f"DataLoader.Eval.sampler.batch_size={batch}"]), tmp_path)
    reference = json.loads((trained / "eval" / "metrics.json").read_text())
    assert json.loads((tmp_path / "metrics.json").read_text())["images"] == 15
    best = evaluate(load_config(trained), tmp_path)
    assert metrics["top1"] == best["top1"]
    assert metrics["loss"] == pytest.approx(best["loss"], rel=1e-4)
    assert reference["images"] == 15


@pytest.mark.slow
def test_an_engine_measures_what_paddle_measures(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slow: the network is exported and opened."""
    expected = evaluate(load_config(trained), tmp_path)
    assert "runs on" not in capsys.readouterr().err  # so small a set does not win back what opening takes
    monkeypatch.setattr(evaluation, "ENGINE_PAYS", 15)
    metrics = evaluate(load_config(trained), tmp_path)
    assert "eval: runs on onednn (largest difference from Paddle " in capsys.readouterr().err
    assert metrics["top1"] == expected["top1"]
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("onedn", "engine 'onedn' is unknown; did you mean 'onednn'"),
        ("auto", "engine 'auto' is unknown; known: first, native, onednn"),
        ("openvino-int8", "engine openvino-int8 rounds numbers, which are to be Paddle's here"),
    ],
)
def test_a_wrong_engine_is_refused_before_anything_is_read(engine: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(load_config("my_images"), engine=engine)


@pytest.mark.slow
def test_report_files_agree(trained: Path) -> None:
    rows = list(csv.reader((trained / "eval" / "confusion.csv").open()))
    matrix = np.array([row[1:] for row in rows[1:]], int)
    metrics = json.loads((trained / "eval" / "metrics.json").read_text())
    assert rows[0][1:] == ["blue", "green", "red"]
    assert matrix.sum() == metrics["images"] == 15
    assert np.trace(matrix) / 15 == metrics["top1"]


@pytest.mark.slow
def test_expect_is_checked_where_it_applies(trained: Path, fails: Fails) -> None:
    wrong = overrides("Expect={images: 15, top1: {value: 0.2, tolerance: 0.01}}")
    message = fails("eval", "-c", trained, *wrong, status=1, lines=None)
    assert "expected 0.2 +- 0.01" in message


def test_expect_of_another_split_is_not_compared() -> None:
    section = {"images": 50000, "top1": {"value": 0.7, "tolerance": 0.01}}
    assert "not compared" in verify(section, {"top1": 0.1}, 15)[0]
    assert "measured 0.7050" in verify(section, {"top1": 0.705}, 50000)[0]
    with pytest.raises(CheckFailed, match=r"measured 0\.7200"):
        verify(section, {"top1": 0.72}, 50000)
    with pytest.raises(CheckFailed, match="top5: it has no value on this split, which has top1"):
        verify({"top5": {"value": 1, "tolerance": 0}}, {"top1": 1.0}, 1)


def test_weights_are_asked_for(fails: Fails, images: Path) -> None:
    message = fails("eval", "-c", "my_images", *overrides(f"Global.data_root={images}"))
    assert "eval needs weights" in message


def test_the_report_reads_back_what_it_wrote(tmp_path: Path) -> None:
    rows = [("7", 3, 0.25), ("nowhere", 0, float("nan"))]
    write_metrics(tmp_path, 3, {"top1": 0.5}, ("class", "images", "IoU"), rows)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"images": 3, "top1": 0.5}
    columns, (first, second) = read_per_class(tmp_path)
    assert columns == ["class", "images", "IoU"]
    assert first == ["7", 3, 0.25]
    assert second[:2] == ["nowhere", 0]
    assert math.isnan(second[2])
    assert (tmp_path / "per_class.csv").read_text().splitlines()[2] == "nowhere,0,-"
