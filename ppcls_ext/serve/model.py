"""A model of a service: what it takes on, its deadline, and whether it is fit for work."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.images import REPLACE_FILE, BrokenImage
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.runtime.results import Result
from ppcls_ext.runtime.sources import source_name
from ppcls_ext.serve.fitness import Fitness
from ppcls_ext.serve.jobs import Job, Jobs
from ppcls_ext.serve.limits import Limits, Refusal, busy
from ppcls_ext.serve.log import Log
from ppcls_ext.serve.metrics import Metrics
from ppcls_ext.serve.options import Options
from ppcls_ext.serve.request_image import RequestImage, read_headers

GREY = np.full((64, 64, 3), 128, np.uint8)  # the image that a model is probed with


class Model:
    """Takes images in the event loop, and gives their results in time or not at all.

    Those that still wait are dropped when their deadline passes or their client goes away. Every method is called in
    the event loop.

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
        self._inference, self._limits, self._metrics = predictor.inference, limits, metrics
        self._accepted, self._pixels = 0, 0  # images, and the pixels that their results hold
        self._fitness = Fitness(name, self.probe, log)
        self.jobs = Jobs(predictor, self._fitness.suspect)
        watch_batches(predictor.inference, metrics.batch_images.labels(name).observe)
        metrics.watch(
            name,
            {
                "queue": lambda: self.jobs.waiting,
                "accepted": lambda: self._accepted,
                "ready": lambda: float(self.ready),
            },
        )

    @property
    def hung(self) -> bool:
        """Whether the network has had work for long without giving anything: only a restart helps."""
        return self.jobs.hung_for(self._limits.stall_s)

    @property
    def ready(self) -> bool:
        """Whether the model is fit for work."""
        return self._fitness.good and not self.hung

    @contextlib.asynccontextmanager
    async def accept(self, images: Sequence[RequestImage]) -> AsyncIterator[list[RequestImage | Refusal]]:
        """Take on images for as long as the context lasts: gives each, or why its header has it refused.

        Raises:
            Refusal: the model is not fit for work (503), has enough to do (429), or never takes so many pixels at once
                (413); never both taken and refused.
        """
        self.check_room(len(images))
        self._accepted += len(images)
        pixels = 0
        try:
            found, stated = await read_headers(images, self._limits.pixels)
            if self.palette:  # only a map of classes is as large as its image
                self._check_pixels(stated, len(images))
                pixels = stated
            self._pixels += pixels
            yield found
        finally:
            self._accepted -= len(images)
            self._pixels -= pixels

    def check_room(self, images: int = 1) -> None:
        """Raise what `accept` would raise now."""
        if not self.ready:
            raise Refusal(503, f"model {self.name} is not fit for work", {"Retry-After": "5"})
        if self._accepted + images > self._limits.queue:
            self._metrics.images.labels(self.name, "429").inc(images)
            raise busy(f"model {self.name}: {self._limits.queue} images are accepted already, and not answered yet")

    def _check_pixels(self, pixels: int, images: int) -> None:
        most = self._limits.held_pixels
        if pixels > most:
            raise Refusal(413, f"{pixels} pixels in one request are more than {most}; send fewer images at once")
        if self._pixels + pixels > most:
            self._metrics.images.labels(self.name, "429").inc(images)
            raise busy(f"model {self.name}: images of {self._pixels} pixels are not answered yet")

    async def results(
        self, images: Sequence[RequestImage | Refusal], seconds: float, inference: Inference | None = None
    ) -> list[Result | Refusal]:
        """The result of each image, or why it has none; to be called inside of `accept`, with what that gives.

        Args:
            inference: as `options` gives it, for a request that sets some.
        Raises:
            Refusal: not all were done after so many seconds (504).
        """
        found = [image if isinstance(image, Refusal) else Job(image, inference) for image in images]
        jobs = [job for job in found if isinstance(job, Job)]
        self.jobs.add(jobs)
        try:
            late = (await asyncio.wait([job.done for job in jobs], timeout=seconds))[1] if jobs else set()
        finally:
            self.jobs.drop(jobs)
        if late:
            self._metrics.images.labels(self.name, "504").inc(len(late))
            raise Refusal(504, f"no result within {seconds:g} s")
        outcomes = [self._outcome(one) if isinstance(one, Job) else one for one in found]
        for outcome in outcomes:
            status = outcome.status if isinstance(outcome, Refusal) else 200
            self._metrics.images.labels(self.name, str(status)).inc()
        return outcomes

    async def probe(self) -> bool:
        """Whether the model gives a result for a grey image, which passes by those that wait."""
        job = Job(RequestImage(GREY))
        self.jobs.put_first(job)
        try:
            await asyncio.wait([job.done], timeout=self._limits.stall_s)
            return job.done.done() and job.done.exception() is None
        finally:
            self.jobs.drop([job])

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
        return self._inference.result_type(source=source, engine=self.engine, error=refusal.text).to_dict()

    def _outcome(self, job: Job) -> Result | Refusal:
        error = job.done.exception()
        if error is not None:
            if isinstance(error, BrokenImage):
                return Refusal(422, _for_client(error, job.image))
            return Refusal(500, " ".join(str(error).split()) or type(error).__name__)
        result = job.done.result()
        stages = self._metrics.stage_seconds
        for stage, ms in result.ms.items():
            stages.labels(self.name, stage).observe(ms / 1e3)
        waited = time.perf_counter() - job.since - sum(result.ms.values()) / 1e3
        stages.labels(self.name, "wait").observe(max(0.0, waited))
        return result if job.image.name is None else replace(result, source=job.image.name)


def _for_client(error: BrokenImage, image: RequestImage) -> str:
    """What is wrong with an image, for whom has sent it: there is no list of files to remove it from."""
    text = " ".join(str(error).split()).removesuffix(REPLACE_FILE)
    return text.replace(source_name(image.content), image.name or "of the request", 1) + "; send another file"


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
