"""The images of a request's body: raw, in a form, or in JSON. A body is bounded before and while it is read."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ppcls_ext.serve.limits import MEGABYTE, Limits, Refusal, busy
from ppcls_ext.serve.request_image import RequestImage

LARGE = 2**16  # bytes
# In a JSON body. A file is one value; so many numbers are an image of 590 x 590. Python holds its lock while it makes
# them, and every other request waits: 0.4 s at most.
MOST_VALUES = 2**20
MOST_FIELDS = 100  # a form may have so many beside its files
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{1,70}")  # as RFC 2046 has it
JPEG_HINT = "send an image with its type, such as -H 'Content-Type: image/jpeg'"

Parsed = TypeVar("Parsed")


class Bodies:
    """Reads bodies, and knows how many bytes of them are held."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request; it counts as held for as long as the context lasts.

        Raises:
            Refusal: it is compressed (415), too large (413), too slow (408), or too much is held already (429).
        """
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "compressed bodies are not taken; send it without Content-Encoding")
        stated = int(request.headers.get("content-length", 0))  # digits: the server has checked it
        self._check(stated, stated)
        held = 0
        parts: list[bytes] = []

        async def read_all() -> None:
            nonlocal held
            async for part in request.stream():
                held += len(part)
                self._held += len(part)
                self._check(held)
                parts.append(part)

        try:
            try:
                await asyncio.wait_for(read_all(), self._limits.body_s)
            except asyncio.TimeoutError:
                raise Refusal(408, f"the body took more than {self._limits.body_s:g} s") from None
            yield parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            self._held -= held

    def _check(self, size: int, more: int = 0) -> None:
        if size > self._limits.body_bytes:
            raise Refusal(413, f"more than {self._limits.body_bytes / MEGABYTE:g} MB; send a smaller image")
        if self._held + more > self._limits.held_bytes:
            raise busy("too much is being read already")


async def without_standstill(size: int, parse: Callable[[], Parsed]) -> Parsed:
    """What a function gives that parses so many bytes: in a thread if they are many, since the event loop, and with it
    every other request, would stand still meanwhile.
    """
    return parse() if size < LARGE else await asyncio.to_thread(parse)


def parsed_json(body: bytes) -> Any:
    """The content of a JSON body.

    Raises:
        Refusal: 400, it is none; 413, it has too many values.
    """
    if body.count(b",") >= MOST_VALUES:
        raise Refusal(413, f"more than {MOST_VALUES} values in the JSON; send files, or a binary tensor")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise Refusal(400, f"not valid JSON: {' '.join(str(error).split())[:100]}") from None


def decoded_base64(text: Any, where: str) -> bytes:
    """The bytes that a text of base64 stands for.

    Raises:
        Refusal: 400, it is none.
    """
    if not isinstance(text, str):
        raise Refusal(400, f"{where} must be base64 text")
    try:
        return base64.b64decode(_without_breaks(text), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, f"{where} is not valid base64 of a file, which has no data: before it") from None


def _without_breaks(text: str) -> str:
    """Base64 as many programs write it has a line break after each 76 characters."""
    return "".join(text.split()) if "\n" in text else text


async def images_of(headers: Headers, body: bytes, limits: Limits) -> tuple[list[RequestImage], bool]:
    """The images of a body of `POST /predict`, and whether they are a list, which is answered by a list.

    Raises:
        Refusal: 400 for a body that is not what its type says, 413 for too many images, 415 for another type.
    """
    kind = headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [RequestImage(body)], False
    if kind == "multipart/form-data":
        images, several = await _of_form(headers, body, limits), True
    elif kind == "application/json":
        images, several = await without_standstill(len(body), lambda: _of_json(parsed_json(body)))
    else:
        raise Refusal(415, f"content type {kind[:50]!r}: {JPEG_HINT}")
    check_count(len(images), limits)
    return images, several


def check_count(images: int, limits: Limits) -> None:
    """Raise Refusal for a request with no image (400) or too many (413)."""
    if images == 0:
        raise Refusal(400, "no image in the request")
    most = min(limits.images, limits.queue)
    if images > most:
        raise Refusal(413, f"{images} images in one request; send at most {most}")


def _of_json(content: Any) -> tuple[list[RequestImage], bool]:
    if not isinstance(content, dict) or len(content.keys() & {"image", "images"}) != 1:
        raise Refusal(400, 'JSON must be {"image": BASE64} or {"images": [BASE64, ...]}')
    if "image" in content:
        return [RequestImage(decoded_base64(content["image"], "image"))], False
    if not isinstance(content["images"], list):
        raise Refusal(400, "images must be a list of base64 texts")
    return [RequestImage(decoded_base64(text, f"images[{k}]")) for k, text in enumerate(content["images"])], True


class _InMemory(MultiPartParser):
    """Starlette's parser, without its temporary files: nothing of a request goes to a disk."""

    spool_max_size = 2**40


async def _of_form(headers: Headers, body: bytes, limits: Limits) -> list[RequestImage]:
    _, options = parse_options_header(headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise Refusal(400, "form: its Content-Type has no boundary, or one that is none")
    # Nothing else of the header: its charset names any codec of Python's, and some make text that no answer can hold.
    headers = Headers(raw=[(b"content-type", b'multipart/form-data; boundary="' + boundary + b'"')])

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    async def parsed() -> FormData:
        most = limits.images + 1  # one more, which `check_count` then refuses with its own words
        return await _InMemory(headers, whole(), max_files=most, max_fields=MOST_FIELDS).parse()

    try:
        form = await (parsed() if len(body) < LARGE else asyncio.to_thread(lambda: asyncio.run(parsed())))
    except (MultiPartException, FormParserError, ValueError) as error:
        text = getattr(error, "message", str(error))
        raise Refusal(413 if "Too many" in text else 400, f"form: {' '.join(text.split())[:100]}") from None
    images = []
    for _, value in form.multi_items():
        if isinstance(value, UploadFile):
            images.append(RequestImage(await value.read(), value.filename or None))
    await form.close()
    return images
