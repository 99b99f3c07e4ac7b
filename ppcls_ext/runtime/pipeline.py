"""From images to results: decoding, the network in its own thread, postprocessing, for one image, many, or a stream."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.owner import CLOSED, THREAD_NAMES, Arrays, EngineOwner, Outputs, Run, Work, abandon
from ppcls_ext.runtime.results import Result
from ppcls_ext.runtime.sources import MAX_PIXELS, Channels, Size, read_picture, source_name

Errors = Literal["raise", "keep"]
Decode = Literal["exact", "scaled"]


@dataclass
class _Image:
    """An image on its way to a result.

    Attributes:
        size: width and height; 0 where it cannot be read.
        work: what the network is to do; None where the image cannot be read.
        error: why there will be no result.
        inference: whose result it becomes, where that is not the pipeline's own.
    """

    item: Any
    channels: Channels | None
    source: str
    size: Size = (0, 0)
    work: Work | None = None
    error: Exception | None = None
    ms: dict[str, float] = field(default_factory=dict)
    inference: Inference | None = None


class _Threads:
    """What a pipeline has running in one process."""

    def __init__(self, owner: EngineOwner, decoders: int, in_flight: int) -> None:
        self.owner = owner
        self.decoders = ThreadPoolExecutor(max(1, decoders), f"{THREAD_NAMES}-decode")
        self.finisher = ThreadPoolExecutor(1, f"{THREAD_NAMES}-finish")
        self.room = threading.Semaphore(in_flight)  # decoded images of `submit` that have no result yet

    def decode(self, task: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run something in a thread that decodes. Raises UserError: these threads are closed."""
        try:
            return self.decoders.submit(task, *arguments)
        except RuntimeError as error:  # shut down
            raise UserError(CLOSED) from error

    def close(self) -> None:
        if threading.current_thread().name.startswith(THREAD_NAMES):  # the last reference went here
            threading.Thread(target=self.close).start()
            return
        self.decoders.shutdown()
        self.owner.close()
        self.finisher.shutdown()


