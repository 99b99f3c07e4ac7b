"""Pictures of results are bounded together, and come whole."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from ppcls_ext.cls.results import ClassResult
from ppcls_ext.runtime.results import Result
from ppcls_ext.serve import answers, pictures
from ppcls_ext.serve.answers import PartedResponse
from ppcls_ext.serve.pictures import wants_picture
from tests.helpers.processes import wait_until
from tests.serve.conftest import SECONDS, Grey, Served, listening, png

HEADERS = {"Content-Type": "image/png", "Accept": "image/png"}


@pytest.fixture
def service(served: Callable[..., Served]) -> Served:
    return served()


@pytest.fixture
def client(service: Served, client_of: Callable[[Served], TestClient]) -> TestClient:
    return client_of(service)


def test_a_picture_comes_in_parts_and_whole(
    service: Served, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = client.post("/predict", content=png(90, 40), headers=HEADERS)
    for part in (1, 7, len(whole.content) - 1, len(whole.content), len(whole.content) + 1):
        monkeypatch.setattr(answers, "PART", part)
        answer = client.post("/predict", content=png(90, 40), headers=HEADERS)
        assert answer.content == whole.content
        assert int(answer.headers["content-length"]) == len(answer.content)
    assert cv2.imdecode(np.frombuffer(whole.content, np.uint8), cv2.IMREAD_COLOR) is not None
    assert service.service.pictures.held == 0


def test_too_many_pictures_that_are_not_taken_are_429(
    service: Served, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MOST_BYTES", -1)
    refused = client.post("/predict", content=png(9), headers=HEADERS)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert client.post("/predict", content=png(9), headers={"Content-Type": "image/png"}).status_code == 200
    monkeypatch.undo()
    assert client.post("/predict", content=png(9), headers=HEADERS).status_code == 200


def test_maps_of_classes_count_until_they_are_taken(
    served: Callable[..., Served], client_of: Callable[[Served], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grey, "palette", [[0, 0, 0]])
    monkeypatch.setattr(ClassResult, "class_map", lambda result: bytes(3000))
    held: list[int] = []
    send = PartedResponse.__call__

    async def noted(self: PartedResponse, *arguments: Any) -> None:
        held.append(service.service.pictures.held)
        await send(self, *arguments)

    monkeypatch.setattr(PartedResponse, "__call__", noted)
    service = served()
    client = client_of(service)
    answer = client.post("/predict?mask=1", content=png(9))
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.json()["mask"]) == 4000
    assert client.post("/predict", content=png(9)).status_code == 200
    assert held[0] > 4000
    assert (held[1], service.service.pictures.held) == (0, 0)
    monkeypatch.setattr(pictures, "MOST_BYTES", -1)
    assert client.post("/predict?mask=1", content=png(9)).status_code == 429
    assert client.post("/predict", content=png(9)).status_code == 200


def test_nothing_is_drawn_for_a_client_that_has_gone(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    go, drawn = threading.Event(), []

    def draw(result: Result) -> bytes:
        drawn.append(result)
        assert go.wait(SECONDS)
        return b"picture"

    monkeypatch.setattr(pictures, "_drawn", draw)
    image = png(9)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nAccept: image/png\r\nContent-Length: {len(image)}\r\n\r\n".encode()
    with listening(service) as place:
        clients = [socket.create_connection(place) for _ in range(4)]
        for client in clients:
            client.sendall(head + image)
        wait_until(lambda: drawn)
        wait_until(lambda: service.metric("pplcnet_images_total", model="a", status="200") == 4)
        for client in clients:
            client.close()
        for _ in range(2):  # once these are answered, the service has seen the others go
            assert httpx.get(f"http://127.0.0.1:{place[1]}/v2/health/live", timeout=SECONDS).status_code == 200
        go.set()
        wait_until(lambda: service.metric("pplcnet_accepted_images", model="a") == 0)
    assert len(drawn) == 1
    assert service.service.pictures.held == 0


@pytest.mark.parametrize(
    ("accept", "picture"),
    [
        ("image/png", True),
        ("IMAGE/PNG;q=0.5", True),
        ("text/html, image/png", True),
        ("image/png, application/json", False),
        ("image/*", False),
        ("", False),
    ],
)
def test_who_gets_a_picture(accept: str, picture: bool) -> None:
    assert wants_picture(accept) is picture
