"""Runs a service: opens its models, listens, and drains when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.registry import accepted_keys
from ppcls_ext.core.system import allow_open_files
from ppcls_ext.runtime.exported import read_exported
from ppcls_ext.runtime.inference import load_inference
from ppcls_ext.runtime.predictor import Predictor
from ppcls_ext.serve.app import Service
from ppcls_ext.serve.limits import Limits
from ppcls_ext.serve.log import Forward, Log
from ppcls_ext.serve.metrics import Metrics
from ppcls_ext.serve.model import GREY, Model
from ppcls_ext.serve.options import Options

MOST_CONNECTIONS = 1024
PROBES = 64  # connections beyond them, that get an answer to questions of health alone
OTHER_FILES = 256  # so many may be open beside connections: those of models, libraries, the log
LARGEST_HEAD = 2**14  # bytes of a request's line and headers
KEEP_ALIVE_S = 30  # between two requests of a connection

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def serve(
    folders: Sequence[str],
    host: str,
    port: int,
    *,
    engine: str | None = None,
    threads: int | None = None,
    batch: int = 8,
    limits: Limits | None = None,
    token: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> int:
    """Serve exported models until SIGTERM or SIGINT, and then answer what was accepted; gives the exit status.

    Args:
        folders: of exported models, each alone or as NAME=FOLDER.
        port: 0 takes any that is free; the log says which.
        options: of the tasks' own; each goes to the models whose task has it.
    Raises:
        UserError: models that cannot be opened or give no result, or an address that cannot be had.
    """
    limits = limits or Limits()
    named = model_names(folders)
    options = options or {}
    chosen = {name: _options(folder, options) for name, folder in named.items()}
    for option in options:
        if not any(option in own for own in chosen.values()):
            raise UserError(f"serve --{option}: no model here has it")
    allow_open_files(MOST_CONNECTIONS + PROBES + OTHER_FILES)  # many systems give 1,024 unless they are asked
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bound(host, port))
        metrics = Metrics()
        log = Log(sys.stdout, metrics.log_lines_lost.inc)
        stack.callback(log.close)
        models = {}
        for name, folder in named.items():
            predictor = Predictor(
                folder, engine, threads=threads, batch=batch, max_pixels=limits.pixels, **chosen[name]
            )
            stack.enter_context(predictor)
            predictor(GREY, "rgb")  # the engine's first run is its slowest, and shows whether it works
            task, own = predictor.exported.task, Options.of(predictor)
            models[name] = Model(name, predictor, task, limits, metrics, log, own)
        service = Service(models, limits, metrics, log, token)
        # What is loaded stays for good: the garbage collector need not walk through it while requests wait.
        gc.collect()
        gc.freeze()
        run(build_server(service, limits), listener)
        if any(model.hung for model in models.values()):
            log("stopped", text="a model hangs")
            log.close()
            os._exit(1)  # the end would wait for the thread of that model for ever
        log("stopped")
    return 0


def model_names(folders: Sequence[str]) -> dict[str, Path]:
    """Folders by the names of their models: those given as NAME=FOLDER, else the folder's own name, or, where that is
    `inference` as export writes it, the name of the folder around it.

    Raises:
        UserError: a name that is there twice, or cannot be part of an address.
    """
    found: dict[str, Path] = {}
    for text in folders:
        name, separator, rest = text.partition("=")
        folder = Path(rest if separator and not Path(text).is_dir() else text)
        if not separator or Path(text).is_dir():
            path = Path(os.path.abspath(folder))  # a symlink is called as it is, whatever it points to at the moment
            name = path.parent.name if path.name == "inference" else path.name
        if not _NAME.fullmatch(name):
            raise UserError(f"model {text}: '{name}' cannot be a name in an address; give NAME=FOLDER")
        if name in found:
            raise UserError(f"model {text}: there is a model '{name}' already; give NAME=FOLDER")
        found[name] = folder
    return found


def build_server(service: Service, limits: Limits) -> Server:
    """A server that answers requests with a service."""
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [Forward(service.log)], False
    # It has a line for each broken form, which the answer says too.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        service.app(),
        http=partial(PatientProtocol, head_s=limits.head_s, answer_s=limits.answer_s),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS + PROBES,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(limits.drain_s)),
        h11_max_incomplete_event_size=LARGEST_HEAD,
    )
    server = Server(config, service)
    service.is_crowded = lambda: len(server.server_state.connections) > MOST_CONNECTIONS
    return server


def run(server: Server, listener: socket.socket) -> None:
    """Answer requests at a bound socket until SIGTERM or SIGINT, and then those that were accepted."""
    # uvicorn has handlers of its own while it runs. One that comes before is as good as one while it does; once it has
    # drained it raises the signal again, which then changes nothing.
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Server(uvicorn.Server):
    """Says where it listens, and lets the service know when it is being stopped."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        for listener in sockets or []:
            self._service.log("listening", address=address(listener), models=list(self._service.models))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM and SIGINT. Nothing here may take a lock: what the signal has interrupted may hold it."""
        self._service.draining = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and answer those that were accepted."""
        self._service.draining = True
        self._service.log("draining")
        await super().shutdown(sockets)


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, whose patience with slow clients has an end.

    While no request of a connection is being answered, its client has `head_s` seconds, from its first byte, to send
    the next head, or the rest of a body that was refused; and `answer_s` seconds to take what is sent to it. uvicorn
    itself waits without end.
    """

    def __init__(self, *arguments: Any, head_s: float, answer_s: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.head_s, self._answer_s = head_s, answer_s
        self._timer: asyncio.TimerHandle | None = None
        self._not_taken: asyncio.TimerHandle | None = None

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
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """A client has its answer."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._forget()
        self._taken()
        super().connection_lost(exc)

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


def address(listener: socket.socket) -> str:
    """The page's address."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that has an address and does not listen yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Asyncio switches Nagle's algorithm off only where the protocol is named; with it, answers wait 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError, TypeError, UnicodeError) as error:  # the latter two: no name of a host
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"serve --host {host} --port {port}: {reason}; choose another address") from error
        yield listener


def _options(folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that the task of an exported model has."""
    known = accepted_keys(load_inference(read_exported(folder).task))
    return {name: value for name, value in options.items() if name in known}
