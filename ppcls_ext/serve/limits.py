"""What a service takes on, and what it says to a request that it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MEGABYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """Bounds on what clients can make a service hold, decode and wait for.

    Attributes:
        queue: images of a model that are accepted and not answered yet, at most; beyond it the answer is 429.
        images: in one request.
        body_bytes: of one request.
        held_bytes: of the bodies of all requests that are being read or answered.
        pixels: of one image, as its header states them.
        held_pixels: of the images of a segmenter that are accepted and not answered yet: a result has a byte for each.
        deadline_s: from the acceptance of a request to its results.
        body_s: for reading a request's body.
        head_s: for reading a request's line and headers.
        answer_s: for a client to take what was sent to it, of a picture the next part.
        stall_s: without any result while the network has work, after which the model counts as hung.
        drain_s: for the requests that are being answered when the service is stopped.
    """

    queue: int = 128
    images: int = 32
    body_bytes: int = 16 * MEGABYTE
    held_bytes: int = 512 * MEGABYTE
    pixels: int = 2**26
    held_pixels: int = 2**29
    deadline_s: float = 5.0
    body_s: float = 10.0
    head_s: float = 10.0
    answer_s: float = 10.0
    stall_s: float = 30.0
    drain_s: float = 25.0


class Refusal(Exception):
    """Why a request, or one image of it, gets no result.

    Attributes:
        status: of HTTP.
        text: one line for the client.
        headers: that the answer has beside those of every answer.
    """

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, dict(headers or {})


def busy(text: str) -> Refusal:
    """The refusal of a service that has enough to do: the client may come again in a second."""
    return Refusal(429, text, {"Retry-After": "1"})
