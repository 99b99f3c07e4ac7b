"""What every request passes before it is looked at, and after it is answered."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ppcls_ext.serve.answers import GONE, NOTES, refused
from ppcls_ext.serve.limits import Refusal
from ppcls_ext.serve.log import Log
from ppcls_ext.serve.metrics import Metrics
from ppcls_ext.serve.page import wants_page

OPEN_TO_ALL = ("/v2/health/live", "/v2/health/ready")  # probes come without a token


class Guard:
    """What every request passes: the token, the count of its answer, and a line of the log.

    Args:
        app: that answers those which bear the token.
        token: that requests must bear, if any; health is open to all.
        draining: whether the service is being stopped, so that connections end with the answer they are at.
        crowded: whether there are too many connections, so that only questions of health are answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        log: Log,
        token: str | None,
        draining: Callable[[], bool],
        crowded: Callable[[], bool],
    ) -> None:
        self._app, self._metrics, self._log = app, metrics, log
        self._token = None if token is None else _digest(token)
        self._draining, self._crowded = draining, crowded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), GONE
        notes: dict[str, Any] = {}
        scope[NOTES] = notes

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._draining():  # the client would send its next request into a connection that closes
                    message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
            await send(message)

        try:
            if _has_two_lengths(scope):
                refusal = Refusal(400, "Content-Length beside Transfer-Encoding; send one", {"Connection": "close"})
                await refused(refusal)(scope, receive, sent)
            elif self._crowded() and scope["path"] not in OPEN_TO_ALL:
                headers = {"Retry-After": "1", "Connection": "close"}
                await refused(Refusal(503, "too many connections; come again later", headers))(scope, receive, sent)
            elif self._lets_in(scope):
                await self._app(scope, receive, sent)
            else:
                refusal = Refusal(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
                await refused(refusal)(scope, receive, sent)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            client = scope.get("client")
            self._log(
                "request",
                client=client[0] if client else None,
                method=scope["method"][:20],
                path=scope["path"][:200],
                status=status,
                ms=round(seconds * 1e3, 3),
                **notes,
            )

    def _lets_in(self, scope: Scope) -> bool:
        """Whether a request bears the token, or needs none."""
        if self._token is None or scope["path"] in OPEN_TO_ALL:
            return True
        headers = dict(scope["headers"])
        if (scope["method"], scope["path"]) == ("GET", "/") and wants_page(
            headers.get(b"accept", b"").decode("latin-1")
        ):
            return True  # a browser cannot send the token by itself: the page asks for it, and shows nothing before
        given = headers.get(b"authorization", b"")
        kind, _, token = given.partition(b" ")
        # Digests, so that neither the content nor the length of the token shows in the time that this takes.
        return hmac.compare_digest(_digest(token.strip()), self._token) and kind.lower() == b"bearer"


def _has_two_lengths(scope: Scope) -> bool:
    """Whether a request states its length in two ways: a proxy may have taken the other one, and see two requests."""
    names = {name for name, _ in scope["headers"]}
    return b"content-length" in names and b"transfer-encoding" in names


def _digest(token: str | bytes) -> bytes:
    return hashlib.sha256(token.encode() if isinstance(token, str) else token).digest()
