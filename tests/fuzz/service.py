"""Targets: what clients send to a service."""

from __future__ import annotations

import asyncio
import base64
import struct

from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from ppcls_ext.serve.bodies import images_of
from ppcls_ext.serve.limits import Limits
from ppcls_ext.serve.protocol import read_request, write_answer
from tests.fuzz import inputs
from tests.fuzz.checks import only_user_errors

PNG = inputs.image_file("PNG", "L")
INFER_REQUESTS = [
    {
        "id": "7",
        "parameters": {"timeout": 1000, "binary_data_output": True},
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(PNG).decode()]}],
        "outputs": [{"name": "result", "parameters": {"binary_data": True}}],
    },
    {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 1, 3], "data": [[[[1, 2, 3]], [[4, 5, 255]]]]}]},
]
BINARY_REQUEST = {
    "inputs": [
        {"name": "image", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 2 * len(PNG) + 8}}
    ]
}
ELEMENTS = 2 * (struct.pack("<I", len(PNG)) + PNG)


@given(
    st.one_of(*(inputs.json_texts(content) for content in INFER_REQUESTS), inputs.json_texts(BINARY_REQUEST)),
    st.one_of(st.just(b""), inputs.damaged(ELEMENTS)),
    st.one_of(st.none(), inputs.texts, st.integers(-1, 999).map(str)),
)
def infer_request(head: bytes, binary: bytes, length: str | None) -> None:
    """A request of the open inference protocol; its answer has to be writable, whatever the client calls it."""
    for stated in (length, str(len(head))):
        with only_user_errors():
            asked = asyncio.run(read_request(head + binary, stated, Limits()))
            assert 1 <= len(asked.images) <= Limits().images
            write_answer(asked, "a", [{"source": ""}] * len(asked.images))
            for image in asked.images:
                with only_user_errors():
                    image.check(Limits().pixels)


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="i"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n%s\r\n'
    b'--x\r\nContent-Disposition: form-data; name="note"\r\n\r\nnone\r\n--x--\r\n' % PNG
)
KINDS = [
    "application/json",
    "multipart/form-data; boundary=x",
    "multipart/form-data; boundary=x; charset=utf-7",
    'multipart/form-data; boundary="x"',
    "image/png",
    "text/plain",
]


@given(
    st.one_of(
        inputs.json_texts({"images": [base64.b64encode(PNG).decode()]}),
        inputs.damaged(FORM),
        st.sampled_from([b"", FORM]),
    ),
    st.one_of(st.sampled_from(KINDS), st.sampled_from(KINDS).map(str.encode).flatmap(inputs.damaged)),
)
def predict_request(body: bytes, kind: str | bytes) -> None:
    """The body of `POST /predict`; the names in it have to be writable."""
    header = kind if isinstance(kind, bytes) else kind.encode()
    with only_user_errors():
        images, _ = asyncio.run(images_of(Headers(raw=[(b"content-type", header)]), body, Limits()))
        for image in images:
            (image.name or "").encode()
            with only_user_errors():
                image.check(Limits().pixels)


SERVICE = (infer_request, predict_request)
