"""Heads of requests without what httptools cannot leave alone."""

from __future__ import annotations

import pytest

from ppcls_ext.upstream.httptools import head_without_offer


@pytest.mark.parametrize(
    ("connection", "kept"),
    [(b"Upgrade", b""), (b"keep-alive, Upgrade, HTTP2-Settings", b"connection: keep-alive, HTTP2-Settings\r\n")],
)
def test_a_head_loses_its_offer_and_nothing_else(connection: bytes, kept: bytes) -> None:
    headers = [(b"host", b"x"), (b"connection", connection), (b"upgrade", b"h2c"), (b"content-length", b"5")]
    head, offered = head_without_offer(b"POST", b"/a?b=1", "1.1", headers)
    assert offered
    assert head == b"POST /a?b=1 HTTP/1.1\r\nhost: x\r\n" + kept + b"content-length: 5\r\n\r\n"


def test_a_tunnel_is_no_offer() -> None:
    assert not head_without_offer(b"CONNECT", b"x:80", "1.1", [(b"host", b"x")])[1]
