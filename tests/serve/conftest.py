"""A service around a network of the tests' own, in this process."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from ppcls_ext import Predictor
from ppcls_ext.cls.results import ClassResult
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.owner import Arrays, Run
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.runtime.sources import Size
from ppcls_ext.serve.app import Service
from ppcls_ext.serve.limits import Limits
from ppcls_ext.serve.log import Log
from ppcls_ext.serve.metrics import Metrics
from ppcls_ext.serve.model import Model
from ppcls_ext.serve.options import Options
from ppcls_ext.serve.server import _bound, build_server
from tests.helpers.processes import wait_until

UNLUCKY = 13  # the value of images that the network refuses
SECONDS = 120.0  # that a test waits for what must come, on a busy machine too


class Grey(Inference):
    """A task whose result is the mean value of an image: it tells which image it is of."""

    columns = ("rank", "label", "class", "score")
    result_type = ClassResult
    labels = ("grey",)

    def __init__(self) -> None:
        pass

    def prepare(self, image: np.ndarray, size: Size | None = None) -> list[np.ndarray]:
        return [np.full(1, image.mean(), np.float32)]

    def check_outputs(self, outputs: Arrays) -> None:
        pass

    def difference(self, found: Arrays, expected: Arrays) -> float:
        return float(np.abs(found[0] - expected[0]).max())

    def result(self, outputs: Arrays, **about: Any) -> ClassResult:
        return ClassResult(labels=("grey",), classes=(0,), scores=(round(float(outputs[0][0]), 1),), **about)


class Network:
    """Notes each batch; waits for `go`; refuses images of the value `UNLUCKY`, and all while it is `broken`; gives what
    is no number while it is `lost`.
    """

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.begun = threading.Semaphore(0)
        self.broken = self.lost = False
        self.go = threading.Event()
        self.go.set()

    def open(self) -> Run:
        return self.run

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        self.begun.release()
        assert self.go.wait(SECONDS)
        self.batches.append(len(inputs[0]))
        if self.broken or (inputs[0] == UNLUCKY).any():
            raise RuntimeError("out of\nluck")
        return [inputs[0] * np.float32(np.nan) if self.lost else inputs[0]]


class Served:
    """A service with the models `a` and, where asked for, `b`."""

    def __init__(self, stack: ExitStack, names: str, limits: Limits, batch: int, token: str | None) -> None:
        self.network, self.limits = Network(), limits
        self.metrics, self.written = Metrics(), io.StringIO()
        self.log = Log(self.written, self.metrics.log_lines_lost.inc)
        stack.callback(self.log.close)
        self.models = {}
        for name in names:
            predictor = stack.enter_context(Pipeline(self.network.open, Grey(), batch=batch, engine="test", decoders=1))
            self.models[name] = Model(name, predictor, "classification", limits, self.metrics, self.log)
        self.service = Service(self.models, limits, self.metrics, self.log, token)
        stack.callback(self.network.go.set)

    def lines(self) -> list[dict[str, Any]]:
        """The log."""
        self.log.close()
        return [json.loads(line) for line in self.written.getvalue().splitlines()]

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def listening(served: Served | ServedExports) -> Iterator[tuple[str, int]]:
    """A service at a port of loopback, in a thread."""
    with _bound("127.0.0.1", 0) as listener:
        server = build_server(served.service, served.limits)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        place = listener.getsockname()
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield place
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive()


class ServedExports:
    """A service with exported models."""

    def __init__(self, stack: ExitStack, folders: Mapping[str, Path], token: str | None = None) -> None:
        self.limits = Limits(deadline_s=SECONDS)
        metrics, log = Metrics(), Log(io.StringIO(), lambda: None)
        stack.callback(log.close)
        models = {}
        for name, folder in folders.items():
            predictor = stack.enter_context(Predictor(folder, threads=1, batch=4))
            task = predictor.exported.task
            models[name] = Model(name, predictor, task, self.limits, metrics, log, Options.of(predictor))
        self.service = Service(models, self.limits, metrics, log, token)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image file in which the untrained networks find something. Read only."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (110, 90), interpolation=cv2.INTER_CUBIC))
    return path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def served(stack: ExitStack) -> Callable[..., Served]:
    """Makes a service that waits as long as a busy machine may take; limits are keyword arguments."""

    def make(names: str = "a", batch: int = 4, token: str | None = None, **limits: Any) -> Served:
        patient: dict[str, Any] = {"deadline_s": SECONDS, "body_s": SECONDS, "head_s": SECONDS, "answer_s": SECONDS}
        return Served(stack, names, Limits(**{**patient, **limits}), batch, token)

    return make


@pytest.fixture
def client_of(stack: ExitStack) -> Callable[[Served], TestClient]:
    """A client of a service, which runs for as long as the test."""
    return lambda served: stack.enter_context(TestClient(served.service.app(), raise_server_exceptions=True))


def png(value: int, side: int = 4) -> bytes:
    """The file of a grey image."""
    done, data = cv2.imencode(".png", np.full((side, side, 3), value, np.uint8))
    assert done
    return data.tobytes()


def value_of(result: dict[str, Any]) -> float:
    assert result["error"] is None
    return result["predictions"][0]["score"]
