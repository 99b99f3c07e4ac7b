"""The Predictor gives one result for each image, in order, whoever calls it and however."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.engines.base import FLOAT
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.owner import Arrays, Run
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.runtime.results import STAGES, Result
from ppcls_ext.runtime.sources import Size
from tests.helpers.processes import ROOT, SECONDS

KINDS = [engine_class(name) for name in ENGINES]
INSTALLED = [kind.name for kind in KINDS if kind.installed() and kind.precision == FLOAT]


class Brightness(Inference):
    """A task whose network gives the sum of an image: the result tells which image it is of."""

    columns = ("rank", "label", "class", "score")
    result_type = ClassResult
    labels = ("sum",)

    def __init__(self) -> None:
        pass

    def prepare(self, image: np.ndarray, size: Size | None = None) -> list[np.ndarray]:
        return [image.astype(np.float32)]

    def check_outputs(self, outputs: Arrays) -> None:
        pass

    def difference(self, found: Arrays, expected: Arrays) -> float:
        return float(np.abs(found[0] - expected[0]).max())

    def result(self, outputs: Arrays, **about: Any) -> ClassResult:
        return ClassResult(scores=(float(outputs[0]),), **about)


class Network:
    """Notes the thread and the size of each batch; waits for `go`; refuses images of the value 13."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.batches: list[int] = []
        self.ran: list[int] = []
        self.entered = threading.Semaphore(0)
        self.alone = threading.Lock()
        self.go = threading.Event()
        self.go.set()

    def open(self) -> Run:
        self.threads.add(threading.get_ident())
        return self.run

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        assert self.alone.acquire(blocking=False), "two threads run the network at once"
        self.entered.release()
        self.go.wait(SECONDS)
        self.alone.release()
        self.threads.add(threading.get_ident())
        self.ran.append(threading.get_ident())
        self.batches.append(len(inputs[0]))
        if (inputs[0] == 13).any():
            raise RuntimeError("13 brings\nbad luck")
        return [inputs[0].reshape(len(inputs[0]), -1).mean(axis=1)]


def image(value: int, side: int = 4) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def values(results: Any) -> list[float]:
    return [result.scores[0] for result in results]


@pytest.fixture
def network() -> Network:
    return Network()


def pipeline(network: Network, **arguments: Any) -> Pipeline:
    return Pipeline(network.open, Brightness(), **arguments)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("decoders", [1, 4])
