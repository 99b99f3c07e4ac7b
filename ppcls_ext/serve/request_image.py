"""An image of a request, and the look at its header before anything is decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppcls_ext.core.headers import image_size
from ppcls_ext.serve.limits import Refusal

COMMON = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"BM", b"GIF8")  # how files of common kinds begin


@dataclass(frozen=True)
class RequestImage:
    """An image of a request.

    Attributes:
        content: of an image file, or uint8 RGB [H, W, 3].
        name: what its result calls it, where the client has named it.
    """

    content: bytes | np.ndarray
    name: str | None = None

    @property
    def quick_to_check(self) -> bool:
        """Whether `check` takes microseconds; the headers of rare kinds may take more."""
        return isinstance(self.content, np.ndarray) or self.content.startswith(COMMON)

    def check(self, pixels: int) -> int:
        """How many pixels the header of a file states, before anything is decoded.

        Raises:
            Refusal: it states more than so many pixels (413), or there is none (422).
        """
        if isinstance(self.content, np.ndarray):
            size: tuple[int, int] | None = (self.content.shape[1], self.content.shape[0])
        else:
            size = image_size(np.frombuffer(self.content, np.uint8)) if self.content else None
        if size is None:
            raise Refusal(422, "not an image of a known kind" if len(self.content) else "the image is empty")
        if size[0] * size[1] > pixels:
            raise Refusal(413, f"{size[0]} x {size[1]} are more than {pixels} pixels; shrink the image")
        return size[0] * size[1]


async def read_headers(images: Sequence[RequestImage], most: int) -> tuple[list[RequestImage | Refusal], int]:
    """Each image, or why its header has it refused, and the pixels that the headers of the others state together."""
    found: list[RequestImage | Refusal] = []
    pixels = 0
    for image in images:
        try:
            pixels += image.check(most) if image.quick_to_check else await asyncio.to_thread(image.check, most)
        except Refusal as refusal:
            found.append(refusal)
        else:
            found.append(image)
    return found, pixels
