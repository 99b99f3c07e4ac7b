"""Workarounds for httptools, uvicorn's fast parser of HTTP."""

from __future__ import annotations

from collections.abc import Sequence


def head_without_offer(
    method: bytes, url: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]
) -> tuple[bytes, bool]:
    """The head of a request written again without its offer of another protocol, for a fresh parser.

    httptools 0.9.0 takes the end of a head with such an offer (`Connection: Upgrade`) for the end of the request: its
    body is lost, and the connection is good for nothing more. Java's client offers HTTP/2 in this way with every first
    request. A server that stays with HTTP/1.1 need not look at the offer (RFC 9110, section 7.8). Can go when httptools
    can be told that no offer is taken.

    Args:
        headers: names in lower case, and values.
    Returns:
        the head as a client would send it, and whether there was an offer to leave out.
    """
    kept = []
    for name, value in headers:
        if name == b"connection":
            value = b", ".join(word for word in _words(value) if word.lower() != b"upgrade")
        if name != b"upgrade" and (value or name != b"connection"):
            kept.append(name + b": " + value + b"\r\n")
    head = method + b" " + url + b" HTTP/" + version.encode() + b"\r\n" + b"".join(kept) + b"\r\n"
    return head, any(name == b"upgrade" for name, _ in headers)


def _words(value: bytes) -> list[bytes]:
    return [word.strip() for word in value.split(b",") if word.strip()]
