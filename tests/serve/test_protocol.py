"""The open inference protocol: what its clients send and expect, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from ppcls_ext.serve.limits import Limits, Refusal
from ppcls_ext.serve.protocol import read_request
from tests.helpers.processes import wait_until
from tests.serve.conftest import SECONDS, UNLUCKY, Served, png, value_of

Serve = Callable[..., Served]
Connect = Callable[[Served], TestClient]
INFER = "/v2/models/a/infer"


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png(6)).decode()], **changes}


def asked(*inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"inputs": list(inputs), **more}


def binary(request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Arguments of `client.post` for a request with a binary tensor."""
    head = json.dumps(request).encode()
    return {"content": head + data, "headers": {"Inference-Header-Content-Length": str(len(head))}}


def elements(*files: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def test_the_service_and_its_models_say_what_they_are(served: Serve, client_of: Connect) -> None:
    client = client_of(served("ab"))
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for place in ("/v2/models/b", "/v2/models/b/versions/1"):
        about = client.get(place).json()
        assert (about["name"], about["versions"], about["platform"]) == ("b", ["1"], "pplcnet_classification")
        assert about["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert about["outputs"] == [{"name": "result", "datatype": "BYTES", "shape": [-1]}]
        assert client.get(f"{place}/ready").json() == {"name": "b", "ready": True}


def test_json_in_and_json_out(served: Serve, client_of: Connect) -> None:
    client = client_of(served())
    answer = client.post(INFER, json=asked(tensor(), id="42")).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("a", "1", "42")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("result", "BYTES", [1])
    assert value_of(json.loads(output["data"][0])) == 6
    assert "id" not in client.post(INFER, json=asked(tensor())).json()


@pytest.mark.parametrize(
    "wish",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "result", "parameters": {"binary_data": True}}]},
    ],
    ids=["all outputs", "this output"],
)
def test_binary_in_and_binary_out(served: Serve, client_of: Connect, wish: dict[str, Any]) -> None:
    data = elements(png(1), png(2))
    image = {"name": "image", "datatype": "BYTES", "shape": [2, 1], "parameters": {"binary_data_size": len(data)}}
    answer = client_of(served()).post(INFER, **binary(asked(image, **wish), data))
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:length])["outputs"]
    rest = answer.content[length:]
    assert output["parameters"]["binary_data_size"] == len(rest)
    assert output["shape"] == [2]
    (first,) = struct.unpack_from("<I", rest)
    assert value_of(json.loads(rest[4 : 4 + first])) == 1
    assert value_of(json.loads(rest[8 + first :])) == 2


@pytest.mark.parametrize("shape", [[4, 5, 3], [1, 4, 5, 3], [2, 4, 5, 3]], ids=str)
def test_pixels_in(served: Serve, client_of: Connect, shape: list[int]) -> None:
    client = client_of(served())
    pixels = np.full(shape, 77, np.uint8)
    image = {"name": "image", "datatype": "UINT8", "shape": shape}
    sized = {**image, "parameters": {"binary_data_size": pixels.size}}
    for request in (binary(asked(sized), pixels.tobytes()), {"json": asked({**image, "data": pixels.tolist()})}):
        answer = client.post(INFER, **request)
        assert answer.status_code == 200
        results = [json.loads(text) for text in answer.json()["outputs"][0]["data"]]
        assert [value_of(result) for result in results] == [77] * (shape[0] if len(shape) == 4 else 1)
        assert (results[0]["width"], results[0]["height"], results[0]["source"]) == (5, 4, "<array>")


def test_an_error_of_an_image_is_in_its_result_unless_all_have_one(served: Serve, client_of: Connect) -> None:
    client = client_of(served())
    texts = [base64.b64encode(data).decode() for data in (b"none", png(UNLUCKY), png(2))]
    answer = client.post(INFER, json=asked(tensor(shape=[3], data=texts)))
    first, second, third = (json.loads(text) for text in answer.json()["outputs"][0]["data"])
    assert first["error"]
    assert second["error"]
    assert value_of(third) == 2
    assert client.post(INFER, json=asked(tensor(data=texts[:1]))).status_code == 422


def test_options_of_predict_are_refused_and_not_passed_over(served: Serve, client_of: Connect) -> None:
    answer = client_of(served()).post(f"{INFER}?topk=1", json=asked(tensor()))
    assert answer.status_code == 400
    assert "'topk'" in answer.json()["error"]


