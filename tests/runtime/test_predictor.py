"""The Predictor predicts with an export on every engine, with as many threads as it is told, also after a fork."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppcls_ext import Predictor
from ppcls_ext.cls.results import ClassResult
from ppcls_ext.core.config import load_config
from ppcls_ext.core.device import usable_cores
from ppcls_ext.core.errors import UserError
from ppcls_ext.deploy.weights import open_weights
from ppcls_ext.runtime import predictor
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.engines.base import FLOAT
from ppcls_ext.runtime.results import STAGES, Result
from tests.helpers.processes import ROOT, SECONDS

KINDS = [engine_class(name) for name in ENGINES]
INSTALLED = [kind.name for kind in KINDS if kind.installed() and kind.precision == FLOAT]


def photos(data: Path) -> list[str]:
    return sorted(str(file) for file in (data / "val").rglob("*.png"))


@pytest.fixture(scope="module")
def of_dygraph(trained: Path, data: Path) -> list[Result]:
    """Results of the weights that `exported` was made of."""
    with open_weights(load_config(trained), {}) as predict:
        return predict(photos(data))


@pytest.mark.slow
@pytest.mark.parametrize("engine", INSTALLED)
def test_every_engine_gives_the_results_of_the_weights(
    exported: Path, data: Path, of_dygraph: list[Result], engine: str
) -> None:
    files = photos(data)
    with Predictor(exported, engine, threads=1, batch=4) as predict:
        result = predict(files[0])
        assert isinstance(result, ClassResult)
        assert (result.engine, result.source, result.size) == (engine, files[0], (48, 48))
        assert set(result.ms) == set(STAGES)
        assert all(ms > 0 for ms in result.ms.values())
        found = predict(files)
    assert found[0].labels == result.labels
    assert [r.source for r in found] == files
    for ours, theirs in zip(found, of_dygraph, strict=True):
        assert ours.labels == theirs.labels
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-4)


@pytest.mark.slow
def test_every_kind_of_source_gives_the_same_result(exported: Path, data: Path) -> None:
    file = photos(data)[0]
    pixels = np.asarray(Image.open(file))
    with Predictor(exported, threads=1) as predict:
        expected = predict(file)
        sources = [(Path(file), None), (Path(file).read_bytes(), None), (Image.open(file), None)]
        for item, channels in [*sources, (pixels, "rgb"), (pixels[..., ::-1], "bgr")]:
            result = predict(item, channels)
            assert (result.labels, result.scores) == (expected.labels, expected.scores)
            assert result.plot().shape == expected.plot().shape


@pytest.mark.slow
def test_a_result_is_frozen_and_goes_to_dict_and_picture(exported: Path, data: Path, tmp_path: Path) -> None:
    with Predictor(exported, threads=1, topk=3) as predict:
        result = predict(photos(data)[0])
    with pytest.raises(AttributeError):
        result.error = "changed"  # type: ignore[misc]
    shown = json.loads(json.dumps(result.to_dict()))
    assert [p["label"] for p in shown["predictions"]] == list(result.labels)
    assert shown["width"] == shown["height"] == 48
    assert len(result.labels) == 3
    result.save(tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).shape == result.plot().shape
    assert pickle.loads(pickle.dumps(result)).scores == result.scores


@pytest.mark.slow
def test_an_image_may_have_options_of_its_own(exported: Path, data: Path) -> None:
    photo = photos(data)[0]
    with Predictor(exported, threads=1, topk=3, batch=4) as predict:
        two = predict.inference_with(topk=2)
        futures = [predict.submit(photo, inference=inference) for inference in (None, two, predict.inference_with())]
        whole, best, again = (future.result(SECONDS) for future in futures)
        with pytest.raises(UserError, match="threshold: not an argument of classification; it has topk"):
            predict.inference_with(threshold=0.5)
        with pytest.raises(UserError, match="topk: expected a number of classes, got 0"):
            predict.inference_with(topk=0)
    assert len(whole.labels) == 3
    assert (best.labels, best.scores) == (whole.labels[:2], whole.scores[:2])
    assert again.scores == whole.scores


THREADS = """
import os, sys
from pathlib import Path
import numpy as np
from ppcls_ext.runtime.engines import open_engine

def times():
    found = {}
    for task in os.listdir("/proc/self/task"):
        fields = open(f"/proc/self/task/{task}/stat").read().rsplit(")", 1)[1].split()
        found[task] = int(fields[11]) + int(fields[12])
    return found

threads = int(sys.argv[3])
engine = open_engine(sys.argv[2], Path(sys.argv[1]), threads)
inputs = [np.zeros((128 if sys.argv[2] == "openvino" else 16, 3, 48, 48), np.float32)]
engine(inputs)
if sys.argv[2] == "openvino":
    before, spent = times(), [0]
    while sum(spent) < 100 or sum(ticks > 15 for ticks in spent) < threads:  # ticks of the clock: 10 ms
        engine(inputs)
        spent = [ticks - before.get(task, 0) for task, ticks in times().items()]
    print(sum(ticks > 15 for ticks in spent))
