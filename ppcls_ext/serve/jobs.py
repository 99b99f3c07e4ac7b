"""The images that wait for a Predictor or are in it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ppcls_ext.core.images import BrokenImage
from ppcls_ext.runtime.handover import Handover
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.runtime.predictor import MOST_DECODERS
from ppcls_ext.runtime.results import Result
from ppcls_ext.serve.request_image import RequestImage


@dataclass(eq=False)  # a job is found in the queue as itself: images that are arrays cannot be compared
class Job:
    """An image on its way since `since`, and the future of its result; made in the event loop, in which that lives."""

    image: RequestImage
    inference: Inference | None = None
    since: float = field(default_factory=time.perf_counter)
    done: asyncio.Future[Result] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Jobs:
    """Lets as many images into the Predictor as it works on, and keeps the others waiting.

    Those that wait can be dropped; what the Predictor has begun is finished. Every method is called in the event loop.

    Args:
        suspect: told of each failure that is not an image's own.
    """

    def __init__(self, predictor: Pipeline, suspect: Callable[[BaseException], None]) -> None:
        self._predictor, self._suspect = predictor, suspect
        self._waiting: deque[Job] = deque()
        self._done: Handover[tuple[Job, Future[Result]]] = Handover()  # by the Predictor, and not settled yet
        self._running, self._most_running = 0, 2 * predictor.batch + MOST_DECODERS
        self._progress = time.monotonic()  # when the Predictor last gave something or began with nothing to do

    @property
    def waiting(self) -> int:
        """How many are not in the Predictor yet."""
        return len(self._waiting)

    def hung_for(self, seconds: float) -> bool:
        """Whether the Predictor has had work for so long without giving anything."""
        return self._running > 0 and time.monotonic() - self._progress > seconds

    def add(self, jobs: Iterable[Job]) -> None:
        """Have jobs wait after all others."""
        self._waiting.extend(jobs)
        self._pump()

    def put_first(self, job: Job) -> None:
        """Have a job pass by those that wait."""
        self._waiting.appendleft(job)
        self._pump()

    def drop(self, jobs: Sequence[Job]) -> None:
        """Forget jobs that nobody waits for any more."""
        for job in jobs:
            if job.done.done():
                job.done.exception()  # asyncio reports the errors of futures that nobody has looked at
            else:
                job.done.cancel()
                with contextlib.suppress(ValueError):  # it is not waiting, it runs
                    self._waiting.remove(job)

    def settle(self, job: Job, future: Future[Result]) -> None:
        """Give a job what the Predictor has given for it."""
        self._running -= 1
        self._progress = time.monotonic()
        error = future.exception()
        if error is not None and not isinstance(error, BrokenImage):
            self._suspect(error)
        if not job.done.done():
            if error is not None:
                job.done.set_exception(error)
            else:
                job.done.set_result(future.result())

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

    def _tell(self, loop: asyncio.AbstractEventLoop, job: Job, future: Future[Result]) -> None:
        """Have the event loop settle a job, together with others; called in a thread of the Predictor."""
        if self._done.put((job, future)):
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._settle_all)

    def _settle_all(self) -> None:
        loop = asyncio.get_running_loop()
        for job, future in self._done.take():
            loop.call_soon(self.settle, job, future)  # each by itself: a failure stops no other
        loop.call_soon(self._pump)
