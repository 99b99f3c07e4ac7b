"""Pictures of results are bounded together, and come whole."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from ppcls_ext.serve import pictures
from ppcls_ext.serve.pictures import wants_picture
from tests.serve.conftest import Served, png

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
        monkeypatch.setattr(pictures, "PART", part)
        answer = client.post("/predict", content=png(90, 40), headers=HEADERS)
        assert answer.content == whole.content
        assert int(answer.headers["content-length"]) == len(answer.content)
    assert cv2.imdecode(np.frombuffer(whole.content, np.uint8), cv2.IMREAD_COLOR) is not None
    assert service.service._pictures._held == 0


def test_too_many_pictures_that_are_not_taken_are_429(
    service: Served, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.service._pictures, "_held", pictures.MOST_BYTES + 1)
    refused = client.post("/predict", content=png(9), headers=HEADERS)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert client.post("/predict", content=png(9), headers={"Content-Type": "image/png"}).status_code == 200
    monkeypatch.setattr(service.service._pictures, "_held", 0)
    assert client.post("/predict", content=png(9), headers=HEADERS).status_code == 200


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
