"""From images to results: decoding, the network in its own thread, postprocessing, for one image, many, or a stream."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, overload

import numpy as np

from ppcls_ext.core.bounds import MAX_PIXELS, MOST_THREADS
from ppcls_ext.core.errors import UserError, WrongModel
from ppcls_ext.runtime.flow import Flow
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.owner import CLOSED, Arrays, EngineOwner, Run, abandon, in_own_thread
from ppcls_ext.runtime.processing import Decode, Errors, Processing
from ppcls_ext.runtime.results import Result
from ppcls_ext.runtime.sources import Channels


class Pipeline:
    """Predicts with an opened network; any thread may call it. `ppcls_ext.Predictor` is one for exported folders.

    Args:
        open_run: opens the network, in the thread that will own it; gives a callable from a batch to its outputs.
        inference: the task's pre- and postprocessing.
        batch: images at once, at most.
        fixed: whether the network takes exactly `batch`.
        engine: what results call that which runs the network; a function that gives it, where it is known only later.
        where: what an error about outputs that do not fit the recipe begins with.
        errors: `raise`, or `keep` an image's error in its result; what is wrong with the model is raised either way.
        max_pixels: an image with more is refused before it is decoded; None takes any.
        decoders: threads that decode and prepare images for `stream` and `submit`; with 0 a stream does so in the
            thread that takes its results.
        decode: `exact`, as evaluation does, or `scaled`: large JPEGs at 1/2, 1/4 or 1/8.
        any_thread: tells whether any thread may run the network, as long as one does at a time; default: none but its
            own may.
    Raises:
        UserError: whatever is wrong with the arguments or the network.
    """

    def __init__(
        self,
        open_run: Callable[[], Run],
        inference: Inference,
        *,
        batch: int = 1,
        fixed: bool = False,
        engine: str | Callable[[], str] = "",
        where: str = "",
        errors: Errors = "raise",
        max_pixels: int | None = MAX_PIXELS,
        decoders: int = 1,
        decode: Decode = "exact",
        any_thread: Callable[[], bool] = lambda: False,
    ) -> None:
        if type(decoders) is not int or not 0 <= decoders <= MOST_THREADS:
            raise UserError(f"decoders must be a number of threads of at most {MOST_THREADS}, got {decoders!r}")
        if type(batch) is not int or batch < 1:
            raise UserError(f"batch must be a positive number, got {batch!r}")
        self.inference, self.batch, self.decode, self.max_pixels = inference, batch, decode, max_pixels
        self._engine = engine if callable(engine) else lambda: engine
        self._processing = Processing(inference, self._engine, errors, max_pixels, decode)
        self._open_run, self._fixed, self._where = open_run, fixed, where
        self._decoders, self._any_thread = decoders, any_thread
        self._lock = threading.Lock()
        self._closed = False
        self._flow: Flow | None = None
        self._closer: weakref.finalize[..., Pipeline] | None = None
        _PIPELINES.add(self)
        self._before_opening()
        self._running()

    def _before_opening(self) -> None:
        """What has to be done before the network is opened, once it is known that the arguments are right."""

    @property
    def engine(self) -> str:
        """What results call that which runs the network."""
        return self._engine()

    @overload
    def __call__(self, image: list[Any] | tuple[Any, ...], channels: Channels | None = None) -> list[Result]: ...
    @overload
    def __call__(self, image: Any, channels: Channels | None = None) -> Result: ...
    def __call__(self, image: Any, channels: Channels | None = None) -> Result | list[Result]:
        """The result for an image, or for a list of images a list in their order.

        Args:
            image: a path, the content of an image file as bytes, a uint8 array [H, W, 3], a PIL image; or a list of
                these.
            channels: `rgb` or `bgr`, the order of the channels of arrays.
        Raises:
            UserError: an image that cannot be read, or another thing that is wrong with it; with `errors="keep"` it is
                `error` of its result.
        """
        if isinstance(image, (list, tuple)):
            return list(self.stream(image, channels))
        return self._running().one(image, channels)

    def submit(
        self, image: Any, channels: Channels | None = None, inference: Inference | None = None
    ) -> Future[Result]:
        """A Future of the result, as calling gives it. Images that wait at the same time run in one batch.

        How many images are decoded ahead is bounded; an image that waits for that is held as it was given. A callback
        of the Future may predict, but not wait for another Future: it runs in a thread that makes that one's result.

        Args:
            inference: of the same recipe with other options (`Predictor.inference_with`), which makes this image's
                result; default: the pipeline's own.
        """
        if inference is not None and not isinstance(inference, Inference):
            raise UserError(f"inference must be what inference_with gives, got {type(inference).__name__}")
        return self._running().submit(image, channels, inference)

    def stream(
        self, images: Iterable[Any], channels: Channels | None = None, prefetch: int | None = None
    ) -> Iterator[Result]:
        """Results in the order of the images, as they are asked for.

        Images are taken from the iterable as needed, and the next ones are decoded while the network runs. Consecutive
        images whose inputs have the same shape form batches.

        Args:
            prefetch: images taken beyond the one whose result is next, which bounds the memory; default: two batches,
                and one for each decoder.
        """
        items = _one_by_one(images)
        if prefetch is None:
            prefetch = 2 * self.batch + self._decoders
        if type(prefetch) is not int or prefetch < 0:
            raise UserError(f"prefetch must be a number of images, got {prefetch!r}")
        flow = self._running()
        if self._decoders == 0 or in_own_thread():  # as in a callback of `submit`
            return self._held(flow.plain_stream(items, channels))
        return self._held(flow.stream(items, channels, prefetch + 1))

    def _held(self, results: Iterator[Result]) -> Iterator[Result]:
        """The results; whoever holds this generator holds the pipeline, which would else be closed under it."""
        yield from results

    def close(self) -> None:
        """Finish what was submitted, and let go of the engine; streams that are not at their end raise UserError.

        Closing twice is fine.
        """
        with self._lock:
            self._closed = True
            closer, self._flow = self._closer, None
        if closer is not None:
            closer()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self) -> Flow:
        """The threads of this process; after a fork the child starts its own, with an engine of its own."""
        with self._lock:
            if self._closed:
                raise UserError(CLOSED)
            if self._flow is None:
                owner = EngineOwner(
                    self._open_run, _splitter(self.inference, self._where), self.batch, self._fixed, self._any_thread
                )
                self._flow = Flow(self._processing, owner, self.batch, self._decoders)
                self._closer = weakref.finalize(self, self._flow.close)
            return self._flow

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()  # another thread may have held it
        if self._closer is not None:
            self._closer.detach()
        if self._flow is not None:
            abandon(self._flow)
        self._flow = self._closer = None


def _one_by_one(images: Iterable[Any]) -> Iterator[Any]:
    """What goes through some images. Raises UserError for a single one, whose characters or rows are no images."""
    single = isinstance(images, (str, bytes, os.PathLike)) or (isinstance(images, np.ndarray) and images.ndim <= 3)
    try:
        if not single:
            return iter(images)
    except TypeError:
        pass
    raise UserError(f"stream takes images one after the other, got a {type(images).__name__}; give a list")


def _splitter(inference: Inference, where: str) -> Callable[[Arrays, int], list[list[np.ndarray]]]:
    """Parts outputs by image once they are known to fit the recipe."""

    def split(outputs: Arrays, images: int) -> list[list[np.ndarray]]:
        try:
            inference.check_outputs(outputs)
        except UserError as error:
            raise WrongModel(f"{where}{error}") from error
        return inference.split(outputs, images)

    return split


# A forked child has none of its parent's threads: it starts its own when a pipeline is next used.
_PIPELINES: weakref.WeakSet[Pipeline] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pipeline in list(_PIPELINES):
        pipeline._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