def test_base64_may_have_line_breaks(served: Serve, client_of: Connect) -> None:
    text = base64.encodebytes(png(9, 64)).decode()
    assert "\n" in text.strip()
    answer = client_of(served()).post(INFER, json=asked(tensor(data=[text]))).json()
    assert value_of(json.loads(answer["outputs"][0]["data"][0])) == 9


def test_a_client_may_wait_for_less_than_the_deadline(served: Serve, client_of: Connect) -> None:
    service = served()
    client = client_of(service)
    service.network.go.clear()
    assert client.post(INFER, json=asked(tensor(), parameters={"timeout": 1000})).status_code == 504


WRONG: list[tuple[str, dict[str, Any], int]] = [
    ("a list", {"json": []}, 400),
    ("no inputs", {"json": {}}, 400),
    ("inputs of another kind", {"json": {"inputs": {"image": 1}}}, 400),
    ("two inputs", {"json": asked(tensor(), tensor())}, 400),
    ("another input", {"json": asked(tensor(name="x"))}, 400),
    ("another output", {"json": asked(tensor(), outputs=[{"name": "x"}])}, 400),
    ("outputs of another kind", {"json": asked(tensor(), outputs=[5])}, 400),
    (
        "classification",
        {"json": asked(tensor(), outputs=[{"name": "result", "parameters": {"classification": 3}}])},
        400,
    ),
    ("another datatype", {"json": asked(tensor(datatype="FP32"))}, 400),
    ("no shape", {"json": asked(tensor(shape=None))}, 400),
    ("a negative shape", {"json": asked(tensor(shape=[-1]))}, 400),
    ("a shape of truth", {"json": asked(tensor(shape=[True]))}, 400),
    ("a huge shape", {"json": asked(tensor(shape=[2**20] * 4))}, 413),
    ("an endless shape", {"json": asked(tensor(shape=[10**30]))}, 400),
    ("another count", {"json": asked(tensor(shape=[2]))}, 400),
    ("data of another kind", {"json": asked(tensor(data={"a": 1}))}, 400),
    ("no base64", {"json": asked(tensor(data=["/etc/passwd"]))}, 400),
    ("no data", {"json": asked({"name": "image", "datatype": "BYTES", "shape": [1]})}, 400),
    ("shared memory", {"json": asked(tensor(parameters={"shared_memory_region": "/dev/shm/x"}))}, 400),
    ("parameters of another kind", {"json": asked(tensor(parameters=[1]))}, 400),
    ("an id of another kind", {"json": asked(tensor(), id=5)}, 400),
    ("an endless timeout", {"json": asked(tensor(), parameters={"timeout": 10**400})}, 400),
    ("a timeout of truth", {"json": asked(tensor(), parameters={"timeout": True})}, 400),
    ("a negative timeout", {"json": asked(tensor(), parameters={"timeout": -5})}, 400),
    ("grey pixels", {"json": asked(tensor(datatype="UINT8", shape=[4, 4], data=[1] * 16))}, 400),
    ("pixels of four channels", {"json": asked(tensor(datatype="UINT8", shape=[2, 2, 4], data=[1] * 16))}, 400),
    ("pixels beyond a byte", {"json": asked(tensor(datatype="UINT8", shape=[1, 1, 3], data=[1, 2, 256]))}, 400),
    ("pixels of fractions", {"json": asked(tensor(datatype="UINT8", shape=[1, 1, 3], data=[0.5, 1, 2]))}, 400),
    ("pixels below a byte", {"json": asked(tensor(datatype="UINT8", shape=[1, 1, 3], data=[1, 2, -1]))}, 400),
    ("pixels of truth", {"json": asked(tensor(datatype="UINT8", shape=[1, 1, 3], data=[True, False, True]))}, 400),
    ("pixels of texts", {"json": asked(tensor(datatype="UINT8", shape=[1, 1, 3], data=["1", "", ""]))}, 400),
    ("pixels in an object", {"json": asked(tensor(datatype="UINT8", shape=[1, 1, 3], data={"1": 1}))}, 400),
    ("pixels of five axes", {"json": asked(tensor(datatype="UINT8", shape=[1, 1, 3], data=[[[[[1, 2, 3]]]]]))}, 400),
    ("ragged pixels", {"json": asked(tensor(datatype="UINT8", shape=[1, 1, 3], data=[[1], [2, 3]]))}, 400),
    ("too few pixels", {"json": asked(tensor(datatype="UINT8", shape=[2, 1, 3], data=[1, 2, 3]))}, 400),
    ("a length beyond the body", {"content": b"{}", "headers": {"Inference-Header-Content-Length": "3"}}, 400),
    ("a length of words", {"content": b"{}", "headers": {"Inference-Header-Content-Length": "two"}}, 400),
    ("a negative length", {"content": b"{}", "headers": {"Inference-Header-Content-Length": "-1"}}, 400),
    ("bytes of no input", binary(asked(tensor()), b"more"), 400),
    ("both", binary(asked(tensor(parameters={"binary_data_size": 4})), b"more"), 400),
]


