"""A pipeline gives one result for each image, in order, whoever calls it and however."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_ext.cls.results import ClassResult
from ppcls_ext.core.errors import UserError, WrongModel
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.owner import Arrays, Run
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.runtime.processing import Errors
from ppcls_ext.runtime.results import Result
from ppcls_ext.runtime.sources import Size
from tests.helpers.processes import ROOT, SECONDS


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


class Unfit(Brightness):
    """A task whose network is another one."""

    def check_outputs(self, outputs: Arrays) -> None:
        raise UserError("9 labels for a network of 10 classes")


@pytest.mark.parametrize("errors", ["raise", "keep"])
def test_a_model_that_does_not_fit_is_no_fault_of_the_images(network: Network, errors: Errors) -> None:
    with Pipeline(network.open, Unfit(), batch=2, errors=errors, where="model a: ") as predict:
        with pytest.raises(WrongModel, match="model a: 9 labels"):
            list(predict.stream([image(1), image(2)], "rgb"))
        with pytest.raises(WrongModel, match="model a: 9 labels"):
            predict.submit(image(1), "rgb").result(SECONDS)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("decoders", [1, 4])
def test_a_list_gives_a_list_in_order(network: Network, batch: int, decoders: int) -> None:
    with pipeline(network, batch=batch, decoders=decoders) as predict:
        assert values(predict([image(k) for k in range(20, 43)], "rgb")) == list(range(20, 43))
    assert network.batches == [batch] * (23 // batch) + ([23 % batch] if 23 % batch else [])
    assert len(network.threads) == 1
    assert threading.get_ident() not in network.threads


def test_a_caller_runs_an_engine_that_lets_any_thread_and_waits_where_it_runs_already(network: Network) -> None:
    with pipeline(network, any_thread=lambda: True) as predict:
        assert predict(image(5), "rgb").scores == (5,)
        assert network.ran == [threading.get_ident()]
        assert network.entered.acquire(timeout=SECONDS)
        network.go.clear()
        first = predict.submit(image(6), "rgb")
        assert network.entered.acquire(timeout=SECONDS)
        second = ThreadPoolExecutor(1).submit(predict, image(7), "rgb")
        network.go.set()
        assert [first.result(SECONDS).scores, second.result(SECONDS).scores] == [(6,), (7,)]


def test_whether_any_thread_may_run_it_can_turn_out_with_the_first_call(network: Network) -> None:
    """As where `auto` chooses an engine for the size of the first image."""
    with pipeline(network, any_thread=lambda: bool(network.ran)) as predict:
        predict([image(5)], "rgb")
        predict(image(6), "rgb")
        own, ours = network.ran
    assert (own, ours) == (own, threading.get_ident())
    assert own != ours


@pytest.mark.parametrize("batch", [1, 3])
def test_without_decoders_a_stream_needs_no_other_thread(network: Network, batch: int) -> None:
    with pipeline(network, decoders=0, any_thread=lambda: True, batch=batch, errors="keep") as predict:
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


@pytest.mark.parametrize("any_thread", [True, False])
def test_what_is_called_with_a_result_may_ask_for_another_one(network: Network, any_thread: bool) -> None:
    with pipeline(network, batch=4, any_thread=lambda: any_thread) as predict:
        asked: Future[float] = Future()
        future = predict.submit(image(5), "rgb")
        future.add_done_callback(lambda _: asked.set_result(predict(image(6), "rgb").scores[0]))
        assert asked.result(SECONDS) == 6


@pytest.mark.parametrize("any_thread", [True, False])
def test_what_is_called_with_a_result_may_ask_for_several(network: Network, any_thread: bool) -> None:
    with pipeline(network, batch=4, any_thread=lambda: any_thread) as predict:
        asked: Future[list[float]] = Future()
        future = predict.submit(image(5), "rgb")
        future.add_done_callback(lambda _: asked.set_result(values(predict([image(6), image(7)], "rgb"))))
        assert asked.result(SECONDS) == [6, 7]


def test_what_fails_in_a_call_with_a_result_stops_no_other(network: Network) -> None:
    def fails(future: Future[Result]) -> None:
        raise SystemExit

    network.go.clear()
    with pipeline(network, batch=4) as predict:
        futures = [predict.submit(image(k), "rgb") for k in range(6)]
        for future in futures:
            future.add_done_callback(fails)
        network.go.set()
        assert values(future.result(SECONDS) for future in futures) == list(range(6))
        assert predict.submit(image(12), "rgb").result(SECONDS).scores == (12,)


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


LEFT_OPEN = """
import time
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.runtime.results import Result
from tests.runtime.test_pipeline import Brightness, Network, image

network = Network()
def open_run():
    run = network.open()
    def slow(inputs):
        time.sleep(0.2)
        return run(inputs)
    return slow

stream = Pipeline(open_run, Brightness(), decoders=1).stream((image(k) for k in range(9)), "rgb")
print(next(stream).scores)
"""


@pytest.mark.slow
def test_a_program_may_end_in_the_middle_of_a_stream() -> None:
    """Starts a process, which ends while images are in the network."""
    done = subprocess.run([sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(0.0,)\n", "")
