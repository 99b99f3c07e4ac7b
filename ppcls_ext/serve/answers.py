"""Answers that are not a result: JSON, refusals, health; and how an endpoint comes to give one of them in any case."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ppcls_ext.serve.limits import Refusal
from ppcls_ext.serve.log import Log

GONE = 499  # the client went away before the answer; other servers log this number too
NOTES = "pplcnet.notes"  # key of a request's scope: what its line of the log says beside the usual

PART = 2**18  # bytes that are handed to a connection at once

Endpoint = Callable[[Request], Awaitable[Response]]


class PartedResponse(Response):
    """An answer that is sent in parts, each once the client has taken the one before.

    So a client that is slow but goes on taking is not cut off, however large its answer is.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for start in range(0, max(1, len(self.body)), PART):
            more = start + PART < len(self.body)
            await send({"type": "http.response.body", "body": self.body[start : start + PART], "more_body": more})


def as_json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return PartedResponse(text, status, {"Content-Type": "application/json", **(headers or {})})


def refused(refusal: Refusal) -> Response:
    """The answer that says why there is no result."""
    return as_json({"error": refusal.text}, refusal.status, refusal.headers)


def health(good: bool, content: Mapping[str, Any]) -> Response:
    """An answer to a probe: 503 where something is not well. What is true in the content is what is asked for."""
    return as_json({key: good if value is True else value for key, value in content.items()}, 200 if good else 503)


async def no_such_place(request: Request, error: Exception) -> Response:
    """The answer to a request for an address or method that there is not."""
    assert isinstance(error, HTTPException)
    text = "no such address; GET / lists them" if error.status_code == 404 else error.detail
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        text = f"{request.method[:20]} is not for this address; it takes {allowed}"
    return refused(Refusal(error.status_code, text, error.headers))


def answering(endpoint: Endpoint, log: Log) -> Endpoint:
    """An endpoint that answers whatever goes wrong in it."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refusal as refusal:
            request.scope[NOTES]["error"] = refusal.text[:300]
            return refused(refusal)
        except ClientDisconnect:
            return Response(status_code=GONE)
        except Exception as error:  # a defect of ours: the client learns no details, the log does
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            where = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
            log("defect", kind=type(error).__name__, text=" ".join(str(error).split())[:300], where=where)
            return refused(Refusal(500, "the service failed; its log says why"))

    return answer
