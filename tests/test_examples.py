"""The programs of docs/examples run, and find what the Predictor finds."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_ext import Predictor
from ppcls_ext.runtime.engines import engine_class
from tests.helpers.processes import ROOT, SECONDS

pytestmark = pytest.mark.slow  # each export is checked in processes of its own

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (90, 110, 3), np.uint8))
    return path


def run_example(name: str, *arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_classify(
    exports: dict[str, Path],
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = exports["classification"]
    capsys.readouterr()
    run_example("classify.py", folder, photo, tmp_path / "nothing.png", photo, monkeypatch=monkeypatch)
    out, err = capsys.readouterr()
    with Predictor(folder, topk=3) as predict:
        best = predict(photo)
    expected = ", ".join(f"{label} {score:.3f}" for label, score in zip(best.labels, best.scores, strict=True))
    assert out.splitlines() == [f"{photo} {expected}"] * 2
    assert "nothing.png: No such file" in err


def test_detect(
    exports: dict[str, Path],
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = exports["detection"]
    text = (EXAMPLES / "detect.py").read_text()
    assert "threshold=0.4" in text
    example = tmp_path / "detect.py"
    example.write_text(text.replace("threshold=0.4", "threshold=0.0"))  # what an untrained network finds too
    capsys.readouterr()
    run_example(str(example), folder, photo, tmp_path / "boxes.png", monkeypatch=monkeypatch)
    with Predictor(folder) as predict:
        boxes = predict(photo).boxes
    assert len(capsys.readouterr().out.splitlines()) == len(boxes) > 0
    assert cv2.imread(str(tmp_path / "boxes.png")).shape == (90, 110, 3)


def test_segment(
    exports: dict[str, Path],
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = exports["segmentation"]
    capsys.readouterr()
    run_example("segment.py", folder, photo, tmp_path / "mask.png", monkeypatch=monkeypatch)
    with Predictor(folder) as predict:
        result = predict(photo)
    assert [line.rpartition(" ")[0] for line in capsys.readouterr().out.splitlines()] == list(result.labels)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED), result.mask)


def test_the_cpp_example_has_the_scores_of_the_predictor(exports: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Takes half a minute: it compiles. Pixels that are resized in other arithmetic differ by one level in 255."""
    if not engine_class("openvino-onnx").installed() or not all(map(shutil.which, ("cmake", "g++"))):
        pytest.skip("needs OpenVINO's package, cmake and g++")
    import openvino

    build = tmp_path / "build"
    cmake = os.path.join(os.path.dirname(openvino.__file__), "cmake")
    configure = ["cmake", "-S", EXAMPLES / "cpp", "-B", build, f"-DOpenVINO_DIR={cmake}"]
    for line in (configure, ["cmake", "--build", build]):
        done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    photos = sorted((data / "val").rglob("*.png"))[::5]
    images = [tmp_path / f"{number}.ppm" for number in range(len(photos))]
    for photo, image in zip(photos, images, strict=True):
        cv2.imwrite(str(image), cv2.resize(cv2.imread(str(photo)), (90, 70)))
    folder = exports["classification"]
    with Predictor(folder, "openvino-onnx", threads=1, topk=3) as predict:
        transforms = predict.exported.recipe["preprocess"]["transforms"]
        short, crop = (
            next(op[name][key] for op in transforms if name in op)
            for name, key in (("ResizeImage", "resize_short"), ("CropImage", "size"))
        )
        expected = [dict(zip(result.classes, result.scores, strict=True)) for result in predict(images)]
    model = folder / "onnx" / "inference.onnx"
    line = [build / "classify", model, str(short), str(crop), *images]
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    for text, image, scores in zip(done.stdout.splitlines(), images, expected, strict=True):
        name, *found = text.split()
        assert name == str(image)
        np.testing.assert_allclose([float(v) for v in found], [scores[k] for k in range(3)], atol=0.01)
    refused = subprocess.run(
        [build / "classify", model, "56", "48", photos[0]], capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stderr) == (
        2,
        f"classify: {photos[0]}: not a binary PPM with 8 bits a channel\n",
    )
