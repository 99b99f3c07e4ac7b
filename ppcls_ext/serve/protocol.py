"""The open inference protocol, version 2, which KServe, Triton and their clients speak, over HTTP.

A model has one input, `image`, and one output, `result`. The input is either BYTES [n], image files, or UINT8
[n, H, W, 3] (or [H, W, 3] for one), decoded RGB. The output is BYTES [n], the JSON texts of `Result.to_dict()`.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppcls_ext.serve.bodies import check_count, decoded_base64, parsed_json, without_standstill
from ppcls_ext.serve.limits import Limits, Refusal
from ppcls_ext.serve.request_image import RequestImage

HEADER = "inference-header-content-length"  # says how long the JSON is in a body with binary tensors
VERSION = "1"  # every model has this one version: a folder is one version
LARGEST_DIMENSION = 2**20
MOST_AXES = 4
LONGEST_TIMEOUT = 2**63 - 1  # microseconds; the protocol's numbers have 64 bits


@dataclass(frozen=True)
class Asked:
    """A request for inference.

    Attributes:
        id: the client's, which the answer repeats.
        images: in order.
        binary: whether the output is wanted as bytes behind the JSON.
        seconds: that the client is ready to wait, if it says so.
    """

    id: str | None
    images: list[RequestImage]
    binary: bool
    seconds: float | None


def metadata(name: str, task: str) -> dict[str, Any]:
    """What a client may ask about a model."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": f"pplcnet_{task}",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "result", "datatype": "BYTES", "shape": [-1]}],
    }


async def read_request(body: bytes, json_length: str | None, limits: Limits) -> Asked:
    """A request from its body.

    Args:
        json_length: the value of the header `HEADER`, where the request has it.
    Raises:
        Refusal: 400 for what is not of the protocol, 413 for too many images.
    """
    length = len(body)
    if json_length is not None:
        digits = json_length if re.fullmatch("[0-9]{1,12}", json_length) else "-1"
        if not 0 <= int(digits) <= length:
            raise Refusal(400, "Inference-Header-Content-Length must be the length of the JSON in the body")
        length = int(digits)
    return await without_standstill(len(body), lambda: _asked(body, length, limits))


def _asked(body: bytes, length: int, limits: Limits) -> Asked:
    content = parsed_json(body[:length])
    if not isinstance(content, dict):
        raise Refusal(400, "the JSON must be an object with inputs")
    tensor = _only_input(content)
    images = _images(tensor, _data(tensor, memoryview(body)[length:]), limits)
    parameters = _parameters(content, "request")
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) is not int or not 0 <= timeout <= LONGEST_TIMEOUT):
        raise Refusal(400, "parameter timeout must be a number of microseconds")
    request_id = content.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise Refusal(400, "id must be text")
    return Asked(request_id, images, _wants_binary(content, parameters), timeout / 1e6 if timeout else None)


def write_answer(asked: Asked, name: str, results: Sequence[Mapping[str, Any]]) -> tuple[bytes, dict[str, str]]:
    """The body of the answer and its headers."""
    texts = [json.dumps(result, ensure_ascii=False, allow_nan=False) for result in results]
    output: dict[str, Any] = {"name": "result", "datatype": "BYTES", "shape": [len(texts)]}
    answer = {"model_name": name, "model_version": VERSION, "outputs": [output]}
    if asked.id is not None:
        answer["id"] = asked.id
    if not asked.binary:
        output["data"] = texts
        return json.dumps(answer).encode(), {"Content-Type": "application/json"}
    binary = b"".join(struct.pack("<I", len(data)) + data for data in (text.encode() for text in texts))
    output["parameters"] = {"binary_data_size": len(binary)}
    head = json.dumps(answer).encode()  # in ASCII, since the client's id may be text that UTF-8 cannot hold
    return head + binary, {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }


