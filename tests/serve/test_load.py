"""The load generator tells what it was answered and what was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.serve.load import load, main
from tests.serve.conftest import Served, png
from tests.serve.test_server import listening

FAR = 1e6  # seconds; these loads end by their number of requests


def test_a_mixed_load_loses_nothing(served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppcls_ext.serve.load.SLOW_S", 0.01)
    service = served(batch=4)
    with listening(service) as (host, port):
        address = f"http://{host}:{port}/predict?model=a"
        found = asyncio.run(load(address, [png(1, 32), png(2, 32)], 8, FAR, hostile=0.3, requests=200))
    assert found.statuses == {200: 200}
    assert (found.lost, len(found.ms)) == (0, 200)
    assert {"cut 422", "bomb 413", "type 415", "slow 200", "dropped closed"} == set(found.hostile)
    assert "lost 0" in found.line
    assert {line["event"] for line in service.lines()} == {"listening", "request", "draining"}
    assert service.metric("pplcnet_accepted_images", model="a") == 0


@pytest.mark.parametrize(
    ("arguments", "clue"),
    [
        (["http://127.0.0.1:1/predict", "PHOTO"], "no answer"),
        (["127.0.0.1:1", "PHOTO"], "give an address such as http://"),
        (["http://127.0.0.1:1/", "nothing.jpg"], "nothing.jpg: No such file or directory"),
        (["http://127.0.0.1:1/", "PHOTO", "--clients", "0"], "must be above 0"),
        (["http://127.0.0.1:1/", "PHOTO", "--hostile", "2"], "give a share from 0 to 1"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], clue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.png").write_bytes(png(1))
    monkeypatch.setattr("sys.argv", ["load", *(str(tmp_path / "photo.png") if a == "PHOTO" else a for a in arguments)])
    assert main() == UserError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert clue in line


def test_what_nobody_answers_any_more_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppcls_ext.serve.load.RECONNECT_S", 0.0)
    assert asyncio.run(load("http://127.0.0.1:1/", [b"x"], 2, FAR, requests=6, hostile=0.5)).lost == 6


def test_what_is_not_answered_counts_as_lost() -> None:
    async def closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def both() -> int:
        server = await asyncio.start_server(closes, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return (await load(f"http://127.0.0.1:{port}/", [b"x"], 2, FAR, requests=6)).lost

    assert asyncio.run(both()) == 6
