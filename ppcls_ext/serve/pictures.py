"""Results as pictures: drawn one at a time, and sent in parts, so that neither takes memory without bound."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import cv2
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ppcls_ext.runtime.results import Result
from ppcls_ext.serve.answers import PartedResponse
from ppcls_ext.serve.limits import MEGABYTE, Refusal, busy

MOST_BYTES = 256 * MEGABYTE  # pictures that clients have not taken yet may have so many together


def wants_picture(accept: str) -> bool:
    """Whether a client that accepts this is to get a picture rather than JSON."""
    kinds = [kind.partition(";")[0].strip().lower() for kind in accept.split(",")]
    return "image/png" in kinds and "application/json" not in kinds


class Pictures:
    """Draws results, and knows how many bytes of pictures wait for their clients.

    Attributes:
        held: bytes of answers with pictures that their clients have not taken yet.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self.held = 0

    async def answer(self, request: Request, result: Result) -> Response:
        """The PNG of what was found.

        Raises:
            Refusal: 429, clients have too many pictures to take already.
            ClientDisconnect: the client has gone before its turn.
        """
        async with self._turn:
            if await request.is_disconnected():
                raise ClientDisconnect
            self._check_room()
            return self.holding(Response(await asyncio.to_thread(_drawn, result), media_type="image/png"))

    async def add_class_maps(self, found: Sequence[dict[str, Any]], outcomes: Sequence[Result | Refusal]) -> None:
        """Add `mask` to the dictionaries of results: their map of classes, a PNG in base64.

        Raises:
            Refusal: 429, clients have too many pictures to take already.
        """
        for result, outcome in zip(found, outcomes, strict=True):
            if isinstance(outcome, Result):
                async with self._turn:
                    self._check_room()
                    picture = await asyncio.to_thread(outcome.class_map)
                if picture is not None:
                    result["mask"] = base64.b64encode(picture).decode()

    def holding(self, answer: Response) -> Response:
        """An answer with pictures, which counts as held while it is being sent."""
        return _Held(self, answer)

    def _check_room(self) -> None:
        if self.held > MOST_BYTES:
            raise busy("too many pictures are being sent already")


class _Held(PartedResponse):
    def __init__(self, pictures: Pictures, answer: Response) -> None:
        super().__init__(answer.body, answer.status_code, dict(answer.headers))
        self._pictures = pictures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        self._pictures.held += len(self.body)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._pictures.held -= len(self.body)


def _drawn(result: Result) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(result.plot(), cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()