def sized(data: bytes, size: int, **changes: Any) -> dict[str, Any]:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}, **changes}
    return binary(asked(image), data)


WRONG += [
    ("a size beyond the data", sized(b"1234", 5), 400),
    ("an element beyond the data", sized(struct.pack("<I", 2**32 - 1), 4), 400),
    ("a length cut short", sized(b"12", 2), 400),
    ("pixels cut short", sized(b"12", 2, datatype="UINT8", shape=[1, 1, 3]), 400),
    ("no element", sized(b"", 0), 400),
]


@pytest.mark.parametrize(("request_", "status"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_not_of_the_protocol_is_an_error_of_one_line(
    served: Serve, client_of: Connect, request_: dict[str, Any], status: int
) -> None:
    service = served()
    client = client_of(service)
    answer = client.post(INFER, **request_)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert client.post(INFER, json=asked(tensor())).status_code == 200
    assert not [line for line in service.lines() if line["event"] != "request"]


def test_one_long_text_among_pixels_takes_no_memory_for_the_others() -> None:
    """NumPy would make room for it at each place of the list: gigabytes for a megabyte."""
    body = json.dumps(asked(tensor(datatype="UINT8", shape=[100, 100, 3], data=["a" * 10**6] + [""] * 29_999))).encode()
    tracemalloc.start()
    try:
        with pytest.raises(Refusal, match="numbers"):
            asyncio.run(read_request(body, None, Limits()))
        assert tracemalloc.get_traced_memory()[1] < 20 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("wish", [{}, {"parameters": {"binary_data_output": True}}], ids=["JSON", "binary"])
def test_an_id_of_any_text_comes_back(served: Serve, client_of: Connect, wish: dict[str, Any]) -> None:
    client = client_of(served())
    for text in ("7\u00e4\u6f22", "\ud800", "\0\n", ""):
        answer = client.post(INFER, content=json.dumps(asked(tensor(), id=text, **wish)))
        length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
        assert json.loads(answer.content[:length])["id"] == text


def test_too_many_pixels_are_refused(served: Serve, client_of: Connect) -> None:
    client = client_of(served(pixels=100))
    answer = client.post(INFER, **sized(bytes(303), 303, datatype="UINT8", shape=[1, 101, 3]))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("data", "shape", "fault"),
    [
        (bytes(8) + b"cut", [1], "more elements than the 1 that its shape says"),  # refused before the cut is seen
        (bytes(4), [2], "has 1 elements, its shape says 2"),
    ],
)
def test_elements_are_counted_as_they_are_read(data: bytes, shape: list[int], fault: str) -> None:
    request = sized(data, len(data), shape=shape)
    with pytest.raises(Refusal, match=fault):
        asyncio.run(read_request(request["content"], *request["headers"].values(), Limits()))


def test_pixels_whose_client_waits_no_longer_are_not_run(served: Serve, client_of: Connect) -> None:
    service = served(batch=1, deadline_s=SECONDS)
    client = client_of(service)
    pixels = {"datatype": "UINT8", "shape": [2, 2, 3]}
    service.network.go.clear()
    with ThreadPoolExecutor(10) as clients:
        try:
            patient = [clients.submit(client.post, INFER, **sized(bytes([k] * 12), 12, **pixels)) for k in range(10)]
            wait_until(lambda: service.metric("pplcnet_queue_images", model="a") > 1)  # they are ahead of the next
            request = asked(tensor(**pixels, data=[0] * 12), parameters={"timeout": 50_000})
            assert client.post(INFER, json=request).status_code == 504
        finally:
            service.network.go.set()
        assert [one.result(SECONDS).status_code for one in patient] == [200] * len(patient)
    assert sum(service.network.batches) == len(patient)
