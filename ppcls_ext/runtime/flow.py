"""The threads that images go through: some decode, one has the network, one makes results."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.handover import Handover
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.owner import CLOSED, THREAD_NAMES, EngineOwner, Outputs, in_own_thread
from ppcls_ext.runtime.processing import Image, Processing
from ppcls_ext.runtime.results import Result
from ppcls_ext.runtime.sources import Channels


class Flow:
    """What a pipeline has running in one process, and the ways of images through it.

    Args:
        batch: images at once, at most.
        decoders: threads that decode; 0 where a stream does so in the thread that takes its results.
    """

    def __init__(self, processing: Processing, owner: EngineOwner, batch: int, decoders: int) -> None:
        self._processing, self._owner, self._batch = processing, owner, batch
        self._decoders = ThreadPoolExecutor(max(1, decoders), f"{THREAD_NAMES}-decode")
        self._finisher = ThreadPoolExecutor(1, f"{THREAD_NAMES}-finish")
        self._unsettled: Handover[tuple[Image, Future[Outputs], Future[Result]]] = Handover()
        # Decoded images of `submit` that have no result yet are bounded.
        self._room = threading.Semaphore(2 * batch + decoders)

    def close(self) -> None:
        """Finish what was handed over, and let go of the engine."""
        if in_own_thread():  # the last reference went here
            threading.Thread(target=self.close).start()
            return
        self._decoders.shutdown()
        self._owner.close()
        self._finisher.shutdown()

    def one(self, item: Any, channels: Channels | None) -> Result:
        """The result for an image; waits for it."""
        return next(self._results([self._processing.prepared(item, channels)]))

    def submit(self, item: Any, channels: Channels | None, inference: Inference | None) -> Future[Result]:
        """A Future of the result for an image, which `inference` makes where it is not the pipeline's own."""
        future: Future[Result] = Future()
        self._owner.announce()
        try:
            self._decode(self._start, item, channels, future, inference)
        except UserError:
            self._owner.withdraw()
            raise
        return future

    def plain_stream(self, items: Iterator[Any], channels: Channels | None) -> Iterator[Result]:
        """A stream without threads of its own: with one core they would only take it from each other."""
        batch: list[Image] = []
        for item in items:
            image = self._processing.prepared(item, channels)
            if not _fits(image, batch):
                yield from self._results(batch)
                batch = []
            batch.append(image)
            if _count(batch) == self._batch:
                yield from self._results(batch)
                batch = []
        if batch:
            yield from self._results(batch)

    def stream(self, items: Iterator[Any], channels: Channels | None, most: int) -> Iterator[Result]:
        """Results in the order of the images, of which `most` at most are taken and have not been given back."""
        decoding: deque[Future[Image]] = deque()
        batch: list[Image] = []  # decoded, and not handed to the network yet
        running: deque[Future[Result]] = deque()
        more = True
        while True:
            while more and len(decoding) + len(batch) + len(running) < most:
                try:
                    item = next(items)
                except StopIteration:
                    more = False
                    break
                decoding.append(self._decode(self._processing.prepared, item, channels))
                if running and running[0].done():
                    break  # a result is there: it is not held up by images that are slow to come
            if running and running[0].done():
                yield running.popleft().result()
            elif decoding and len(running) < 2 * self._batch:
                image = decoding.popleft().result()
                if batch and not _fits(image, batch):
                    self._launch(batch, running)
                batch.append(image)
                if _count(batch) == self._batch:
                    self._launch(batch, running)
            elif running and (more or not batch):  # with its result out of the way, more images can join the batch
                yield running.popleft().result()
            elif batch:
                self._launch(batch, running)
            else:
                return

    def _decode(self, task: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run something in a thread that decodes. Raises UserError: these threads are closed."""
        try:
            return self._decoders.submit(task, *arguments)
        except RuntimeError as error:  # shut down
            raise UserError(CLOSED) from error

    def _results(self, batch: Sequence[Image]) -> Iterator[Result]:
        """The results of images that fit into one batch, in their order; waits for them."""
        works = [image.work for image in batch if image.work is not None]
        if works:
            self._owner.call(works)
        for image in batch:
            yield self._processing.result(image, None if image.work is None else image.work.done)

    def _start(self, item: Any, channels: Channels | None, future: Future[Result], inference: Inference | None) -> None:
        """Decode an image of `submit` and hand it to the network."""
        if not future.set_running_or_notify_cancel():
            self._owner.withdraw()
            return
        self._room.acquire()
        future.add_done_callback(lambda _: self._room.release())
        image = self._processing.prepared(item, channels)
        image.inference = inference
        if image.work is None:
            self._owner.withdraw()
            self._settle(image, None, future)
            return
        if self._owner.withdraw_if_alone():
            # Each thread that a lone image passes through would only add to its time.
            image.work.done.add_done_callback(partial(self._settle_safely, image, future=future))
            self._owner.call([image.work])
        else:
            image.work.done.add_done_callback(partial(self._settle_later, image, future=future))
            self._owner.put_announced(image.work)

    def _launch(self, batch: list[Image], running: deque[Future[Result]]) -> None:
        """Hand a batch to the network and its postprocessing to the finisher; empties it."""
        for image in batch:
            running.append(Future())
            if image.work is None:
                self._settle(image, None, running[-1])
            else:
                image.work.done.add_done_callback(partial(self._settle_later, image, future=running[-1]))
        works = [image.work for image in batch if image.work is not None]
        if works:
            self._owner.put_batch(works)
        batch.clear()

    def _settle_later(self, image: Image, outcome: Future[Outputs], future: Future[Result]) -> None:
        """Have the finisher make a result. It is woken once for all images of a batch."""
        if not self._unsettled.put((image, outcome, future)):
            return
        try:
            self._finisher.submit(self._settle_all)
        except RuntimeError:  # the interpreter is ending, and has ended that thread first
            self._settle_all()

    def _settle_all(self) -> None:
        for image, outcome, future in self._unsettled.take():
            self._settle_safely(image, outcome, future)

    def _settle_safely(self, image: Image, outcome: Future[Outputs], future: Future[Result]) -> None:
        """Settle in a thread that others need: it goes on where a callback of the caller's raises SystemExit."""
        with contextlib.suppress(BaseException):
            self._settle(image, outcome, future)

    def _settle(self, image: Image, outcome: Future[Outputs] | None, future: Future[Result]) -> None:
        try:
            future.set_result(self._processing.result(image, outcome))
        except Exception as error:
            future.set_exception(error)


def _count(batch: Sequence[Image]) -> int:
    return sum(image.work is not None for image in batch)


def _fits(image: Image, batch: Sequence[Image]) -> bool:
    """Whether an image has the shapes of a batch; one without inputs fits anywhere."""
    shapes = [other.work.shapes for other in batch if other.work is not None]
    return image.work is None or not shapes or image.work.shapes == shapes[0]