else:
    print(len(times()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are told apart in /proc")
@pytest.mark.skipif(usable_cores() < 2, reason="engines take no more threads than there are cores")
@pytest.mark.parametrize("engine", INSTALLED)
def test_threads_reach_every_engine(exported: Path, engine: str) -> None:
    """Each runs in a process of its own, since an engine's threads stay.

    Paddle's OpenVINO has its threads from the start, and lets as many of them work: for a second at least, and until
    each of them has had its part, which may last where another process keeps a core busy. Of the others, those that
    work and those that wait for work are told apart by nothing: there is one more.
    """
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    counted = []
    for threads in ("1", "2"):
        line = [sys.executable, "-c", THREADS, str(exported), engine, threads]
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=ROOT, check=True
        )
        counted.append(int(done.stdout))
    assert counted[1] - counted[0] == 1
    if engine == "openvino":
        assert counted[0] == 1


def _in_child(predict: Predictor, file: str, pipe: Any) -> None:
    pipe.send((predict(file).labels, [result.labels for result in predict([file, file])]))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("engine", INSTALLED)
def test_a_forked_child_opens_an_engine_of_its_own(exported: Path, data: Path, engine: str) -> None:
    file = photos(data)[0]
    with Predictor(exported, engine, threads=1) as predict:
        expected = predict(file).labels
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=_in_child, args=(predict, file, theirs))
        child.start()
        assert ours.poll(SECONDS)
        assert ours.recv() == (expected, [expected, expected])
        child.join(SECONDS)
        assert child.exitcode == 0
        assert predict(file).labels == expected


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, (224,), (224.0, 224), (0, 224), "224"])
def test_a_size_that_is_none_is_one_line(exported: Path, size: Any) -> None:
    with pytest.raises(UserError, match=r"size must be \(HEIGHT, WIDTH\) in pixels, got"):
        Predictor(exported, "native", size=size)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", ["x", True, False, 1.5, float("nan")])
def test_a_threshold_that_is_none_is_one_line(exports: dict[str, Path], threshold: Any) -> None:
    with pytest.raises(UserError, match="threshold: expected a score between 0 and 1, got"):
        Predictor(exports["detection"], "native", threshold=threshold)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"threads": 10**6}, "threads must be a positive number of at most"),
        ({"engine": ["onednn"]}, r"engine must be a name, got \['onednn'\]"),
        ({"allow_reduced": "yes"}, "allow_reduced must be True or False, got 'yes'"),
        ({"decoders": 10**6}, "decoders must be a number of threads of at most"),
        ({"batch": 1.5}, "batch must be a positive number, got 1.5"),
        ({"errors": "ignore"}, 'errors must be "raise" or "keep"'),
        ({"max_pixels": 0}, "max_pixels must be a positive number"),
        ({"topk": True}, "topk: expected a number of classes, got True"),
        ({"engine": None, "model_format": "onnx"}, "model_format='onnx' is of an engine: name that too"),
        ({"engine": "native", "model_format": "onnx"}, "engine native runs json or pdmodel of this folder, not 'onnx'"),
    ],
)
def test_wrong_arguments_are_one_line_before_anything_is_measured(
    exported: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(predictor, "choose_fastest", lambda *_: pytest.fail("an engine was chosen"))
    with pytest.raises(UserError, match=says):
        Predictor(exported, **{"engine": "auto", **arguments})


@pytest.mark.slow
def test_numbers_of_numpy_are_numbers(exported: Path, exports: dict[str, Path]) -> None:
    Predictor(exports["detection"], "native", threads=1, threshold=np.float32(0.5)).close()
    with Predictor(exported, "native", threads=1, topk=np.int64(2)) as predict:
        assert len(predict(np.zeros((48, 48, 3), np.uint8), "rgb").labels) == 2


@pytest.mark.slow
def test_a_named_format_is_run(exported: Path) -> None:
    with Predictor(exported, "native", threads=1, model_format="pdmodel") as predict:
        assert predict.model_format == predict.report().model_format == "pdmodel"


@pytest.mark.slow
def test_wrong_calls_are_one_line(exported: Path, data: Path, tmp_path: Path) -> None:
    file = photos(data)[0]
    with Predictor(exported, "native", threads=1) as predict:
        for images in (file, Path(file), b"...", 5):
            with pytest.raises(UserError, match=r"stream takes images one after the other, got a .*; give a list"):
                predict.stream(images)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="inference must be what inference_with gives, got int"):
            predict.submit(file, None, 5)  # type: ignore[arg-type]
        for deep in ("F", "I", "I;16"):
            with pytest.raises(UserError, match=f"mode {deep} has more than 8 bits; scale it to 8 bits first"):
                predict(Image.new(deep, (48, 48)))
        result = predict(file)
    with pytest.raises(UserError, match="picture None: give a path"):
        result.save(None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"a\.gif: give a name that ends with"):
        result.save(tmp_path / "a.gif")