def test_a_list_gives_a_list_in_order(network: Network, batch: int, decoders: int) -> None:
    with pipeline(network, batch=batch, decoders=decoders) as predict:
        assert values(predict([image(k) for k in range(20, 43)], "rgb")) == list(range(20, 43))
    assert network.batches == [batch] * (23 // batch) + ([23 % batch] if 23 % batch else [])
    assert len(network.threads) == 1
    assert threading.get_ident() not in network.threads


def test_a_caller_runs_an_engine_that_lets_any_thread_and_waits_where_it_runs_already(network: Network) -> None:
    with pipeline(network, any_thread=True) as predict:
        assert predict(image(5), "rgb").scores == (5,)
        assert network.ran == [threading.get_ident()]
        assert network.entered.acquire(timeout=SECONDS)
        network.go.clear()
        first = predict.submit(image(6), "rgb")
        assert network.entered.acquire(timeout=SECONDS)
        second = ThreadPoolExecutor(1).submit(predict, image(7), "rgb")
        network.go.set()
        assert [first.result(SECONDS).scores, second.result(SECONDS).scores] == [(6,), (7,)]


@pytest.mark.parametrize("batch", [1, 3])
def test_without_decoders_a_stream_needs_no_other_thread(network: Network, batch: int) -> None:
    with pipeline(network, decoders=0, any_thread=True, batch=batch, errors="keep") as predict:
        images = [image(20), image(21), "nowhere.jpg", image(22), image(23, side=6), image(24)]
        results = predict(images, "rgb")
    assert [result.scores for result in results] == [(20,), (21,), (), (22,), (23,), (24,)]
    assert results[2].error is not None
    assert set(network.ran) == {threading.get_ident()}
    assert network.batches == ([1] * 5 if batch == 1 else [3, 1, 1])


def test_without_decoders_results_before_a_bad_image_come(network: Network) -> None:
    with pipeline(network, decoders=0, batch=3) as predict:
        stream = predict.stream([image(20), "nowhere.jpg", image(21)], "rgb")
        assert next(stream).scores == (20,)
        with pytest.raises(UserError, match=r"nowhere\.jpg"):
            next(stream)


def test_the_owner_alone_runs_an_engine_that_must_not_be_shared(network: Network) -> None:
    with pipeline(network) as predict:
        assert predict(image(5), "rgb").scores == (5,)
    assert network.ran == list(network.threads)


def test_images_of_other_shapes_are_not_put_into_one_batch(network: Network) -> None:
    with pipeline(network, batch=4) as predict:
        assert values(predict([image(k, 4 + k // 2) for k in range(6)], "rgb")) == list(range(6))
    assert network.batches == [2, 2, 2]


def test_a_fixed_batch_is_filled_up(network: Network) -> None:
    with pipeline(network, batch=4, fixed=True) as predict:
        assert values(predict([image(k) for k in range(5)], "rgb")) == list(range(5))
        assert predict(image(7), "rgb").scores == (7,)
    assert network.batches == [4, 4, 4]


def test_a_bad_image_is_an_error_of_its_own_result(network: Network, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    items: list[Any] = [image(1), tmp_path / "text.jpg", image(13), np.zeros(3), image(2), tmp_path / "missing.png"]
    with pipeline(network, batch=8, errors="keep") as predict:
        for results in (predict(items, "rgb"), [predict.submit(item, "rgb").result(SECONDS) for item in items]):
            assert [result.ok for result in results] == [True, False, False, False, True, False]
            assert values([results[0], results[4]]) == [1, 2]
            assert [result.source for result in results][1] == str(tmp_path / "text.jpg")
            assert all("\n" not in result.error for result in results if result.error is not None)
            assert results[2].error == "image <array>: RuntimeError: 13 brings bad luck"
            assert "error" in json.loads(json.dumps(results[1].to_dict()))


def test_a_bad_image_raises_by_default(network: Network) -> None:
    with pipeline(network) as predict:
        with pytest.raises(UserError, match="bad luck"):
            predict(image(13), "rgb")
        with pytest.raises(UserError, match="bad luck"):
            predict([image(1), image(13)], "rgb")
        with pytest.raises(UserError, match="bad luck"):
            predict.submit(image(13), "rgb").result(SECONDS)
        assert predict(image(5), "rgb").scores == (5,)


@pytest.mark.parametrize("prefetch", [0, 1, 5, None])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_stream_takes_images_only_as_they_are_needed(network: Network, prefetch: int | None, batch: int) -> None:
    taken: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        for k in itertools.count():
            taken.append(k)
            yield image(k % 200 + 20)

    ahead = 2 * batch + 1 if prefetch is None else prefetch
    with pipeline(network, batch=batch) as predict:
        stream = predict.stream(endless(), "rgb", prefetch)
        assert taken == []
        for given in range(50):
            assert next(stream).scores == (given % 200 + 20,)
            assert given + 1 <= len(taken) <= given + 1 + ahead


def test_a_stream_decodes_while_the_network_runs(network: Network) -> None:
    network.go.clear()
    decoded = threading.Semaphore(0)

    class Decoding(Brightness):
        def prepare(self, image: np.ndarray, size: Size | None = None) -> list[np.ndarray]:
            decoded.release()
            return super().prepare(image)

    with Pipeline(network.open, Decoding(), decoders=1) as predict:
        stream = predict.stream([image(k) for k in range(3)], "rgb")
        first = ThreadPoolExecutor(1).submit(next, stream)
        assert decoded.acquire(timeout=SECONDS)
        assert decoded.acquire(timeout=SECONDS)  # the second image, while the network holds the first
        assert not first.done()
        network.go.set()
        assert first.result(SECONDS).scores == (0,)
        assert values(stream) == [1, 2]


def test_submitted_images_that_wait_run_in_one_batch(network: Network) -> None:
    network.go.clear()
    prepared = threading.Semaphore(0)

    class Preparing(Brightness):
        def prepare(self, image: np.ndarray, size: Size | None = None) -> list[np.ndarray]:
            prepared.release()
            return super().prepare(image)

    with Pipeline(network.open, Preparing(), batch=4) as predict:
        futures = [predict.submit(image(k), "rgb") for k in range(9)]
        for _ in futures:
            assert prepared.acquire(timeout=SECONDS)  # all wait but those that are in the network
        network.go.set()
        assert values(future.result(SECONDS) for future in futures) == list(range(9))
    assert max(network.batches) == 4


def test_a_submitted_image_can_be_cancelled(network: Network) -> None:
    network.go.clear()
    with pipeline(network) as predict:
        futures = [predict.submit(image(k), "rgb") for k in range(20, 40)]
        assert futures[-1].cancel()
        network.go.set()
        assert values(future.result(SECONDS) for future in futures[:-1]) == list(range(20, 39))


def test_any_thread_may_call(network: Network) -> None:
    with pipeline(network, batch=4) as predict, ThreadPoolExecutor(8) as callers:
        assert values(callers.map(lambda k: predict(image(k % 13), "rgb"), range(200))) == [k % 13 for k in range(200)]
    assert len(network.threads) == 1
    assert sum(network.batches) == 200


def test_a_closed_predictor_says_so(network: Network) -> None:
    predict = pipeline(network)
    pending = predict.submit(image(3), "rgb")
    predict.close()
    predict.close()
    assert pending.result(SECONDS).scores == (3,)
    for use in (lambda: predict(image(1), "rgb"), lambda: predict.submit(image(1)), lambda: predict.stream([])):
        with pytest.raises(UserError, match="closed"):
            use()


@pytest.mark.parametrize("images", [4, 100], ids=["all decoded", "some not decoded"])
@pytest.mark.parametrize("decoders", [0, 2])
def test_a_stream_whose_predictor_is_closed_says_so_and_does_not_wait(
    network: Network, decoders: int, images: int
) -> None:
    predict = pipeline(network, decoders=decoders)
    results = predict.stream((image(n) for n in range(images)), "rgb")
    next(results)
    predict.close()
    ends: list[str] = []

    def take_the_rest() -> None:
        try:
            list(results)
        except UserError as error:
            ends.append(str(error))

    thread = threading.Thread(target=take_the_rest, daemon=True)
    thread.start()
    thread.join(20)
    assert ends == ["this predictor is closed; make another one"]


def test_wrong_arguments_are_one_line(network: Network) -> None:
    for wrong in ({"batch": 0}, {"errors": "ignore"}, {"decoders": 1.5}, {"max_pixels": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            pipeline(network, **wrong)
    with pipeline(network) as predict, pytest.raises(UserError, match="prefetch"):
        predict.stream([], prefetch=-1)


def test_a_network_that_cannot_be_opened_raises_where_it_is_made() -> None:
    def fails() -> Run:
        raise UserError("no such model")

    with pytest.raises(UserError, match="no such model"):
        Pipeline(fails, Brightness())


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
        with pytest.raises(UserError, match="threshold: not a flag of classification; it has topk"):
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

engine = open_engine(sys.argv[2], Path(sys.argv[1]), int(sys.argv[3]))
inputs = [np.zeros((128, 3, 48, 48), np.float32)]
engine(inputs)
before, spent = times(), {}
while sum(spent.values()) < 100:  # ticks of the clock, 1 s
    engine(inputs)
    spent = {task: ticks - before.get(task, 0) for task, ticks in times().items()}
print(len(spent), sum(ticks > 0.15 * sum(spent.values()) for ticks in spent.values()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are told apart in /proc")
@pytest.mark.skipif(usable_cores() < 2, reason="engines take no more threads than there are cores")
@pytest.mark.parametrize("engine", INSTALLED)
def test_threads_reach_every_engine(exported: Path, engine: str) -> None:
    """Each runs in a process of its own, since an engine's threads stay; each works for a second."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    there, working = [], []
    for threads in ("1", "2"):
        line = [sys.executable, "-c", THREADS, str(exported), engine, threads]
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=ROOT, check=True
        )
        found = done.stdout.split()
        there.append(int(found[0]))
        working.append(int(found[1]))
    if engine == "openvino":  # Paddle's OpenVINO has its threads from the start, and lets as many of them work
        assert working == [1, 2]
    else:  # those that work and those that wait for work are told apart by nothing: there is one more
        assert there[1] - there[0] == 1


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
