"""Loads a service and says what it answers: `python -m ppcls_ext.serve.load ADDRESS IMAGE ... --clients 1 8 64`.

Each client has a connection and sends the next image when it has the answer to the last. It runs in one thread: where
it has no core of its own beside the service, the figures are too low.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ppcls_ext.core.errors import UserError

PATIENCE_S = 120.0  # an answer may take this long
CALLS = 200  # so many calls of the Predictor alone give their median
RECONNECT_S = 0.1  # between two tries where nothing listens
SLOW_S = 1.0  # a slow client takes this long for half of its body


@dataclass
class Load:
    """What came of a load.

    Attributes:
        clients: at the same time.
        seconds: that it took.
        ms: of each request that was answered with a result, from its first byte to the last one of the answer.
        statuses: of the answers to good requests.
        lost: good requests without an answer.
        hostile: answers to hostile requests, by kind and status; `closed` where the connection ended without one.
    """

    clients: int
    seconds: float = 0.0
    ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    hostile: Counter[str] = field(default_factory=Counter)

    @property
    def line(self) -> str:
        """It in one line."""
        ms = sorted(self.ms) or [float("nan")]
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        hostile = ", ".join(f"{count} {kind}" for kind, count in sorted(self.hostile.items()))
        return (
            f"{self.clients:4} clients  {len(self.ms) / self.seconds:8.1f} images/s  p50 {ms[len(ms) // 2]:7.2f} ms  "
            f"p99 {ms[len(ms) * 99 // 100]:7.2f} ms  answers {answers}; lost {self.lost}"
            f"{'; hostile: ' if hostile else ''}{hostile}"
        )


async def load(
    address: str,
    images: Sequence[bytes],
    clients: int,
    seconds: float,
    *,
    hostile: float = 0.0,
    requests: int | None = None,
    token: str | None = None,
) -> Load:
    """Load a service.

    Args:
        address: of the service, or of one place of it; without a path it is `/predict`.
        images: files to send, one after the other.
        seconds: to go on for.
        hostile: share of the requests that are cut short, bombs, of a wrong type, slow or dropped.
        requests: an end before that: so many good ones.
    """
    found, begin = Load(clients), time.perf_counter()
    shared = _Shared(address, images, begin + seconds, hostile, requests, token, found)
    await asyncio.gather(*(_client(shared, number) for number in range(clients)))
    found.seconds = time.perf_counter() - begin
    return found


@dataclass
class _Shared:
    address: str
    images: Sequence[bytes]
    end: float
    hostile: float
    requests: int | None
    token: str | None
    found: Load
    sent: int = 0

    def next(self) -> bytes | None:
        """The image to send; None at the end."""
        if time.perf_counter() > self.end or (self.requests is not None and self.sent >= self.requests):
            return None
        self.sent += 1
        return self.images[self.sent % len(self.images)]

    def request(self, body: bytes, kind: str = "application/octet-stream") -> bytes:
        """The bytes of a request."""
        url = urlsplit(self.address)
        head = f"POST {url.path.rstrip('/') or '/predict'}{'?' * bool(url.query)}{url.query} HTTP/1.1\r\n"
        head += f"Host: {url.netloc}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        head += "" if self.token is None else f"Authorization: Bearer {self.token}\r\n"
        return head.encode() + b"\r\n" + body

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection."""
        url = urlsplit(self.address)
        return await asyncio.open_connection(url.hostname, url.port or 80)


async def _client(shared: _Shared, number: int) -> None:
    chance = random.Random(number)
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while (image := shared.next()) is not None:
        if chance.random() < shared.hostile:
            await _be_hostile(shared, image, chance)
        start = time.perf_counter()
        try:
            if connection is None:
                connection = await shared.connect()
            reader, writer = connection
            writer.write(shared.request(image))
            status = await asyncio.wait_for(_status(reader), PATIENCE_S)
        except (OSError, EOFError, asyncio.TimeoutError):
            shared.found.lost += 1
            if connection is None:
                await asyncio.sleep(RECONNECT_S)
            else:
                connection[1].close()
                connection = None
            continue
        shared.found.statuses[status] += 1
        if status == 200:
            shared.found.ms.append((time.perf_counter() - start) * 1e3)
        elif status == 429:
            await asyncio.sleep(0.05)
    if connection is not None:
        connection[1].close()