def _parameters(thing: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    found = thing.get("parameters") or {}
    if not isinstance(found, dict):
        raise Refusal(400, f"parameters of the {where} must be an object")
    return found


def _only_input(content: Mapping[str, Any]) -> Mapping[str, Any]:
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Refusal(400, "inputs must be a list of one input, image")
    tensor = inputs[0]
    if tensor.get("name") != "image":
        raise Refusal(400, f"input {str(tensor.get('name'))[:50]!r}: the model has one input, image")
    return tensor


def _wants_binary(content: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    outputs = content.get("outputs") or []
    if not isinstance(outputs, list) or len(outputs) > 1 or not all(isinstance(output, dict) for output in outputs):
        raise Refusal(400, "outputs must be a list of one output, result")
    for output in outputs:
        if output.get("name") != "result":
            raise Refusal(400, f"output {str(output.get('name'))[:50]!r}: the model has one output, result")
        own = _parameters(output, "output")
        if own.get("classification"):
            raise Refusal(400, "output result: classification is not offered; the result has the classes")
        if "binary_data" in own:
            return own["binary_data"] is True
    return parameters.get("binary_data_output") is True


def _data(tensor: Mapping[str, Any], binary: memoryview) -> Any:
    """The data of the only input: its JSON, or the bytes behind the JSON."""
    parameters = _parameters(tensor, "input")
    size = parameters.get("binary_data_size")
    if any(str(key).startswith("shared_memory") for key in parameters):
        raise Refusal(400, "shared memory is not offered; send the data")
    if (size is None) == ("data" not in tensor):
        raise Refusal(400, "input image needs data, or binary_data_size and the bytes behind the JSON")
    if size is None:
        if len(binary):
            raise Refusal(400, "there are bytes behind the JSON that no input is said to have")
        return tensor["data"]
    if type(size) is not int or size != len(binary):
        raise Refusal(400, f"binary_data_size is not the {len(binary)} bytes behind the JSON")
    return binary


def _images(tensor: Mapping[str, Any], data: Any, limits: Limits) -> list[RequestImage]:
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= MOST_AXES
        or not all(type(side) is int and 0 < side <= LARGEST_DIMENSION for side in shape)
    ):
        raise Refusal(400, "shape of input image must be a list of positive sizes")
    if tensor.get("datatype") == "BYTES":
        check_count(math.prod(shape), limits)
        elements = _split(data, math.prod(shape)) if isinstance(data, memoryview) else _texts(data, math.prod(shape))
        return [RequestImage(element) for element in elements]
    if tensor.get("datatype") == "UINT8":
        return _pixels(data, shape, limits)
    raise Refusal(400, "datatype of input image must be BYTES (image files) or UINT8 (RGB [H, W, 3])")


def _split(data: memoryview, count: int) -> list[bytes]:
    """Elements of a binary BYTES tensor: each has its length before it, 4 bytes, the lowest first.

    It stops at the first that is too many: a body of 16 MB has room for 4 million empty ones.
    """
    elements: list[bytes] = []
    offset = 0
    while offset < len(data):
        if len(elements) == count:
            raise Refusal(400, f"input image has more elements than the {count} that its shape says")
        if offset + 4 > len(data):
            raise Refusal(400, "input image: its last element is cut short")
        (size,) = struct.unpack_from("<I", data, offset)
        offset += 4
        if size > len(data) - offset:
            raise Refusal(400, "input image: an element is longer than the data")
        elements.append(bytes(data[offset : offset + size]))
        offset += size
    if len(elements) != count:
        raise Refusal(400, f"input image has {len(elements)} elements, its shape says {count}")
    return elements


def _texts(data: Any, count: int) -> list[bytes]:
    """Elements of a BYTES tensor in JSON, flat or nested: files as base64, since JSON holds text only."""
    while isinstance(data, list) and data and isinstance(data[0], list) and len(data) <= count:
        data = [element for row in data for element in (row if isinstance(row, list) else [row])]
    if not isinstance(data, list) or len(data) != count:
        raise Refusal(400, "data of input image must be a list of as many texts as its shape says")
    return [decoded_base64(text, f"data[{k}] of input image") for k, text in enumerate(data)]


def _pixels(data: Any, shape: Sequence[int], limits: Limits) -> list[RequestImage]:
    if len(shape) < 3 or shape[-1] != 3:
        raise Refusal(400, "UINT8 input image must have the shape [H, W, 3] or [n, H, W, 3]")
    count = shape[0] if len(shape) == 4 else 1
    check_count(count, limits)
    if not isinstance(data, memoryview):
        data = memoryview(_numbers(data))
    if len(data) != math.prod(shape):
        raise Refusal(400, f"input image has {len(data)} bytes, its shape says {math.prod(shape)}")
    return [RequestImage(array) for array in np.frombuffer(data, np.uint8).reshape(count, *shape[-3:])]


def _numbers(data: Any) -> bytes:
    """Nested or flat lists of numbers as bytes. NumPy would make room for the longest text at each place of a list."""
    for _ in range(MOST_AXES - 1):
        if not (isinstance(data, list) and data and all(isinstance(row, list) for row in data)):
            break
        if any(len(row) != len(data[0]) for row in data):
            raise Refusal(400, "data of input image has rows of several lengths")
        data = list(itertools.chain.from_iterable(data))
    if not isinstance(data, list) or not all(type(number) is int for number in data):
        raise Refusal(400, "data of input image must be numbers from 0 to 255")
    try:
        return bytes(data)
    except ValueError:
        raise Refusal(400, "data of input image must be numbers from 0 to 255") from None
