"""The built wheel, installed where there is no Paddle, predicts with exports of all three tasks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_ext import Predictor
from tests.helpers.processes import ROOT

SOURCES = ("ppcls_ext", "det", "seg", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
SECONDS = 600  # downloads may take this long

PREDICT = """
import importlib.util, json, sys
assert not any(map(importlib.util.find_spec, ("paddle", "pydantic", "rich", "PIL", "matplotlib")))
from ppcls_ext import Predictor
found = {}
for name, folder in json.loads(sys.argv[1]).items():
    with Predictor(folder, threads=1) as predict:
        result = predict(sys.argv[2])
        found[name] = {"engine": result.engine, **result.content()}
        assert len(predict([sys.argv[2]] * 3)) == 3
print(json.dumps(found))
"""


def run(*line: str | Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in line],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def package_index_answers(folder: Path) -> bool:
    line = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--retries",
        "0",
        "-d",
        str(folder),
        "flatbuffers",
    ]
    return subprocess.run(line, capture_output=True, timeout=SECONDS, check=False).returncode == 0


@pytest.mark.slow
def test_the_wheel_predicts_without_paddle(exported: Path, exports: dict[str, Path], tmp_path: Path) -> None:
    """Takes a minute: it builds the wheel, installs it with ONNX Runtime, and exports two networks."""
    if not package_index_answers(tmp_path / "probe"):
        pytest.skip("no package index can be reached from here, from which ONNX Runtime could be installed")
    source = tmp_path / "source"
    for name in SOURCES:
        target = source / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run(*pip, "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("pplcnet-*.whl")
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile", f"{wheel}[onnxruntime]")

    folders = {
        "classification": exported,
        "detection": exports["detection"],
        "segmentation": exports["segmentation"],
    }
    image = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 110, 3)).astype(np.uint8)).save(image)
    answers = json.loads(run(python, "-c", PREDICT, json.dumps({n: str(f) for n, f in folders.items()}), image))
    assert set(answers) == set(folders)
    for name, folder in folders.items():
        assert answers[name].pop("engine") == "onnxruntime"
        with Predictor(folder, "onnxruntime", threads=1) as predict:
            assert answers[name] == json.loads(json.dumps(predict(image).content()))
    assert answers["detection"]["detections"]