async def _status(reader: asyncio.StreamReader) -> int:
    """Read an answer; gives its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
    await reader.readexactly(length)
    return int(lines[0].split()[1])


async def _be_hostile(shared: _Shared, image: bytes, chance: random.Random) -> None:
    """Send, over a connection of its own, what no client should."""
    kind = chance.choice(("cut", "bomb", "type", "slow", "dropped"))
    whole = shared.request(image)
    parts = {
        "cut": (shared.request(image[: len(image) // 2]), b""),
        "bomb": (shared.request(_bomb()), b""),
        "type": (shared.request(b"hello", "text/plain"), b""),
        "slow": (whole[: len(whole) // 2], whole[len(whole) // 2 :]),
        "dropped": (whole[:-1], b""),
    }
    outcome = "closed"
    try:
        reader, writer = await shared.connect()
    except OSError:
        shared.found.hostile[f"{kind} {outcome}"] += 1
        return
    try:
        first, rest = parts[kind]
        writer.write(first)
        if rest:
            await asyncio.sleep(SLOW_S)
            writer.write(rest)
        if kind != "dropped":
            outcome = str(await asyncio.wait_for(_status(reader), PATIENCE_S))
    except (OSError, EOFError, asyncio.TimeoutError):
        outcome = "closed"
    writer.close()
    shared.found.hostile[f"{kind} {outcome}"] += 1


def _bomb() -> bytes:
    """A PNG of a few bytes whose header states 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND\xaeB`\x82"
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + end


def bare(folder: str, images: Sequence[bytes], threads: int, batch: int, seconds: float) -> tuple[float, float]:
    """Images in a second that `Predictor.stream` takes, and the median milliseconds of a call with one, with the
    service idle: what `load` is to be compared with at many clients and at one."""
    from ppcls_ext.runtime.predictor import Predictor

    with Predictor(folder, threads=threads, batch=batch) as predict:
        ms = []
        for image in [images[k % len(images)] for k in range(CALLS)]:
            start = time.perf_counter()
            predict(image)
            ms.append((time.perf_counter() - start) * 1e3)
        end, count = 0.0, 0
        endless = (images[k % len(images)] for k in range(sys.maxsize))
        begin = 0.0
        for number, _ in enumerate(predict.stream(endless)):
            if number == 4 * batch:  # warm
                begin = time.perf_counter()
                end, count = begin + seconds, number
            elif end and time.perf_counter() > end:
                return (number - count) / (time.perf_counter() - begin), sorted(ms)[CALLS // 2]
    raise AssertionError("the stream has no end")


def main() -> int:
    """Load a service from the command line; gives the exit status: 1 where a request was lost."""
    parser = argparse.ArgumentParser(prog="python -m ppcls_ext.serve.load", description=__doc__)
    parser.add_argument("address", help="of the service, such as http://127.0.0.1:8000/predict?model=NAME")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="send these files")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 64], metavar="N", help="so many at once")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each number of clients (default: 10)")
    parser.add_argument("--requests", type=int, help="end after so many")
    parser.add_argument("--hostile", type=float, default=0.0, metavar="SHARE", help="of hostile requests, such as 0.05")
    parser.add_argument("--token", help="that the service asks for")
    parser.add_argument("--bare", metavar="FOLDER", help="also measure the Predictor alone with this exported model")
    parser.add_argument("--threads", type=int, default=1, help="of --bare (default: 1)")
    parser.add_argument("--batch", type=int, default=8, help="of --bare (default: 8)")
    given = parser.parse_args()
    try:
        return _load(given)
    except UserError as error:
        print(f"load: {error}", file=sys.stderr)
        return error.exit_status


def _load(given: argparse.Namespace) -> int:
    url = urlsplit(given.address)
    if url.scheme != "http" or not url.hostname:
        raise UserError(f"{given.address}: give an address such as http://127.0.0.1:8000/predict")
    if given.seconds <= 0 or min(given.clients) < 1 or (given.requests is not None and given.requests < 1):
        raise UserError("--clients, --seconds and --requests must be above 0")
    if not 0 <= given.hostile <= 1:
        raise UserError(f"--hostile {given.hostile}: give a share from 0 to 1")
    try:
        images = [file.read_bytes() for file in given.images]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; give image files") from error
    try:
        socket.create_connection((url.hostname, url.port or 80), PATIENCE_S).close()
    except (OSError, ValueError) as error:
        raise UserError(f"{given.address}: no answer ({error}); is the service running?") from error
    if given.bare:
        rate, ms = bare(given.bare, images, given.threads, given.batch, given.seconds)
        print(f"Predictor alone {rate:8.1f} images/s  p50 {ms:7.2f} ms of a call", flush=True)
    lost = 0
    for clients in given.clients:
        more = {"hostile": given.hostile, "requests": given.requests, "token": given.token}
        found = asyncio.run(load(given.address, images, clients, given.seconds, **more))
        print(found.line, flush=True)
        lost += found.lost
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
