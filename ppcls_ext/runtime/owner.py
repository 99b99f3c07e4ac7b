"""The thread that opens an engine, runs it and lets go of it: predictors of Paddle must not be shared by threads.

Paddle's issues 56524 (answers of two threads are mixed), 42607 (clones crash) and 34554 (oneDNN with threads) say why.
"""

from __future__ import annotations

import ctypes
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppcls_ext.core.errors import UserError

THREAD_NAMES = "pplcnet"  # what the names of a pipeline's threads begin with
CLOSED = "this predictor is closed; make another one"

Arrays = Sequence[np.ndarray]
Run = Callable[[Arrays], list[np.ndarray]]
Split = Callable[[Arrays, int], list[list[np.ndarray]]]


@dataclass(frozen=True)
class Outputs:
    """What the network gave for an image.

    Attributes:
        arrays: without the batch axis.
        ms: milliseconds that the run of the whole batch took.
    """

    arrays: list[np.ndarray]
    ms: float


@dataclass(frozen=True)
class Work:
    """An image's inputs of the network, without the batch axis, and the outcome."""

    inputs: Arrays
    done: Future[Outputs] = field(default_factory=Future)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of each input, without the batch axis."""
        return [array.shape for array in self.inputs]


class EngineOwner:
    """A thread that runs batches in the order of their arrival, and joins single images that wait.

    Args:
        open_run: opens the engine, in the thread; gives what runs a batch.
        split: parts the outputs of a batch of so many images by image; may refuse them by raising.
        batch: images at once.
        fixed: whether the network takes exactly `batch`; missing images are then copies of the last one.
        any_thread: whether any thread may run the engine, as long as one does at a time.
    Raises:
        whatever `open_run` raises.
    """

    def __init__(
        self, open_run: Callable[[], Run], split: Split, batch: int, fixed: bool, any_thread: bool = False
    ) -> None:
        self._split, self._batch, self._fixed, self._any_thread = split, batch, fixed, any_thread
        self._engine: Run | None = None
        self._busy = threading.Lock()  # held while the engine runs
        self._queue: queue.SimpleQueue[list[Work]] = queue.SimpleQueue()
        self._handing = threading.Lock()  # held while the queue is added to: nothing may come after its end
        self._closed = False
        self._coming = 0  # images that are announced and have not come yet
        self._run_s = 0.0  # how long the last batch ran
        self._waiting: list[Work] | None = None  # taken from the queue, and not fit for the batch before it
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(open_run, opened), daemon=True)
        self._thread.name = f"{THREAD_NAMES}-engine"
        self._thread.start()
        opened.result()

    @property
    def idle(self) -> bool:
        """Whether no image waits or is announced; one may be running."""
        return self._coming == 0 and self._waiting is None and self._queue.empty()

    def announce(self) -> None:
        """Say that an image is on its way: it is worth to wait for others. `arrive` must follow; any thread may."""
        with self._handing:
            self._coming += 1

    def arrive(self) -> None:
        """An image that was announced is about to be handed over, or will never be."""
        with self._handing:
            self._coming -= 1

    def call(self, images: Sequence[Work]) -> None:
        """Hand over images, as `put` or `put_batch` does, whose outcomes are waited for at once; any thread may.

        Where nothing else is running and the engine lets any thread run it, the caller does: on a busy core, handing
        over to another thread and back can take longer than the network.

        Raises:
            UserError: it is closed; so do `put` and `put_batch`.
        """
        engine = self._engine
        if engine is None or not self._any_thread or not self._busy.acquire(blocking=False):
            self.put_batch(images)
            return
        try:
            self._run(engine, images)
        finally:
            self._busy.release()

    def put(self, image: Work) -> Future[Outputs]:
        """Hand over an image, which others may join; any thread may."""
        self.put_batch([image])
        return image.done

    def put_batch(self, images: Sequence[Work]) -> None:
        """Hand over images of the same shapes, at most `batch`, which run together; any thread may."""
        with self._handing:
            if self._closed:  # nobody would ever run them
                raise UserError(CLOSED)
            self._queue.put(list(images))

    def close(self) -> None:
        """Finish what was handed over, let go of the engine and end the thread."""
        with self._handing:
            self._closed = True
            self._queue.put([])
        self._thread.join()

    def _serve(self, open_run: Callable[[], Run], opened: Future[None]) -> None:
        try:
            run = open_run()
        except BaseException as error:
            opened.set_exception(error)
            return
        self._engine = run
        opened.set_result(None)
        while images := self._next():
            with self._busy:
                self._run(run, images)
        self._engine = None

    def _next(self) -> list[Work]:
        """The next images to run together; none at the end.

        They wait for others while more are on their way than are here: then half of the images are decoded while the
        other half runs. No longer than the last batch ran, since an image may be large or broken.
        """
        images = self._waiting or self._queue.get()
        self._waiting = None
        latest = time.perf_counter() + self._run_s
        while 0 < len(images) < self._batch:
            patience = latest - time.perf_counter() if len(images) < self._coming else 0.0
            try:
                more = self._queue.get(patience > 0, patience if patience > 0 else None)
            except queue.Empty:
                break
            if not more:
                self._queue.put([])  # the end, once these are done
                break
            if len(images) + len(more) > self._batch or more[0].shapes != images[0].shapes:
                self._waiting = more
                break
            images = [*images, *more]
        return images

    def _run(self, run: Run, images: Sequence[Work]) -> None:
        """Run a batch; where that fails, each image alone, so that a bad one takes no other along."""
        try:
            start = time.perf_counter()
            outputs = run(stack([image.inputs for image in images], self._batch if self._fixed else len(images)))
            self._run_s = time.perf_counter() - start
            ms = self._run_s * 1e3
            parts = self._split(outputs, len(images))
        except Exception as error:
            if len(images) > 1:
                for image in images:
                    self._run(run, [image])
            else:
                images[0].done.set_exception(error)
            return
        for image, arrays in zip(images, parts, strict=True):
            image.done.set_result(Outputs(arrays, ms))


def stack(images: Sequence[Arrays], batch: int) -> list[np.ndarray]:
    """Inputs of several images as inputs of a batch, filled up with the last one to `batch` images."""
    if batch == 1:
        return [array[None] for array in images[0]]  # nothing to copy
    filled = [*images, *[images[-1]] * (batch - len(images))]
    return [np.stack(arrays) for arrays in zip(*filled, strict=True)]


def abandon(thing: Any) -> None:
    """Keep an object for ever: in a forked child its destructor would wait for threads that only the parent has."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