class Pipeline:
    """Predicts with an opened network; any thread may call it. `ppcls_ext.Predictor` is one for exported folders.

    Args:
        open_run: opens the network, in the thread that will own it; gives a callable from a batch to its outputs.
        inference: the task's pre- and postprocessing.
        batch: images at once, at most.
        fixed: whether the network takes exactly `batch`.
        engine: what results call that which runs the network.
        where: what an error about outputs that do not fit the recipe begins with.
        errors: `raise`, or `keep` an image's error in its result.
        max_pixels: an image with more is refused before it is decoded; None takes any.
        decoders: threads that decode and prepare images for `stream` and `submit`; with 0 a stream does so in the
            thread that takes its results.
        decode: `exact`, as evaluation does, or `scaled`: large JPEGs at 1/2, 1/4 or 1/8.
        any_thread: whether any thread may run the network, as long as one does at a time.
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
        engine: str = "",
        where: str = "",
        errors: Errors = "raise",
        max_pixels: int | None = MAX_PIXELS,
        decoders: int = 1,
        decode: Decode = "exact",
        any_thread: bool = False,
    ) -> None:
        if errors not in ("raise", "keep"):
            raise UserError(f'errors must be "raise" or "keep", got {errors!r}')
        if decode not in ("exact", "scaled"):
            raise UserError(f'decode must be "exact" or "scaled", got {decode!r}')
        if type(decoders) is not int or decoders < 0:
            raise UserError(f"decoders must be a number of threads, got {decoders!r}")
        for name, value in (("batch", batch), ("max_pixels", max_pixels)):
            if not (type(value) is int and value > 0) and not (name == "max_pixels" and value is None):
                raise UserError(f"{name} must be a positive number, got {value!r}")
        self.inference, self.batch, self._engine = inference, batch, engine
        self._open_run, self._fixed, self._where, self._errors = open_run, fixed, where, errors
        self._max_pixels, self._decoders, self._any_thread = max_pixels, decoders, any_thread
        self._resized = inference.resized if decode == "scaled" else None
        self._lock = threading.Lock()
        self._closed = False
        self._threads: _Threads | None = None
        self._closer: weakref.finalize[..., Pipeline] | None = None
        _PIPELINES.add(self)
        self._running()

    @property
    def engine(self) -> str:
        """What results call that which runs the network."""
        return self._engine

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
        threads = self._running()
        one = self._prepared(image, channels)
        return next(self._outcomes(threads, [one]))

    def submit(
        self, image: Any, channels: Channels | None = None, inference: Inference | None = None
    ) -> Future[Result]:
        """A Future of the result, as calling gives it. Images that wait at the same time run in one batch.

        How many images are decoded ahead is bounded; an image that waits for that is held as it was given.

        Args:
            inference: of the same recipe with other options (`Predictor.inference_with`), which makes this image's
                result; default: the pipeline's own.
        """
        threads = self._running()
        future: Future[Result] = Future()
        threads.decode(self._start, threads, image, channels, future, inference)
        return future

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
        if prefetch is None:
            prefetch = 2 * self.batch + self._decoders
        if type(prefetch) is not int or prefetch < 0:
            raise UserError(f"prefetch must be a number of images, got {prefetch!r}")
        if self._decoders == 0:
            return self._plain_stream(self._running(), iter(images), channels)
        return self._stream(self._running(), iter(images), channels, prefetch + 1)

    def close(self) -> None:
        """Finish what was submitted, and let go of the engine; streams that are not at their end raise UserError.

        Closing twice is fine.
        """
        with self._lock:
            self._closed = True
            closer, self._threads = self._closer, None
        if closer is not None:
            closer()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self) -> _Threads:
        """The threads of this process; after a fork the child starts its own, with an engine of its own."""
        with self._lock:
            if self._closed:
                raise UserError(CLOSED)
            if self._threads is None:
                owner = EngineOwner(
                    self._open_run, _splitter(self.inference, self._where), self.batch, self._fixed, self._any_thread
                )
                self._threads = _Threads(owner, self._decoders, 2 * self.batch + self._decoders)
                self._closer = weakref.finalize(self, self._threads.close)
            return self._threads

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()  # another thread may have held it
        if self._closer is not None:
            self._closer.detach()
        if self._threads is not None:
            abandon(self._threads)
        self._threads = self._closer = None

    def _prepared(self, item: Any, channels: Channels | None) -> _Image:
        """Decode an image and make the network's inputs of it; whatever is wrong with it is kept in `error`."""
        image = _Image(item, channels, source_name(item))
        start = time.perf_counter()
        try:
            pixels, image.size = read_picture(item, channels, self._max_pixels, self._resized)
            decoded = time.perf_counter()
            image.work = Work(self.inference.prepare(pixels, image.size))
        except Exception as error:
            image.error = error
            return image
        image.ms = {"decode": (decoded - start) * 1e3, "prepare": (time.perf_counter() - decoded) * 1e3}
        return image

    def _finished(self, image: _Image, outputs: Outputs) -> Result:
        """The result from an image's outputs."""
        start = time.perf_counter()
        try:
            result = (image.inference or self.inference).result(outputs.arrays, **self._about(image))
        except Exception as error:
            image.error = error
            return self._failed(image)
        # The result is frozen, its mapping of milliseconds is not yet full.
        image.ms |= {"network": outputs.ms, "postprocess": (time.perf_counter() - start) * 1e3}
        return result

    def _failed(self, image: _Image) -> Result:
        """The result that says why there is none, or that raised."""
        assert image.error is not None
        error = image.error
        if not isinstance(error, UserError):
            text = " ".join(str(error).split()) or "no message"
            error = UserError(f"image {image.source}: {type(image.error).__name__}: {text[:300]}")
        if self._errors == "raise":
            raise error from image.error if error is not image.error else None
        return self.inference.result_type(**self._about(image), error=str(error))

    def _about(self, image: _Image) -> dict[str, Any]:
        return {
            "source": image.source,
            "size": image.size,
            "engine": self.engine,
            "ms": image.ms,
            "_item": image.item,
            "_channels": image.channels,
        }

    def _start(
        self,
        threads: _Threads,
        item: Any,
        channels: Channels | None,
        future: Future[Result],
        inference: Inference | None,
    ) -> None:
        """Decode an image of `submit` and hand it to the network."""
        if not future.set_running_or_notify_cancel():
            return
        threads.room.acquire()
        future.add_done_callback(lambda _: threads.room.release())
        image = self._prepared(item, channels)
        image.inference = inference
        self._settle_when_run(threads, image, future)
        if image.work is not None:
            threads.owner.put(image.work)

    def _settle_when_run(self, threads: _Threads, image: _Image, future: Future[Result]) -> None:
        """Have a Future set once the network is done with an image; at once if the image has no inputs for it."""
        if image.work is None:
            self._settle(image, None, future)
        else:
            image.work.done.add_done_callback(
                lambda outcome: threads.finisher.submit(self._settle, image, outcome, future)
            )

    def _settle(self, image: _Image, outcome: Future[Outputs] | None, future: Future[Result]) -> None:
        try:
            future.set_result(self._outcome(image, outcome))
        except Exception as error:
            future.set_exception(error)

    def _outcome(self, image: _Image, outcome: Future[Outputs] | None) -> Result:
        """The result of an image that the network is done with, or that never went there."""
        if outcome is None:
            return self._failed(image)
        try:
            outputs = outcome.result()
        except Exception as error:
            image.error = error
            return self._failed(image)
        return self._finished(image, outputs)

    def _outcomes(self, threads: _Threads, batch: Sequence[_Image]) -> Iterator[Result]:
        """The results of images that fit into one batch, in their order; waits for them."""
        works = [image.work for image in batch if image.work is not None]
        if works:
            threads.owner.call(works)
        for image in batch:
            yield self._outcome(image, None if image.work is None else image.work.done)

    def _plain_stream(self, threads: _Threads, items: Iterator[Any], channels: Channels | None) -> Iterator[Result]:
        """A stream without threads of its own: with one core they would only take it from each other."""
        batch: list[_Image] = []
        for item in items:
            image = self._prepared(item, channels)
            if not _fits(image, batch):
                yield from self._outcomes(threads, batch)
                batch = []
            batch.append(image)
            if _count(batch) == self.batch:
                yield from self._outcomes(threads, batch)
                batch = []
        if batch:
            yield from self._outcomes(threads, batch)

    def _stream(
        self, threads: _Threads, items: Iterator[Any], channels: Channels | None, most: int
    ) -> Iterator[Result]:
        decoding: deque[Future[_Image]] = deque()
        batch: list[_Image] = []  # decoded, and not handed to the network yet
        running: deque[Future[Result]] = deque()
        more = True
        while True:
            while more and len(decoding) + len(batch) + len(running) < most:
                try:
                    item = next(items)
                except StopIteration:
                    more = False
                    break
                decoding.append(threads.decode(self._prepared, item, channels))
                if running and running[0].done():
                    break  # a result is there: it is not held up by images that are slow to come
            if running and running[0].done():
                yield running.popleft().result()
            elif decoding and len(running) < 2 * self.batch:
                image = decoding.popleft().result()
                if batch and not _fits(image, batch):
                    self._launch(threads, batch, running)
                batch.append(image)
                if _count(batch) == self.batch:
                    self._launch(threads, batch, running)
            elif running and (more or not batch):  # with its result out of the way, more images can join the batch
                yield running.popleft().result()
            elif batch:
                self._launch(threads, batch, running)
            else:
                return

    def _launch(self, threads: _Threads, batch: list[_Image], running: deque[Future[Result]]) -> None:
        """Hand a batch to the network and its postprocessing to the finisher; empties it."""
        for image in batch:
            running.append(Future())
            self._settle_when_run(threads, image, running[-1])
        works = [image.work for image in batch if image.work is not None]
        if works:
            threads.owner.put_batch(works)
        batch.clear()


def _splitter(inference: Inference, where: str) -> Callable[[Arrays, int], list[list[np.ndarray]]]:
    """Parts outputs by image once they are known to fit the recipe."""

    def split(outputs: Arrays, images: int) -> list[list[np.ndarray]]:
        try:
            inference.check_outputs(outputs)
        except UserError as error:
            raise UserError(f"{where}{error}") from error
        return inference.split(outputs, images)

    return split


def _count(batch: Sequence[_Image]) -> int:
    return sum(image.work is not None for image in batch)


def _fits(image: _Image, batch: Sequence[_Image]) -> bool:
    """Whether an image has the shapes of a batch; one without inputs fits anywhere."""
    shapes = [other.work.shapes for other in batch if other.work is not None]
    return image.work is None or not shapes or image.work.shapes == shapes[0]


# A forked child has none of its parent's threads: it starts its own when a pipeline is next used.
_PIPELINES: weakref.WeakSet[Pipeline] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pipeline in list(_PIPELINES):
        pipeline._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
