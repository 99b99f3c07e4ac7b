"""What the service answers for exported models of each task is what the Predictor finds."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from ppcls_ext import Predictor
from tests.serve.conftest import ServedExports

pytestmark = pytest.mark.slow  # each export is checked in processes of its own

TASKS = ("classification", "detection", "segmentation")
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def client(exports: dict[str, Path]) -> Iterator[TestClient]:
    with ExitStack() as stack:
        yield stack.enter_context(TestClient(ServedExports(stack, exports).service.app()))


def found(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what differs from run to run."""
    return {key: value for key, value in result.items() if key not in ("ms", "source")}


@pytest.mark.parametrize("task", TASKS)
def test_predict_answers_with_the_predictor_s_result(
    client: TestClient, exports: dict[str, Path], photo: Path, task: str
) -> None:
    with Predictor(exports[task], threads=1) as predict:
        expected = predict(photo)
        picture = expected.plot()
    data = photo.read_bytes()
    answer = client.post(f"/predict?model={task}", content=data, headers=PNG)
    assert answer.status_code == 200
    assert found(answer.json()) == found(expected.to_dict())
    drawn = client.post(f"/predict?model={task}", content=data, headers={**PNG, "Accept": "image/png"})
    assert drawn.headers["content-type"] == "image/png"
    decoded = cv2.imdecode(np.frombuffer(drawn.content, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), picture)


@pytest.mark.parametrize("task", TASKS)
def test_the_open_protocol_answers_with_the_predictor_s_result(
    client: TestClient, exports: dict[str, Path], photo: Path, task: str
) -> None:
    with Predictor(exports[task], threads=1) as predict:
        expected = found(predict(photo).to_dict())
    assert client.get(f"/v2/models/{task}").json()["platform"] == f"pplcnet_{task}"
    rgb = np.asarray(Image.open(photo).convert("RGB"))
    texts = [base64.b64encode(photo.read_bytes()).decode()]
    for tensor in (
        {"datatype": "BYTES", "shape": [1], "data": texts},
        {"datatype": "UINT8", "shape": [1, *rgb.shape], "data": rgb.reshape(-1).tolist()},
    ):
        answer = client.post(f"/v2/models/{task}/infer", json={"inputs": [{"name": "image", **tensor}]})
        (output,) = answer.json()["outputs"]
        assert found(json.loads(output["data"][0])) == expected


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        ({"datatype": "FP32", "shape": [1, 3, 4, 4], "data": [0.0] * 48}, "datatype of input image must be BYTES"),
        ({"datatype": "UINT8", "shape": [1, 3, 4, 4], "data": [0] * 48}, "must have the shape [H, W, 3]"),
        ({"datatype": "UINT8", "shape": [4, 4, 3], "data": [0] * 47}, "input image has 47 bytes, its shape says 48"),
        ({"datatype": "BYTES", "shape": [2], "data": ["AAAA"]}, "as many texts as its shape says"),
    ],
    ids=["floats", "channels first", "too few", "another count"],
)
def test_the_open_protocol_says_what_is_wrong_with_a_tensor(
    client: TestClient, task: str, tensor: dict[str, Any], says: str
) -> None:
    answer = client.post(f"/v2/models/{task}/infer", json={"inputs": [{"name": "image", **tensor}]})
    assert answer.status_code == 400
    assert says in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(("task", "option", "value"), [("classification", "topk", 2), ("detection", "threshold", 0.5)])
def test_a_request_sets_options_of_its_own(
    client: TestClient, exports: dict[str, Path], photo: Path, task: str, option: str, value: float
) -> None:
    data = photo.read_bytes()
    place = f"/predict?model={task}"
    before = found(client.post(place, content=data, headers=PNG).json())
    with Predictor(exports[task], threads=1, **{option: value}) as predict:
        expected = found(predict(photo).to_dict())
    assert expected != before
    assert found(client.post(f"{place}&{option}={value}", content=data, headers=PNG).json()) == expected
    assert found(client.post(place, content=data, headers=PNG).json()) == before


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("model=detection&threshold=2", "threshold: expected a score between 0 and 1, got 2"),
        ("model=detection&threshold=nan", "threshold: expected a number, got 'nan'"),
        ("model=detection&threshold=-1", "threshold: expected a number, got '-1'"),
        ("model=detection&threshold=", "threshold: expected a number, got ''"),
        ("model=detection&threshold=0.1&threshold=0.2", "parameter 'threshold' is given twice"),
        ("model=detection&topk=2", "parameter 'topk': model detection takes model, threshold"),
        ("model=detection&mask=1", "parameter 'mask': model detection takes model, threshold"),
        ("model=classification&topk=0", "topk: expected a number of classes, got 0"),
        ("model=classification&topk=1.0", "topk: expected a number of classes, got 1.0"),
        ("model=segmentation&threshold=0.5", "parameter 'threshold': model segmentation takes model, mask"),
        ("model=segmentation&mask=yes", "mask: expected 0 or 1, got 'yes'"),
    ],
)
def test_a_parameter_that_is_none_is_an_error_of_one_line(
    client: TestClient, photo: Path, query: str, says: str
) -> None:
    assert client.post("/predict?model=classification&topk=1", content=photo.read_bytes()).status_code == 200
    answer = client.post(f"/predict?{query}", content=photo.read_bytes(), headers=PNG)
    assert answer.status_code == 400
    assert answer.json() == {"error": says}


def test_a_map_of_classes_comes_where_it_is_asked_for(
    client: TestClient, exports: dict[str, Path], photo: Path
) -> None:
    with Predictor(exports["segmentation"], threads=1) as predict:
        expected = predict(photo)
    data = photo.read_bytes()
    place = "/predict?model=segmentation"
    assert "mask" not in client.post(f"{place}&mask=0", content=data, headers=PNG).json()
    files = [("x", ("one.png", data)), ("x", ("two.png", b"broken"))]
    results = client.post(f"{place}&mask=1", files=files).json()
    for result in (client.post(f"{place}&mask=1", content=data, headers=PNG).json(), results[0]):
        with Image.open(io.BytesIO(base64.b64decode(result.pop("mask")))) as picture:
            assert picture.mode == "P"
            assert np.array_equal(np.asarray(picture), expected.mask)
            shown = np.asarray(picture.convert("RGB"))
        assert np.array_equal(shown, np.array(expected.palette, np.uint8)[expected.mask])
        assert found(result) == found(expected.to_dict())
    assert "mask" not in results[1]


def test_the_models_are_listed_with_their_options(client: TestClient) -> None:
    listed = {model["name"]: model for model in client.get("/models").json()}
    assert {name: (model["task"], list(model["options"])) for name, model in listed.items()} == {
        "classification": ("classification", ["topk"]),
        "detection": ("detection", ["threshold"]),
        "segmentation": ("segmentation", []),
    }
    assert [bool(model["palette"]) for model in listed.values()] == [False, False, True]
