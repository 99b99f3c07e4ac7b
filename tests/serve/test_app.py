"""What each address answers, and what no request can do to the others."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from ppcls_ext.serve import bodies
from tests.helpers.processes import wait_until
from tests.serve.conftest import SECONDS, UNLUCKY, Grey, Served, png, value_of

Serve = Callable[..., Served]
Connect = Callable[[Served], TestClient]
PNG = {"Content-Type": "image/png"}


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header states this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND\xaeB`\x82"
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + end


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream", None])
def test_a_raw_image_gives_the_dictionary_of_its_result(served: Serve, client_of: Connect, kind: str | None) -> None:
    client = client_of(served())
    answer = client.post("/predict", content=png(40), headers={} if kind is None else {"Content-Type": kind})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    result = answer.json()
    assert value_of(result) == 40
    assert (result["source"], result["width"], result["height"], result["engine"]) == ("<bytes>", 4, 4, "test")
    assert set(result["ms"]) == {"decode", "prepare", "network", "postprocess"}


def test_a_form_gives_a_list_by_the_names_of_the_files(served: Serve, client_of: Connect) -> None:
    client = client_of(served())
    files = [("x", ("one.png", png(1))), ("x", ("../../etc/two.png", png(2)))]
    results = client.post("/predict", files=files, data={"note": "no file"}).json()
    assert [value_of(result) for result in results] == [1, 2]
    assert [result["source"] for result in results] == ["one.png", "../../etc/two.png"]
    assert [value_of(r) for r in client.post("/predict", files=files[:1]).json()] == [1]


def test_what_is_wrong_with_an_image_is_said_to_whom_has_sent_it(served: Serve, client_of: Connect) -> None:
    """By the name that it was sent under; there is no list of files to remove it from."""
    client, cut = client_of(served()), png(1, 64)[:80]
    files = [("x", ("one.png", png(1))), ("x", ("cut.png", cut))]
    text = client.post("/predict", files=files).json()[1]["error"]
    assert text.startswith("image cut.png: ")
    assert text.endswith("; send another file")
    text = client.post("/predict", content=cut, headers=PNG).json()["error"]
    assert text.startswith("image of the request: ")
    assert "list" not in text


def test_json_gives_what_it_asks_for(served: Serve, client_of: Connect) -> None:
    client = client_of(served())
    assert value_of(client.post("/predict", json={"image": base64_of(png(7))}).json()) == 7
    several = client.post("/predict", json={"images": [base64_of(png(k)) for k in (3, 2, 1)]}).json()
    assert [value_of(result) for result in several] == [3, 2, 1]


def test_a_picture_is_drawn_where_one_is_asked_for(served: Serve, client_of: Connect) -> None:
    client = client_of(served())
    answer = client.post("/predict", content=png(90, 40), headers={**PNG, "Accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] >= 40
    assert (picture == 90).any()
    for accept in ("*/*", "application/json", "application/json, image/png"):
        assert client.post("/predict", content=png(1), headers={**PNG, "Accept": accept}).json()["error"] is None
    form = client.post("/predict", files={"x": png(1)}, headers={"Accept": "image/png"})
    assert form.status_code == 400


def test_models_go_by_their_names(served: Serve, client_of: Connect) -> None:
    client = client_of(served("ab"))
    assert client.post("/predict?model=b", content=png(5), headers=PNG).status_code == 200
    for query, status in (("", 400), ("?model=c", 404), ("?model=../a", 404), ("?model=", 404)):
        answer = client.post(f"/predict{query}", content=png(5), headers=PNG)
        assert answer.status_code == status
        assert "a, b" in answer.json()["error"]


BROKEN: list[tuple[str, bytes, int]] = [
    ("empty", b"", 422),
    ("no image", b"hello", 422),
    ("cut short", png(9, 64)[:-20], 422),
    ("damaged", png(9, 64)[:60] + b"\0\0\0\0" + png(9, 64)[64:], 422),
    ("a bomb", huge_png(60000, 60000), 413),
    ("zero wide", huge_png(0, 5), 422),
]


@pytest.mark.parametrize(("data", "status"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_an_image_that_cannot_be_read_is_an_error_of_one_line(
    served: Serve, client_of: Connect, data: bytes, status: int
) -> None:
    service = served()
    client = client_of(service)
    answer = client.post("/predict", content=data, headers=PNG)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert "\n" not in answer.json()["error"]
    assert client.get("/v2/health/ready").status_code == 200
    assert service.network.batches == []


def test_an_error_of_an_image_is_its_own_in_a_list(served: Serve, client_of: Connect) -> None:
    service = served()
    client = client_of(service)
    datas = [png(1), b"no image", huge_png(60000, 60000), png(UNLUCKY), png(5)]
    answer = client.post("/predict", json={"images": [base64_of(data) for data in datas]})
    assert answer.status_code == 200
    first, *errors, last = answer.json()
    assert (value_of(first), value_of(last)) == (1, 5)
    assert [bool(error["error"]) for error in errors] == [True] * 3
    assert set(errors[0]) == set(last) - {"predictions"}
    assert "out of luck" in errors[2]["error"]
    counts = {
        status: service.metric("pplcnet_images_total", model="a", status=status)
        for status in ("200", "413", "422", "500")
    }
    assert counts == {"200": 2, "413": 1, "422": 1, "500": 1}


BAD: list[tuple[str, dict[str, Any], int]] = [
    ("an unknown type", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
    ("curl's own type", {"content": png(1), "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415),
    ("a compressed body", {"content": png(1), "headers": {**PNG, "Content-Encoding": "gzip"}}, 415),
    ("no JSON", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
    ("deep JSON", {"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400),
    ("bytes that are no text", {"content": b"\xff\xfe\xff", "headers": {"Content-Type": "application/json"}}, 400),
    ("a long number", {"content": b"1" * 10_000, "headers": {"Content-Type": "application/json"}}, 400),
    ("a JSON list", {"json": []}, 400),
    ("other keys", {"json": {"picture": ""}}, 400),
    ("both keys", {"json": {"image": "", "images": []}}, 400),
    ("no base64", {"json": {"image": "!!!"}}, 400),
    ("base64 beyond ASCII", {"json": {"image": "ä"}}, 400),
    ("a number", {"json": {"image": 5}}, 400),
    ("a path", {"json": {"image": "/etc/passwd"}}, 400),
    ("no list", {"json": {"images": "abcd"}}, 400),
    ("an empty list", {"json": {"images": []}}, 400),
    ("too many", {"json": {"images": [""] * 40}}, 413),
    ("too many files", {"files": [("x", (f"{k}", b"")) for k in range(40)]}, 413),
    (
        "a form without files",
        {"content": b"--x--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        400,
    ),
    ("a form without its boundary", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
    (
        "a boundary that is none",
        {"content": b"x", "headers": {"Content-Type": 'multipart/form-data; boundary="\\""'}},
        400,
    ),
    ("a file of a long name", {"files": [("x", ("a" * 9000, b""))]}, 400),
    ("a broken form", {"content": b"\0" * 99, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400),
]


@pytest.mark.parametrize(("request_", "status"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_request_is_an_error_of_one_line(
    served: Serve, client_of: Connect, request_: dict[str, Any], status: int
) -> None:
    service = served()
    client = client_of(service)
    answer = client.post("/predict", **request_)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert value_of(client.post("/predict", content=png(8), headers=PNG).json()) == 8
    assert not [line for line in service.lines() if line["event"] != "request"]


@pytest.mark.parametrize("charset", ["utf-7", "unicode_escape", "undefined", "punycode", "idna", "hex", "nothing"])
def test_a_form_chooses_no_codec(served: Serve, client_of: Connect, charset: str) -> None:
    """Some of Python's make text that no answer can hold, others take their time."""
    service = served()
    content = (
        b'--x\r\nContent-Disposition: form-data; name="i"; filename="+2AA-\\ud800\xff"\r\n\r\n'
        + png(4)
        + b"\r\n--x--\r\n"
    )
    kind = {"Content-Type": f"multipart/form-data; charset={charset}; boundary=x"}
    (result,) = client_of(service).post("/predict", content=content, headers=kind).json()
    assert value_of(result) == 4
    assert result["source"] == "+2AA-\\ud800\u00ff"


