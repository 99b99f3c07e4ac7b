"""The end of a service under load on a busy core: whatever it has accepted is answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.helpers.processes import ROOT, wait_until
from tests.serve.conftest import SECONDS, png, value_of

pytestmark = [
    pytest.mark.slow,  # each starts processes
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a core can be named on Linux only"),
]

CLIENTS = 12
PNG = {"Content-Type": "image/png"}

# A service around the tests' own network, which takes 5 ms for a batch, on one core, which a child of it keeps busy.
BUSY = """
import os, subprocess, sys, time
from types import SimpleNamespace
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.serve import server
from ppcls_ext.serve.limits import Limits
from tests.serve.conftest import Grey

def run(inputs):
    time.sleep(0.005)
    return [inputs[0]]

class Slow(Pipeline):
    exported = SimpleNamespace(task="classification")

    def __init__(self, *_, **__):
        super().__init__(lambda: run, Grey(), batch=4)
        self.inference_with = Grey

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
try:
    server.Predictor = Slow
    status = server.serve(["a=" + sys.argv[1]], "127.0.0.1", 0, limits=Limits(deadline_s=30))
finally:
    other.kill()
sys.exit(status)
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its address."""
    recipe = "inputs: [{name: x, shape: [-1, 3, 8, 8], dtype: float32}]\nlabels: [a]\npreprocess: {}\npostprocess: {}\n"
    (tmp_path / "inference.yml").write_text(f"task: classification\nformats: {{json: inference.json}}\n{recipe}")
    line = [sys.executable, "-W", "ignore", "-c", BUSY, str(tmp_path)]
    with ExitStack() as stack:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        stack.enter_context(process)  # closes its pipes, once it is killed
        stack.callback(process.kill)
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["address"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered_though_the_core_is_busy(
    service: tuple[subprocess.Popen[str], str], number: signal.Signals
) -> None:
    """Slow: it starts processes."""
    server, url = service
    answered: list[int] = []
    ended = threading.Event()

    def ask(client: int) -> None:
        with httpx.Client(base_url=url, timeout=SECONDS) as connection:
            for k in range(10**6):
                value = (31 * client + k) % 256
                try:
                    answer = connection.post("/predict", content=png(value), headers=PNG)
                except httpx.TransportError:
                    assert ended.is_set()  # only after the signal are connections refused or closed
                    return
                assert value_of(answer.raise_for_status().json()) == value
                answered.append(value)

    with ThreadPoolExecutor(CLIENTS) as clients:
        asking = [clients.submit(ask, client) for client in range(CLIENTS)]
        wait_until(lambda: len(answered) > 10 * CLIENTS or any(one.done() for one in asking))
        ended.set()
        server.send_signal(number)
        for one in asking:
            one.result(SECONDS)
    out, err = server.communicate(timeout=SECONDS)
    assert (server.returncode, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["event"] for line in lines if line["event"] != "request"] == ["draining", "stopped"]
    assert {line["status"] for line in requests} == {200}
    assert len(requests) == len(answered)


def test_a_request_whose_body_comes_while_it_drains_is_answered(
    service: tuple[subprocess.Popen[str], str],
) -> None:
    """Slow: it starts processes. Once the health is answered, the head that was sent before has been read."""
    server, url = service

    def slow_body() -> Iterator[bytes]:
        yield png(1)[:20]
        begun.set()
        assert over.wait(SECONDS)
        yield png(1)[20:]

    begun, over = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as clients:
        slow = clients.submit(httpx.post, f"{url}predict", content=slow_body(), headers=PNG, timeout=SECONDS)
        assert begun.wait(SECONDS)
        assert httpx.get(f"{url}v2/health/ready", timeout=SECONDS).status_code == 200
        server.send_signal(signal.SIGTERM)
        assert server.stdout is not None
        wait_until(lambda: any(json.loads(line)["event"] == "draining" for line in server.stdout or ()))
        over.set()  # what has begun may be finished while the service drains
        assert value_of(slow.result(SECONDS).json()) == 1
    _, err = server.communicate(timeout=SECONDS)
    assert (server.returncode, err) == (0, "")
