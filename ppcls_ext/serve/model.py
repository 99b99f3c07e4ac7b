"""A model of a service: the images that wait for its Predictor, their deadline, and whether it is fit for work."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.headers import image_size
from ppcls_ext.core.images import BrokenImage
from ppcls_ext.runtime.handover import Handover
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.runtime.predictor import MOST_DECODERS
from ppcls_ext.runtime.results import Result
from ppcls_ext.runtime.sources import source_name
from ppcls_ext.serve.fitness import Fitness
from ppcls_ext.serve.limits import Limits, Refusal, busy
from ppcls_ext.serve.log import Log
from ppcls_ext.serve.metrics import Metrics
from ppcls_ext.serve.options import Options

COMMON = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"BM", b"GIF8")  # how files of common kinds begin
GREY = np.full((64, 64, 3), 128, np.uint8)  # the image that a model is probed with


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

    def check(self, pixels: int) -> None:
        """Look at the header of a file, before anything is decoded.

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


@dataclass(eq=False)  # a job is found in the queue as itself: images that are arrays cannot be compared
class _Job:
    """An image on its way, and the future of its result, which lives in the event loop."""

    image: RequestImage
    done: asyncio.Future[Result]
    since: float
    inference: Inference | None = None


class Model:
    """Takes images in the event loop, lets as many into the Predictor as it works on, and keeps the others waiting.

    Those that wait can be dropped, and are when their deadline passes or their client goes away; what the Predictor has
    begun is finished. Every method is called in the event loop.

    Args:
        name: in addresses.
        predictor: with `errors="raise"`; it stays the caller's to close.
        task: of the model.
        options: that requests may set; default: none.
    """

    def __init__(
        self,
        name: str,
        predictor: Pipeline,
        task: str,
        limits: Limits,
        metrics: Metrics,
        log: Log,
        options: Options | None = None,
    ) -> None:
        self.name, self.task, self.engine = name, task, predictor.engine
        self.labels = tuple(predictor.inference.labels)
        self.palette = tuple(predictor.inference.palette)
        self.options = options or Options({}, type(predictor.inference))
        self._predictor, self._limits, self._metrics = predictor, limits, metrics
        self._waiting: deque[_Job] = deque()
        self._done: Handover[tuple[_Job, Future[Result]]] = Handover()  # by the Predictor, and not settled yet
        self._running, self._most_running = 0, 2 * predictor.batch + MOST_DECODERS
        self._accepted = 0
        self._progress = time.monotonic()  # when the Predictor last gave something or began with nothing to do
        self._fitness = Fitness(name, self.probe, log)
        watch_batches(predictor.inference, metrics.batch_images.labels(name).observe)
        metrics.watch(
            name,
            {
                "queue": lambda: len(self._waiting),
                "accepted": lambda: self._accepted,
                "ready": lambda: float(self.ready),
            },
        )

    @property
    def hung(self) -> bool:
        """Whether the network has had work for long without giving anything: only a restart helps."""
        return self._running > 0 and time.monotonic() - self._progress > self._limits.stall_s

    @property
    def ready(self) -> bool:
        """Whether the model is fit for work."""
        return self._fitness.good and not self.hung

    @contextlib.contextmanager
    def accept(self, images: int) -> Iterator[None]:
        """Take on so many images for as long as the context lasts.

        Raises:
            Refusal: the model is not fit for work (503), or has enough to do (429); never both taken and refused.
        """
        self.check_room(images)
        self._accepted += images
        try:
            yield
        finally:
            self._accepted -= images

    def check_room(self, images: int = 1) -> None:
        """Raise what `accept` would raise now."""
        if not self.ready:
            raise Refusal(503, f"model {self.name} is not fit for work", {"Retry-After": "5"})
        if self._accepted + images > self._limits.queue:
            self._metrics.images.labels(self.name, "429").inc(images)
            raise busy(f"model {self.name}: {self._limits.queue} images are waiting already")

    async def results(
        self, images: Sequence[RequestImage], seconds: float, inference: Inference | None = None
    ) -> list[Result | Refusal]:
        """The result of each image, or why it has none; to be called inside of `accept`.

        Args:
            inference: as `options` gives it, for a request that sets some.
        Raises:
            Refusal: not all were done after so many seconds (504).
        """
        loop = asyncio.get_running_loop()
        found: list[_Job | Refusal] = []
        for image in images:
            try:
                if image.quick_to_check:
                    image.check(self._limits.pixels)
                else:
                    await asyncio.to_thread(image.check, self._limits.pixels)
            except Refusal as refusal:
                found.append(refusal)
                continue
            found.append(_Job(image, loop.create_future(), time.perf_counter(), inference))
        jobs = [job for job in found if isinstance(job, _Job)]
        self._waiting.extend(jobs)
        self._pump()
        try:
            late = (await asyncio.wait([job.done for job in jobs], timeout=seconds))[1] if jobs else set()
        finally:
            self._drop(jobs)
        if late:
            self._metrics.images.labels(self.name, "504").inc(len(late))
            raise Refusal(504, f"no result within {seconds:g} s")
        outcomes = [self._outcome(one) if isinstance(one, _Job) else one for one in found]
        for outcome in outcomes:
            status = outcome.status if isinstance(outcome, Refusal) else 200
            self._metrics.images.labels(self.name, str(status)).inc()
        return outcomes

    async def probe(self) -> bool:
        """Whether the model gives a result for a grey image, which passes by those that wait."""
        job = _Job(RequestImage(GREY), asyncio.get_running_loop().create_future(), time.perf_counter())
        self._waiting.appendleft(job)
        self._pump()
        try:
            await asyncio.wait([job.done], timeout=self._limits.stall_s)
            return job.done.done() and job.done.exception() is None
        finally:
            self._drop([job])

    def close(self) -> None:
        """Stop probing."""
        self._fitness.close()

    def about(self) -> dict[str, Any]:
        """What a page needs to know of it, JSON-able."""
        return {
            "name": self.name,
            "task": self.task,
            "engine": self.engine,
            "ready": self.ready,
            "classes": len(self.labels),
            "options": self.options.defaults,
            "palette": [list(colour) for colour in self.palette],
        }

    def error_dict(self, image: RequestImage, refusal: Refusal) -> dict[str, Any]:
        """What stands in the place of a result: the same keys, with the error."""
        source = image.name or source_name(image.content)
        return self._predictor.inference.result_type(source=source, engine=self.engine, error=refusal.text).to_dict()

    def _pump(self) -> None:
        """Let images into the Predictor, as many as it works on."""
        loop = asyncio.get_running_loop()
        while self._waiting and self._running < self._most_running:
            job = self._waiting.popleft()
            if self._running == 0:
                self._progress = time.monotonic()
            array = isinstance(job.image.content, np.ndarray)
            future = self._predictor.submit(job.image.content, "rgb" if array else None, job.inference)
            self._running += 1
            future.add_done_callback(partial(self._tell, loop, job))

    def _tell(self, loop: asyncio.AbstractEventLoop, job: _Job, future: Future[Result]) -> None:
        """Have the event loop settle a job, together with others; called in a thread of the Predictor."""
        if self._done.put((job, future)):
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._settle_all)

    def _settle_all(self) -> None:
        loop = asyncio.get_running_loop()
        for job, future in self._done.take():
            loop.call_soon(self._settle, job, future)  # each by itself: a failure stops no other
        loop.call_soon(self._pump)

    def _settle(self, job: _Job, future: Future[Result]) -> None:
        self._running -= 1
        self._progress = time.monotonic()
        error = future.exception()
        if error is not None and not isinstance(error, BrokenImage):
            self._fitness.suspect(error)
        if not job.done.done():
            if error is not None:
                job.done.set_exception(error)
            else:
                job.done.set_result(future.result())

    def _drop(self, jobs: Sequence[_Job]) -> None:
        """Forget jobs that nobody waits for any more."""
        for job in jobs:
            if job.done.done():
                job.done.exception()  # asyncio reports the errors of futures that nobody has looked at
            else:
                job.done.cancel()
                with contextlib.suppress(ValueError):  # it is not waiting, it runs
                    self._waiting.remove(job)

    def _outcome(self, job: _Job) -> Result | Refusal:
        error = job.done.exception()
        if error is not None:
            text = " ".join(str(error).split()) or type(error).__name__
            return Refusal(422 if isinstance(error, BrokenImage) else 500, text)
        result = job.done.result()
        stages = self._metrics.stage_seconds
        for stage, ms in result.ms.items():
            stages.labels(self.name, stage).observe(ms / 1e3)
        waited = time.perf_counter() - job.since - sum(result.ms.values()) / 1e3
        stages.labels(self.name, "wait").observe(max(0.0, waited))
        return result if job.image.name is None else replace(result, source=job.image.name)


def watch_batches(inference: Inference, observe: Callable[[float], None]) -> None:
    """Have a function called with the size of each batch that the network has run; refuse outputs that are not finite,
    which no answer can hold, as a failure of the network.
    """
    split = inference.split

    def watched(outputs: Sequence[np.ndarray], images: int) -> list[list[np.ndarray]]:
        observe(images)
        if not all(np.isfinite(output).all() for output in outputs):
            raise UserError("the network gave numbers that are not finite")
        return split(outputs, images)

    inference.split = watched  # type: ignore[method-assign]