@pytest.mark.parametrize(
    "name", ["na\u00efve.png", "\u5199\u771f.png", "a\u202egnp.exe", "\0", "a" * 200, "'\";<script>"]
)
def test_a_file_s_name_comes_back_as_it_was_sent(served: Serve, client_of: Connect, name: str) -> None:
    service = served()
    client = client_of(service)
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    content = f'--x\r\nContent-Disposition: form-data; name="i"; filename="{quoted}"\r\n\r\n'.encode() + png(4)
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    (result,) = client.post("/predict", content=content + b"\r\n--x--\r\n", headers=kind).json()
    assert (value_of(result), result["source"]) == (4, name)


def test_json_of_too_many_values_is_refused_before_it_is_read(
    served: Serve, client_of: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python makes them without letting go of its lock: every other request would wait."""
    monkeypatch.setattr(bodies, "MOST_VALUES", 1000)
    client = client_of(served())
    for body in (b"[" + b"[]," * 1000 + b"[]]", b"," * 1000):
        for place in ("/predict", "/v2/models/a/infer"):
            answer = client.post(place, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 413
            assert "values" in answer.json()["error"]


def test_large_forms_are_parsed_beside_the_others(
    served: Serve, client_of: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LARGE", 50)
    client = client_of(served())
    results = client.post("/predict", files=[("x", ("one.png", png(1))), ("x", ("two.png", png(2)))]).json()
    assert [(value_of(result), result["source"]) for result in results] == [(1, "one.png"), (2, "two.png")]
    broken = {"content": bytes(99), "headers": {"Content-Type": "multipart/form-data; boundary=x"}}
    assert client.post("/predict", **broken).status_code == 400


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("&".join(["x=1"] * 1500), 400),
        ("&".join(["model=a"] * 1500), 400),
        ("&" * 5000, 200),
        ("=&" * 100, 400),
        ("model=%ff%fe", 404),
        ("model=%00", 404),
        ("model=%F0%9F%98%80", 404),
        ("model=a%0d%0aX:%20y", 404),
        ("topk=\u0661".encode().decode("latin-1"), 400),
    ],
)
def test_odd_parameters_are_errors_of_one_line(served: Serve, client_of: Connect, query: str, status: int) -> None:
    service = served()
    answer = client_of(service).post(f"/predict?{query}", content=png(1), headers=PNG)
    assert answer.status_code == status
    assert "x" not in {name for name in answer.headers if len(name) == 1}
    assert not [line for line in service.lines() if line["event"] != "request"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/", 200),
        ("HEAD", "/v2", 200),
        ("HEAD", "/metrics", 200),
        ("HEAD", "/predict", 405),
        ("HEAD", "/nothing", 404),
        ("OPTIONS", "/predict", 405),
        ("OPTIONS", "*", 404),
        ("TRACE", "/v2", 405),
        ("A" * 100, "/v2", 405),
    ],
)
def test_other_methods_give_nothing_and_make_no_label(
    served: Serve, client_of: Connect, method: str, path: str, status: int
) -> None:
    service = served()
    client = client_of(service)
    answer = client.request(method, path, headers={"Origin": "http://evil.example"})
    assert answer.status_code == status
    assert method != "HEAD" or answer.content == b""
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "AAA" not in client.get("/metrics").text
    assert all(len(line["method"]) <= 20 for line in service.lines())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/predict", 405),
        ("DELETE", "/v2", 405),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/v2/models/..%2f..%2fetc", 404),
        ("GET", "/v2/models/c", 404),
        ("GET", "/v2/models/a/versions/2", 404),
        ("POST", "/v2/models/c/infer", 404),
    ],
)
def test_other_places_are_errors_of_one_line(
    served: Serve, client_of: Connect, method: str, path: str, status: int
) -> None:
    answer = client_of(served()).request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert status != 405 or f"it takes {answer.headers['allow']}" in answer.json()["error"]


def test_a_large_body_is_refused(served: Serve, client_of: Connect) -> None:
    client = client_of(served(body_bytes=1000))
    answer = client.post("/predict", content=bytes(1001), headers=PNG)
    assert answer.status_code == 413
    assert client.post("/predict", content=iter([bytes(100)] * 11), headers=PNG).status_code == 413  # states no length
    assert client.post("/predict", content=bytes(1000), headers=PNG).status_code == 422


def test_bodies_that_are_held_are_bounded_together(served: Serve, client_of: Connect) -> None:
    service = served(held_bytes=150)
    client = client_of(service)
    service.network.go.clear()
    with ThreadPoolExecutor(1) as others:
        image = png(1)
        assert 75 < len(image) < 150
        first = others.submit(client.post, "/predict", content=image, headers=PNG)
        assert service.network.begun.acquire(timeout=SECONDS)
        refused = client.post("/predict", content=image, headers=PNG)
        service.network.go.set()
        assert first.result(SECONDS).status_code == 200
    assert refused.status_code == 429
    assert client.post("/predict", content=image, headers=PNG).status_code == 200


def test_images_that_wait_run_together(served: Serve, client_of: Connect) -> None:
    service = served(batch=4)
    client = client_of(service)
    service.network.go.clear()
    with ThreadPoolExecutor(9) as clients:
        first = clients.submit(client.post, "/predict", content=png(50), headers=PNG)
        assert service.network.begun.acquire(timeout=SECONDS)
        others = [clients.submit(client.post, "/predict", content=png(k), headers=PNG) for k in range(8)]
        wait_until(lambda: service.metric("pplcnet_accepted_images", model="a") == 9)
        service.network.go.set()
        assert value_of(first.result(SECONDS).json()) == 50
        assert [value_of(other.result(SECONDS).json()) for other in others] == list(range(8))
    assert max(service.network.batches) > 1
    assert sum(service.network.batches) == 9
    assert service.metric("pplcnet_batch_images_sum", model="a") == 9
    assert service.metric("pplcnet_batch_images_count", model="a") == len(service.network.batches)


def test_a_full_queue_is_429_and_loses_nothing(served: Serve, client_of: Connect) -> None:
    service = served(queue=3)
    client = client_of(service)
    service.network.go.clear()
    with ThreadPoolExecutor(3) as clients:
        accepted = [clients.submit(client.post, "/predict", content=png(k), headers=PNG) for k in range(3)]
        wait_until(lambda: service.metric("pplcnet_accepted_images", model="a") == 3)
        refused = client.post("/predict", content=png(9), headers=PNG)
        assert client.get("/v2/health/ready").status_code == 200
        service.network.go.set()
        assert [value_of(one.result(SECONDS).json()) for one in accepted] == [0, 1, 2]
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert client.post("/predict", content=png(9), headers=PNG).status_code == 200
    assert client.post("/predict", json={"images": [base64_of(png(1))] * 4}).status_code == 413


def test_pixels_that_results_hold_are_bounded_together(
    served: Serve, client_of: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grey, "palette", [[0, 0, 0]])  # its results have a map of classes
    service = served(held_pixels=40, pixels=30)
    client = client_of(service)
    service.network.go.clear()
    with ThreadPoolExecutor(2) as others:
        files = [("x", ("one.png", png(1))), ("x", ("two.png", huge_png(60000, 60000)))]  # the second holds nothing
        held = others.submit(client.post, "/predict", files=files)
        more = others.submit(client.post, "/predict", content=png(2), headers=PNG)
        assert service.network.begun.acquire(timeout=SECONDS)
        wait_until(lambda: service.metric("pplcnet_accepted_images", model="a") == 3)
        refused = client.post("/predict", content=png(3), headers=PNG)
        service.network.go.set()
        assert [result["error"] is None for result in held.result(SECONDS).json()] == [True, False]
        assert value_of(more.result(SECONDS).json()) == 2
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"] == "model a: images of 32 pixels are not answered yet"
    assert client.post("/predict", content=png(3), headers=PNG).status_code == 200
    never = client.post("/predict", json={"images": [base64_of(png(1))] * 3})
    assert (never.status_code, never.json()["error"]) == (
        413,
        "48 pixels in one request are more than 40; send fewer images at once",
    )


def test_results_without_a_map_hold_no_pixels(served: Serve, client_of: Connect) -> None:
    client = client_of(served(held_pixels=1))
    assert client.post("/predict", content=png(3), headers=PNG).status_code == 200


def test_a_deadline_drops_what_waits(served: Serve, client_of: Connect) -> None:
    service = served(batch=1, deadline_s=0.2)
    client = client_of(service)
    service.network.go.clear()
    with ThreadPoolExecutor(20) as clients:
        sent = [clients.submit(client.post, "/predict", content=png(k), headers=PNG) for k in range(20)]
        assert [one.result(SECONDS).status_code for one in sent] == [504] * 20
    assert service.metric("pplcnet_queue_images", model="a") == 0
    assert service.metric("pplcnet_images_total", model="a", status="504") == 20
    service.network.go.set()
    answer = client.post("/predict", content=png(33), headers=PNG)
    while answer.status_code == 504:  # a busy machine takes longer than this deadline
        answer = client.post("/predict", content=png(33), headers=PNG)
    assert value_of(answer.json()) == 33
    assert sum(service.network.batches) < 20  # those that waited were never run


@pytest.mark.parametrize("fault", ["broken", "lost"])
def test_a_model_that_fails_is_not_ready_until_it_works_again(
    served: Serve, client_of: Connect, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("ppcls_ext.serve.fitness.PROBE_S", 0.01)
    service = served()
    client = client_of(service)
    setattr(service.network, fault, True)
    assert client.post("/predict", content=png(1), headers=PNG).status_code == 500
    wait_until(lambda: client.get("/v2/health/ready").status_code == 503)
    assert client.get("/v2/models/a/ready").status_code == 503
    assert client.get("/v2/health/live").status_code == 200
    refused = client.post("/predict", content=png(1), headers=PNG)
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
    assert service.metric("pplcnet_model_ready", model="a") == 0
    setattr(service.network, fault, False)
    wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
    assert client.post("/predict", content=png(1), headers=PNG).status_code == 200
    events = [line["event"] for line in service.lines() if line["event"] != "request"]
    assert "not ready" in events
    assert events[-1] == "ready again"


def test_a_defect_where_a_result_is_handed_over_stops_no_other(
    served: Serve, client_of: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = served()
    client, jobs = client_of(service), service.models["a"].jobs
    settle = jobs.settle

    def fails(job: Any, future: Any) -> None:
        settle(job, future)
        raise RuntimeError("a defect")

    monkeypatch.setattr(jobs, "settle", fails)
    answers = [client.post("/predict", content=png(k), headers=PNG) for k in range(3)]
    assert [value_of(answer.json()) for answer in answers] == [0, 1, 2]


def test_images_that_only_fail_themselves_leave_the_model_ready(served: Serve, client_of: Connect) -> None:
    service = served()
    client = client_of(service)
    for _ in range(5):
        assert client.post("/predict", content=png(UNLUCKY), headers=PNG).status_code == 500
        assert client.get("/v2/health/ready").status_code == 200


def test_a_model_that_hangs_is_not_alive(served: Serve, client_of: Connect) -> None:
    service = served(deadline_s=0.05, stall_s=0.1)
    client = client_of(service)
    service.network.go.clear()
    assert client.post("/predict", content=png(1), headers=PNG).status_code == 504
    wait_until(lambda: client.get("/v2/health/live").status_code == 503)
    assert client.get("/v2/health/ready").status_code == 503
    assert client.post("/predict", content=png(1), headers=PNG).status_code == 503
    service.network.go.set()
    wait_until(lambda: client.get("/v2/health/live").status_code == 200)


def test_a_token_is_asked_for_everywhere_but_at_the_health(served: Serve, client_of: Connect) -> None:
    client = client_of(served(token="open sesame"))
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200
    wrong = ["", "Bearer", "Bearer open", "Basic open sesame", "open sesame", "Bearer \xff"]
    for path in ("/", "/models", "/metrics", "/v2", "/nothing", "/v2/health/live/"):
        assert client.get(path).status_code == 401
        for text in wrong:
            answer = client.get(path, headers={"Authorization": text.encode("latin-1")})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
    assert client.post("/predict", content=png(1), headers=PNG).status_code == 401
    right = {"Authorization": "bearer open sesame"}
    assert client.get("/metrics", headers=right).status_code == 200
    assert value_of(client.post("/predict", content=png(1), headers={**PNG, **right}).json()) == 1


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.mark.parametrize("token", [None, "open sesame"])
def test_a_browser_gets_the_page_and_its_policy(served: Serve, client_of: Connect, token: str | None) -> None:
    """With a token too: a browser cannot send it before the page has asked for it."""
    client = client_of(served("secret", token=token))
    answer = client.get("/", headers=BROWSER)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
    assert "unsafe" not in answer.headers["content-security-policy"]
    (script,) = re.findall("<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'sha256-{digest}'"
    assert "{{" not in answer.text
    assert client.get("/metrics", headers=BROWSER).status_code == (200 if token is None else 401)
    assert client.post("/", headers=BROWSER).status_code == (405 if token is None else 401)


@pytest.mark.parametrize("accept", ["*/*", "", "application/json", "text/plain"])
def test_other_clients_get_a_list_of_the_addresses(served: Serve, client_of: Connect, accept: str) -> None:
    answer = client_of(served("ab")).get("/", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert answer.text.startswith("pplcnet ")
    assert "a, b" in answer.text
    assert "http://testserver/predict" in answer.text


def test_an_unknown_parameter_is_refused(served: Serve, client_of: Connect) -> None:
    answer = client_of(served()).post("/predict?treshold=0.5", content=png(1), headers=PNG)
    assert answer.status_code == 400
    assert answer.json() == {"error": "parameter 'treshold': model a takes model"}


def test_the_log_has_a_line_for_each_request(served: Serve, client_of: Connect) -> None:
    service = served()
    client = client_of(service)
    client.post("/predict", content=png(1), headers=PNG)
    client.post("/predict", content=b"x", headers=PNG)
    client.get("/nothing%0aelse")
    lines = service.lines()
    assert [line["status"] for line in lines] == [200, 422, 404]
    assert [line.get("model") for line in lines] == ["a", "a", None]
    assert lines[0].keys() >= {"time", "event", "client", "method", "path", "status", "ms", "images"}
    assert "image" in lines[1]["error"]
    assert lines[2]["path"] == "/nothing\nelse"


def test_metrics_have_every_stage_and_no_label_of_the_client_s_making(served: Serve, client_of: Connect) -> None:
    service = served()
    client = client_of(service)
    client.post("/predict", content=png(1), headers=PNG)
    client.get("/some/where")
    client.get("/v2/models/unknown")
    text = client.get("/metrics").text
    for stage in ("wait", "decode", "prepare", "network", "postprocess"):
        assert f'pplcnet_stage_seconds_count{{model="a",stage="{stage}"}} 1.0' in text
    assert 'pplcnet_requests_total{route="/predict",status="200"} 1.0' in text
    assert 'pplcnet_queue_images{model="a"} 0.0' in text
    assert "some" not in text
    assert "unknown" not in text


def test_a_defect_of_ours_is_a_line_of_the_log_and_no_detail_for_the_client(
    served: Serve, client_of: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = served()
    client = client_of(service)
    monkeypatch.setattr(service.models["a"], "accept", lambda images: 1 / 0)
    answer = client.post("/predict", content=png(1), headers=PNG)
    assert answer.status_code == 500
    assert "division" not in answer.text
    (line,) = [line for line in service.lines() if line["event"] == "defect"]
    assert line["kind"] == "ZeroDivisionError"


def test_many_threads_get_their_own_results(served: Serve, client_of: Connect) -> None:
    service = served(batch=4, queue=128)
    client = client_of(service)
    go = threading.Barrier(8)

    def ask(k: int) -> float:
        if k < 8:
            go.wait(SECONDS)
        return value_of(client.post("/predict", content=png(k % 12), headers=PNG).json())

    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(ask, range(100))) == [k % 12 for k in range(100)]
