"""What a service lets a connection do: how long it may take, and how much it may send that is neither head nor body."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ppcls_ext.upstream.httptools import head_without_offer

LARGEST_HEAD = 2**14  # bytes of a request's line and headers
MOST_PIPELINED = 16  # requests of a connection that wait for the one before them; today's clients send none ahead


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, whose patience with slow clients, and whose memory for odd ones, has an end.

    While no request of a connection is being answered, its client has `head_s` seconds, from its first byte, to send
    the next head, or the rest of a body that was refused; and `answer_s` seconds to take what is sent to it. uvicorn
    itself waits without end.

    A head has `LARGEST_HEAD` bytes at most, and so has what stands between two parts of a body. A request that a proxy
    could read in another way is refused: two hosts, a length beside chunks, chunks of a compressed body. Nothing that
    comes after such a request is read. What came before it is answered first.
    """

    def __init__(self, *arguments: Any, head_s: float, answer_s: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.parser = httptools.HttpRequestParser(self)  # uvicorn's own forgives what stands behind the last request
        self.head_s, self._answer_s = head_s, answer_s
        self._timer: asyncio.TimerHandle | None = None
        self._not_taken: asyncio.TimerHandle | None = None
        self._in_head = self._in_body = False  # which part of a request comes next
        self._idle_bytes = 0  # that came since a head began or ended, or a part of a body came
        self._broken = False  # what comes is no request, and will be refused once those before it are answered
        self._answering: RequestResponseCycle | None = None  # `cycle` is the newest one, which may still wait

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that the next two are called for every byte that waits
        self._watch()

    def pause_writing(self) -> None:
        """Something that was sent waits for the client to take it."""
        super().pause_writing()
        self._not_taken = self.loop.call_later(self._answer_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Nothing waits any more."""
        super().resume_writing()
        self._taken()

    def data_received(self, data: bytes) -> None:
        """A client has sent something."""
        self._unset_keepalive_if_required()
        if self._broken:
            return
        try:
            for start in range(0, len(data), LARGEST_HEAD):
                self._feed(data[start : start + LARGEST_HEAD])
        except httptools.HttpParserError:
            self._refuse()
        else:
            self._watch()

    def on_message_begin(self) -> None:
        """The first byte of a request has come."""
        super().on_message_begin()
        self._in_head, self._idle_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come, or, behind a body in chunks, a trailer, which nobody asks for."""
        if self._in_head:
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """The head of a request has come."""
        self._idle_bytes = 0
        if self.parser.should_upgrade():
            return  # it is read again, without the offer
        self._check_head()
        if len(self.pipeline) >= MOST_PIPELINED:
            raise BadRequest("too many requests ahead of their answers")
        super().on_headers_complete()
        self._in_head, self._in_body = False, True

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has come whole."""
        if not self._in_head:
            self._in_body, self._idle_bytes = False, 0
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """A client has its answer."""
        super().on_response_complete()
        if self._broken and self.cycle.response_complete and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._refuse()
        elif self._in_body:  # the rest of a body that was refused is not waited for without end
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._forget()
        self._taken()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _feed(self, data: bytes) -> None:
        """Parse some bytes.

        Raises:
            httptools.HttpParserError: they are no request.
        """
        self._idle_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            head, offered = head_without_offer(
                self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers
            )
            if not offered:  # CONNECT, which asks for a tunnel
                raise BadRequest("no tunnels here") from None
            self.parser = httptools.HttpRequestParser(self)
            self._feed(head + data[upgrade.args[0] :])
        if self._idle_bytes > LARGEST_HEAD:
            raise BadRequest("a head that has no end")

    def _check_head(self) -> None:
        """Raise BadRequest for a head that is too long, or that could be read in two ways."""
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > LARGEST_HEAD:
            raise BadRequest("a head that is too long")
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise BadRequest("another version")
        names = [name for name, _ in self.headers]
        hosts = names.count(b"host")
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise BadRequest("not one host")
        if b"transfer-encoding" in names:
            codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
            if b"content-length" in names or codings != [b"chunked"]:  # of the former, llhttp 9 says so first
                raise BadRequest("a body of more than one form")

    def _refuse(self) -> None:
        """Say that what has come is no request, after the answers to those before it, and close the connection."""
        self._broken = True
        if self._in_body and self.pipeline and self.pipeline[0][0] is self.cycle:
            # Its body is broken and it still waits for its turn: it is never begun, and gets the 400.
            assert self._answering is not None  # it is what the others wait for
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else self._answering
            self._in_body = False
        if self._in_body and self.cycle.response_started:
            self.transport.close()  # it has its answer, or a part of it: another one would be read as that of the next
        elif self._in_body or self.cycle is None or self.cycle.response_complete:
            text = "Invalid HTTP request received."
            self.logger.warning(text)
            self.send_400_response(text)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self._lose_patience)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _taken(self) -> None:
        if self._not_taken is not None:
            self._not_taken.cancel()
            self._not_taken = None

    def _lose_patience(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class BadRequest(httptools.HttpParserError):
    """What has come is no request that this server reads."""
