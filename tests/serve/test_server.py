"""A service on loopback: connections of every kind of client, and the end of the process."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from ppcls_ext import Predictor
from ppcls_ext.core.errors import UserError
from ppcls_ext.serve.server import LARGEST_HEAD, PatientProtocol, _bound, address, model_names, serve
from tests.helpers.processes import ROOT, wait_until
from tests.serve.conftest import SECONDS, Served, listening, png, value_of

Serve = Callable[..., Served]
PNG = {"Content-Type": "image/png"}
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


def test_answers_leave_at_once(served: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Nagle's algorithm an answer's body would wait for the acknowledgement of its head: 40 ms."""
    found: list[int] = []
    made = PatientProtocol.connection_made

    def noted(protocol: PatientProtocol, transport: asyncio.Transport) -> None:
        made(protocol, transport)
        found.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(PatientProtocol, "connection_made", noted)
    with listening(served()) as place:
        assert said(place, b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert len(found) > 0
    assert all(found)


def received(client: socket.socket) -> bytes:
    """What comes until the connection is closed."""
    answer = b""
    while part := client.recv(65536):
        answer += part
    return answer


def said(place: tuple[str, int], *parts: bytes) -> bytes:
    """What a service answers to these bytes until it closes the connection."""
    with socket.create_connection(place, SECONDS) as client:
        for part in parts:
            client.sendall(part)
        return received(client)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def still_works(place: tuple[str, int]) -> bool:
    answer = httpx.post(f"http://{place[0]}:{place[1]}/predict", content=png(8), headers=PNG, timeout=SECONDS)
    return value_of(answer.json()) == 8


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([b"\0\1\2\r\n\r\n"], 400),
        ([b"GET / HTTQ/1.1\r\n\r\n"], 400),
        ([b"GET /" + b"a" * LARGEST_HEAD + b" HTTP/1.1\r\n\r\n"], 400),
        ([HEAD + b"X: " + b"a" * (2 * LARGEST_HEAD)], 400),
        ([HEAD + b"Content-Length: -5\r\n\r\n"], 400),
        ([HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"], 400),
        ([HEAD + b"Content-Length: +5\r\n\r\nabcde"], 400),
        ([HEAD + b"Content-Length : 5\r\n\r\nabcde"], 400),
        ([HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], 400),
        ([HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"], 400),
        ([HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"], 400),
        ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n"], 400),
        ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * (2 * LARGEST_HEAD)], 400),
        ([HEAD + b"Host: y\r\n\r\n"], 400),
        ([HEAD + b"Content-Length: 99999999999\r\nConnection: close\r\n\r\n"], 413),
    ],
    ids=[
        "noise",
        "another protocol",
        "a long line",
        "a long header",
        "a negative length",
        "two lengths",
        "a length with a sign",
        "a space before the colon",
        "a length and chunks",
        "two encodings",
        "an unknown encoding",
        "a negative chunk",
        "a long chunk's head",
        "two hosts",
        "a long body",
    ],
)
def test_what_is_no_request_is_refused(served: Serve, parts: list[bytes], status: int) -> None:
    service = served()
    with listening(service) as place:
        assert status_of(said(place, *parts)) == status
        assert still_works(place)


def test_lines_of_the_libraries_are_lines_of_the_log(served: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    service = served()
    with listening(service) as place:
        assert status_of(said(place, b"\0\r\n\r\n")) == 400
        logging.getLogger("asyncio").error("out of\nfiles")
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        assert httpx.post(f"http://127.0.0.1:{place[1]}/predict", content=b"--x{", headers=form).status_code == 400
    texts = [line["text"] for line in service.lines() if line["event"] == "server"]
    assert texts == ["Invalid HTTP request received.", "out of files"]
    assert capfd.readouterr() == ("", "")


def test_slow_clients_are_not_waited_for(served: Serve) -> None:
    with listening(served(head_s=0.2)) as place:
        assert said(place) == b""
        assert said(place, HEAD) == b""
    with listening(served(body_s=0.2)) as place:
        assert status_of(said(place, HEAD + b"Connection: close\r\nContent-Length: 100\r\n\r\nabc")) == 408
        assert still_works(place)


def test_the_rest_of_a_refused_body_is_not_waited_for(served: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = PatientProtocol.on_response_complete

    def complete_and_impatient(protocol: PatientProtocol) -> None:
        protocol.head_s = 0.1  # from now on: the head itself may take long on a busy machine
        complete(protocol)

    monkeypatch.setattr(PatientProtocol, "on_response_complete", complete_and_impatient)
    with listening(served(body_bytes=500)) as place:
        assert status_of(said(place, HEAD + b"Content-Length: 1000\r\n\r\n", b"abc")) == 413
        assert still_works(place)


def posted(image: bytes, *headers: bytes) -> bytes:
    """A request for a prediction, as bytes."""
    return HEAD + b"".join(header + b"\r\n" for header in headers) + b"Content-Length: %d\r\n\r\n" % len(image) + image


def chunked(image: bytes, *headers: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """The same with a body in chunks."""
    head = HEAD + b"".join(header + b"\r\n" for header in (*headers, b"Transfer-Encoding: chunked "))
    return head + b"\r\n%x\r\n" % len(image) + image + b"\r\n" + end


LAST = b"Connection: close"
BROKEN = b"-1\r\n"  # no end of a body in chunks


def values_of(answers: bytes) -> list[float]:
    """What was predicted in each of several answers."""
    return [value_of(json.loads(body)) for body in re.findall(rb"\r\n\r\n(\{.*?\})(?=HTTP/1.1|$)", answers, re.DOTALL)]


@pytest.mark.parametrize("size", [1, 7, 10**6], ids=["bytes", "few", "whole"])
def test_an_offer_of_another_protocol_is_not_taken_and_costs_nothing(served: Serve, size: int) -> None:
    """Java's client offers HTTP/2 with its first request, and expects an answer all the same."""
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    with listening(served()) as place:
        sent = posted(png(3), *offer) + posted(png(4)) + chunked(png(5), *offer) + posted(png(6), LAST)
        answers = said(place, *(sent[k : k + size] for k in range(0, len(sent), size)))
        assert values_of(answers) == [3, 4, 5, 6]


def test_requests_ahead_of_their_answers_are_answered_in_turn(served: Serve) -> None:
    service = served()
    with listening(service) as place:
        ahead = b"".join(posted(png(k)) for k in range(5))
        assert values_of(said(place, ahead + posted(png(6), LAST))) == [0, 1, 2, 3, 4, 6]


@pytest.mark.parametrize(
    "noise",
    [b"\0\1\2\r\n\r\n", chunked(b"abc", end=BROKEN)],
    ids=["no request", "a broken body"],
)
def test_what_came_before_noise_is_answered_before_it_is_refused(served: Serve, noise: bytes) -> None:
    service = served()
    service.network.go.clear()
    with listening(service) as place, socket.create_connection(place, SECONDS) as client:
        client.sendall(posted(png(3)) + posted(png(4)) + noise + posted(png(5)))
        wait_until(lambda: service.metric("pplcnet_accepted_images", model="a") == 1)
        service.network.go.set()
        answers = received(client)
    assert values_of(answers[: answers.index(b"HTTP/1.1 400")]) == [3, 4]
    assert answers.count(b"HTTP/1.1 ") == 3


def test_a_request_that_has_its_answer_gets_no_other_one(served: Serve) -> None:
    service = served(body_bytes=500)
    with listening(service) as place, socket.create_connection(place, SECONDS) as client:
        client.sendall(chunked(bytes(1000), end=b""))
        wait_until(lambda: service.metric("pplcnet_requests_total", route="/predict", status="413") == 1)
        client.sendall(BROKEN)
        answers = received(client)
    assert (status_of(answers), answers.count(b"HTTP/1.1 ")) == (413, 1)


def test_a_client_that_goes_away_is_noticed_behind_another_request(served: Serve) -> None:
    service = served()
    service.network.go.clear()
    with listening(service) as place:
        with socket.create_connection(place, SECONDS) as client:
            client.sendall(posted(png(3)) + b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: service.metric("pplcnet_accepted_images", model="a") == 1)
        wait_until(lambda: service.metric("pplcnet_accepted_images", model="a") == 0)
        service.network.go.set()
    assert [line["status"] for line in service.lines() if line["event"] == "request"] == [499]


def test_nothing_after_a_request_of_two_lengths_is_another_request(served: Serve) -> None:
    """A proxy that goes by the other length takes what follows for a body, or for another client's request."""
    service = served()
    two = HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with listening(service) as place:
        answer = said(place, two + b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status_of(answer), answer.count(b"HTTP/1.1 ")) == (400, 1)
        assert b"connection: close" in answer.lower()
    assert [line["path"] for line in service.lines() if line["event"] == "request"] == ["/predict"]


def test_a_client_that_does_not_take_its_picture_is_let_go(served: Serve) -> None:
    """Its picture of 6 MB is larger than what the system keeps for a connection."""
    service = served(answer_s=0.2)
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    image = cv2.imencode(".jpg", noise)[1].tobytes()
    with listening(service) as place:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(SECONDS)
            client.connect(place)
            head = HEAD + f"Accept: image/png\r\nContent-Length: {len(image)}\r\n\r\n".encode()
            client.sendall(head + image)
            wait_until(lambda: service.metric("pplcnet_requests_total", route="/predict", status="200") == 1)
            answer = received(client)
            (length,) = re.findall(rb"content-length: (\d+)", answer)
            assert len(answer) < int(length)
        assert still_works(place)
    assert service.service.pictures.held == 0


def test_a_connection_serves_many_requests(served: Serve) -> None:
    with listening(served()) as place, httpx.Client(base_url=f"http://127.0.0.1:{place[1]}") as client:
        for k in range(20):
            assert value_of(client.post("/predict", content=png(k % 12), headers=PNG).json()) == k % 12


def test_clients_that_go_away_leave_nothing_behind(served: Serve) -> None:
    service = served(batch=1, queue=40)
    service.network.go.clear()
    image = png(3)
    with listening(service) as place:
        clients = [socket.create_connection(place) for _ in range(20)]
        for client in clients:
            client.sendall(HEAD + f"Content-Length: {len(image)}\r\n\r\n".encode() + image)
        wait_until(lambda: service.metric("pplcnet_accepted_images", model="a") == 20)
        for client in clients:
            client.close()
        wait_until(lambda: service.metric("pplcnet_accepted_images", model="a") == 0)
        wait_until(lambda: service.metric("pplcnet_queue_images", model="a") == 0)
        service.network.go.set()
        with socket.create_connection(place) as client:  # and one in the midst of its body
            client.sendall(HEAD + b"Content-Length: 100\r\n\r\nabc")
        assert still_works(place)
    assert sum(service.network.batches) < 20
    statuses = [line["status"] for line in service.lines() if line["event"] == "request"]
    assert statuses.count(499) >= 20
    assert set(statuses) <= {200, 499}


def test_what_was_accepted_is_answered_before_the_end(served: Serve) -> None:
    service = served(batch=2)
    service.network.go.clear()

    def go_once_it_drains() -> None:
        wait_until(lambda: service.service.draining)
        service.network.go.set()

    with ThreadPoolExecutor(11) as clients:
        with listening(service) as place:
            url = f"http://127.0.0.1:{place[1]}/predict"
            sent = [clients.submit(httpx.post, url, content=png(k), headers=PNG, timeout=SECONDS) for k in range(10)]
            wait_until(lambda: service.metric("pplcnet_accepted_images", model="a") == 10)
            clients.submit(go_once_it_drains)
        assert [value_of(one.result(SECONDS).json()) for one in sent] == list(range(10))
    events = [line["event"] for line in service.lines()]
    assert events.index("draining") < events.index("request")


def test_connections_end_with_their_answer_while_the_service_drains(served: Serve) -> None:
    """Else a client sends its next request into a connection that is about to be closed."""
    service = served()
    with listening(service) as place:
        assert b"connection: close" not in said(place, posted(png(1))).lower()
        service.service.draining = True
        assert b"connection: close" in said(place, posted(png(1))).lower()


def test_among_too_many_connections_health_is_answered_alone(served: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppcls_ext.serve.server.MOST_CONNECTIONS", 2)
    service = served()
    with listening(service) as place, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(place, SECONDS))
        url = f"http://{place[0]}:{place[1]}"
        wait_until(lambda: httpx.get(f"{url}/models", timeout=SECONDS).status_code == 503)
        refused = httpx.get(f"{url}/models", timeout=SECONDS)
        assert refused.json() == {"error": "too many connections; come again later"}
        assert refused.headers["retry-after"] == "1"
        assert httpx.get(f"{url}/v2/health/live", timeout=SECONDS).status_code == 200
    assert service.metric("pplcnet_requests_total", route="other", status="503") >= 2


def test_models_are_called_by_their_folders(tmp_path: Path) -> None:
    for name in ("one/inference", "two", "x=y", "bad name"):
        (tmp_path / name).mkdir(parents=True)
    folder = str(tmp_path)
    assert list(model_names([f"{folder}/one/inference", f"{folder}/two"])) == ["one", "two"]
    assert model_names([f"b={folder}/two"]) == {"b": tmp_path / "two"}
    (tmp_path / "link").symlink_to(tmp_path / "two")
    assert list(model_names([f"{folder}/link"])) == ["link"]  # whatever it points to
    for wrong, why in (
        ([f"{folder}/two", f"two={folder}/one"], "already"),
        ([f"{folder}/bad name"], "NAME=FOLDER"),
        ([f"={folder}/two"], "NAME=FOLDER"),
        ([f"a/b={folder}/two"], "NAME=FOLDER"),
    ):
        with pytest.raises(UserError, match=why):
            model_names(wrong)


def test_an_address_that_is_taken_is_one_line(fails: Callable[..., str], tmp_path: Path) -> None:
    with _bound("127.0.0.1", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        assert f"--port {port}" in fails("serve", "-m", f"a={_recipe(tmp_path)}", "--port", str(port))
        assert address(listener) == f"http://127.0.0.1:{port}/"


def _recipe(folder: Path) -> Path:
    """The recipe of a classifier without its files."""
    inputs = "inputs: [{name: x, shape: [-1, 3, 8, 8], dtype: float32}]\nlabels: [a]\npreprocess: {}\npostprocess: {}\n"
    (folder / "inference.yml").write_text(f"task: classification\nformats: {{json: inference.json}}\n{inputs}")
    return folder


def test_bad_flags_are_one_line(fails: Callable[..., str], tmp_path: Path) -> None:
    assert "no inference.yml" in fails("serve", "-m", tmp_path)
    assert "no such folder" in fails("serve", "-m", tmp_path / "nothing")
    assert "give at least 4096" in fails("serve", "-m", tmp_path, "--max-pixels", "100")
    assert "--deadline" in fails("serve", "-m", tmp_path, "--deadline", "0")
    assert "--threshold" in fails("serve", "-m", f"a={_recipe(tmp_path)}", "--threshold", "0.5")
    (tmp_path / "token").write_text("\n")
    assert "token" in fails("serve", "-m", tmp_path, "--token-file", tmp_path / "token")
    assert "No such file" in fails("serve", "-m", tmp_path, "--token-file", tmp_path / "nothing")


@pytest.mark.slow
def test_a_model_that_cannot_run_is_not_served(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow: the model is trained."""

    def fails(*_: Any) -> None:
        raise UserError("the network is gone")

    monkeypatch.setattr(Predictor, "__call__", fails)
    with pytest.raises(UserError, match="the network is gone"):
        serve([str(exported)], "127.0.0.1", 0)


@pytest.fixture
def process(exported: Path, stack: ExitStack) -> tuple[subprocess.Popen[str], str]:
    """`pplcnet serve` with the exported model, and its address."""
    line = [sys.executable, "-m", "ppcls_ext.cli", "serve", "-m", f"easy={exported}", "--port", "0", "--threads", "1"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    stack.enter_context(process)  # closes its pipes, once it is killed
    stack.callback(process.kill)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert first["event"] == "listening"
    return process, first["address"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the signal is that of POSIX")
def test_sigterm_drains_and_ends_with_status_0(
    process: tuple[subprocess.Popen[str], str], exported: Path, data: Path
) -> None:
    """Slow: a process loads Paddle. Its answers are those of `Predictor`, and each logged request has had one."""
    server, url = process
    files = sorted((data / "val").rglob("*.png"))
    answers: list[tuple[Path, dict[str, Any]]] = []
    refused = threading.Event()

    def ask(own: list[Path]) -> None:
        with httpx.Client(base_url=url, timeout=SECONDS) as client:
            while not refused.is_set():
                for file in own:
                    try:
                        answer = client.post("/predict", content=file.read_bytes(), headers=PNG)
                    except httpx.TransportError:  # it takes no more
                        refused.set()
                        return
                    answers.append((file, answer.raise_for_status().json()))

    with ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(ask, files[k::4]) for k in range(4)]
        wait_until(lambda: len(answers) > 50)
        server.send_signal(signal.SIGTERM)
        for one in asking:
            one.result()
    out, err = server.communicate(timeout=SECONDS)
    assert (server.returncode, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "request"] == ["draining", "stopped"]
    assert {line["status"] for line in lines if line["event"] == "request"} == {200}
    assert len([line for line in lines if line["event"] == "request"]) == len(answers)
    with Predictor(exported, threads=1) as predict:
        expected = {file: predict(file).to_dict() for file in files}
    for file, answer in answers:
        assert answer["predictions"][0]["label"] == expected[file]["predictions"][0]["label"]
        assert [p["score"] for p in answer["predictions"]] == pytest.approx(
            [p["score"] for p in expected[file]["predictions"]], abs=1e-4
        )


@pytest.mark.slow
def test_a_public_client_of_the_protocol_is_served(
    process: tuple[subprocess.Popen[str], str], exported: Path, data: Path
) -> None:
    """Slow: a process loads Paddle. The client is NVIDIA's."""
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    file = str(sorted((data / "val").rglob("*.png"))[0])
    with Predictor(exported, threads=1) as predict:
        expected = predict(file).to_dict()["predictions"][0]["label"]
    client = triton.InferenceServerClient(process[1].removeprefix("http://").removesuffix("/"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("easy")
    assert client.get_server_metadata()["name"] == "pplcnet"
    about = client.get_model_metadata("easy", model_version="1")
    content = Path(file).read_bytes()
    images = triton.InferInput(about["inputs"][0]["name"], [2], "BYTES")
    images.set_data_from_numpy(np.array([content, content], np.object_))
    for outputs in (None, [triton.InferRequestedOutput("result", binary_data=False)]):
        answer = client.infer("easy", [images], outputs=outputs, request_id="7")
        assert answer.get_response()["id"] == "7"
        found = [json.loads(text) for text in answer.as_numpy("result")]
        assert [result["predictions"][0]["label"] for result in found] == [expected, expected]
    wrong = triton.InferInput("image", [1], "BYTES")
    wrong.set_data_from_numpy(np.array([b"no image"], np.object_))
    with pytest.raises(triton.InferenceServerException, match="422"):
        client.infer("easy", [wrong])
    assert client.is_server_ready()


# A service whose network gives its first result, which the start asks for, and no other.
HANGS = """
import sys, threading
from types import SimpleNamespace
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.serve import server
from ppcls_ext.serve.limits import Limits
from tests.serve.conftest import Grey

first = [True]

def run(inputs):
    if not first:
        threading.Event().wait()
    first.clear()
    return [inputs[0]]

class Hangs(Pipeline):
    exported = SimpleNamespace(task="classification")

    def __init__(self, *_, **__):
        super().__init__(lambda: run, Grey())
        self.inference_with = Grey

server.Predictor = Hangs
sys.exit(server.serve(["a=" + sys.argv[1]], "127.0.0.1", 0, limits=Limits(deadline_s=0.1, stall_s=0.2)))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the signal is that of POSIX")
def test_a_model_that_hangs_does_not_keep_the_process(tmp_path: Path, stack: ExitStack) -> None:
    """Slow: it starts a process."""
    line = [sys.executable, "-W", "ignore", "-c", HANGS, str(_recipe(tmp_path))]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    stack.enter_context(process)  # closes its pipes, once it is killed
    stack.callback(process.kill)
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["address"]
    assert httpx.post(f"{url}predict", content=png(1), headers=PNG, timeout=SECONDS).status_code == 504
    wait_until(lambda: httpx.get(f"{url}v2/health/live", timeout=SECONDS).status_code == 503)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (1, "")
    assert json.loads(out.splitlines()[-1])["text"] == "a model hangs"


@pytest.mark.parametrize("host", ["ä..b", "a\0b", "a" * 100])
def test_a_host_that_no_network_knows_is_one_line(host: str) -> None:
    with pytest.raises(UserError, match="choose another address"), _bound(host, 0):
        pass
