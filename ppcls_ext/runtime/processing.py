"""What is done for each image, before the network and after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from ppcls_ext.core.errors import UserError, WrongModel
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.owner import Outputs, Work
from ppcls_ext.runtime.results import Result
from ppcls_ext.runtime.sources import Channels, Size, read_picture, source_name

Errors = Literal["raise", "keep"]
Decode = Literal["exact", "scaled"]


@dataclass
class Image:
    """An image on its way to a result.

    Attributes:
        size: width and height; 0 where it cannot be read.
        work: what the network is to do; None where the image cannot be read.
        error: why there will be no result.
        inference: makes its result, where that is not the pipeline's own.
    """

    item: Any
    channels: Channels | None
    source: str
    size: Size = (0, 0)
    work: Work | None = None
    error: Exception | None = None
    ms: dict[str, float] = field(default_factory=dict)
    inference: Inference | None = None


class Processing:
    """Makes the network's inputs of images, and results of its outputs; any thread may call it.

    Args:
        inference: the task's pre- and postprocessing.
        engine: gives what results call that which runs the network.
        errors: `raise`, or `keep` an image's error in its result.
        max_pixels: an image with more is refused before it is decoded; None takes any.
        decode: `exact`, as evaluation does, or `scaled`: large JPEGs at 1/2, 1/4 or 1/8.
    Raises:
        UserError: another value of `errors`, `max_pixels` or `decode`.
    """

    def __init__(
        self, inference: Inference, engine: Callable[[], str], errors: Errors, max_pixels: int | None, decode: Decode
    ) -> None:
        if errors not in ("raise", "keep"):
            raise UserError(f'errors must be "raise" or "keep", got {errors!r}')
        if decode not in ("exact", "scaled"):
            raise UserError(f'decode must be "exact" or "scaled", got {decode!r}')
        if max_pixels is not None and not (type(max_pixels) is int and max_pixels > 0):
            raise UserError(f"max_pixels must be a positive number, got {max_pixels!r}")
        self._inference, self._engine, self._errors, self._max_pixels = inference, engine, errors, max_pixels
        self._resized = inference.resized if decode == "scaled" else None

    def prepared(self, item: Any, channels: Channels | None) -> Image:
        """Decode an image and make the network's inputs of it; whatever is wrong with it is kept in `error`."""
        image = Image(item, channels, source_name(item))
        start = time.perf_counter()
        try:
            pixels, image.size = read_picture(item, channels, self._max_pixels, self._resized)
            decoded = time.perf_counter()
            image.work = Work(self._inference.prepare(pixels, image.size))
        except Exception as error:
            image.error = error
            return image
        image.ms = {"decode": (decoded - start) * 1e3, "prepare": (time.perf_counter() - decoded) * 1e3}
        return image

    def result(self, image: Image, outcome: Future[Outputs] | None) -> Result:
        """The result of an image that the network is done with, or that never went there.

        Args:
            outcome: of the image's work; None where it has none.
        Raises:
            UserError: what is wrong with the image, unless errors are kept. WrongModel: no image is to blame.
        """
        if outcome is None:
            return self._failed(image)
        try:
            outputs = outcome.result()
        except Exception as error:
            image.error = error
            return self._failed(image)
        return self._finished(image, outputs)

    def _finished(self, image: Image, outputs: Outputs) -> Result:
        start = time.perf_counter()
        try:
            result = (image.inference or self._inference).result(outputs.arrays, **self._about(image))
        except Exception as error:
            image.error = error
            return self._failed(image)
        # The result is frozen, its mapping of milliseconds is not yet full.
        image.ms |= {"network": outputs.ms, "postprocess": (time.perf_counter() - start) * 1e3}
        return result

    def _failed(self, image: Image) -> Result:
        """The result that says why there is none, or that raised."""
        assert image.error is not None
        error = image.error
        if not isinstance(error, UserError):
            text = " ".join(str(error).split()) or "no message"
            error = UserError(f"image {image.source}: {type(image.error).__name__}: {text[:300]}")
        if self._errors == "raise" or isinstance(error, WrongModel):
            raise error from image.error if error is not image.error else None
        return self._inference.result_type(**self._about(image), error=str(error))

    def _about(self, image: Image) -> dict[str, Any]:
        return {
            "source": image.source,
            "size": image.size,
            "engine": self._engine(),
            "ms": image.ms,
            "_item": image.item,
            "_channels": image.channels,
        }
