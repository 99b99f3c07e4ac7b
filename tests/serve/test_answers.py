"""Answers go out in parts, so that a client that is slow to take them is waited for part by part."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ppcls_ext.serve.answers import PART, as_json


def sent(content: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        raise AssertionError("an answer reads nothing")

    asyncio.run(as_json(content)({"type": "http"}, receive, send))
    return messages


@pytest.mark.parametrize(("length", "parts"), [(0, 1), (PART - 2, 1), (PART - 1, 2), (2 * PART - 2, 2), (2 * PART, 3)])
def test_a_long_answer_is_sent_in_parts(length: int, parts: int) -> None:
    text = "x" * length
    start, *bodies = sent(text)
    assert dict(start["headers"])[b"content-length"] == str(length + 2).encode()  # two quotation marks
    assert [body["more_body"] for body in bodies] == [True] * (parts - 1) + [False]
    assert json.loads(b"".join(body["body"] for body in bodies)) == text
