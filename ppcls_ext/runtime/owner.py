"""The thread that opens an engine, runs it and lets go of it: predictors of Paddle must not be shared by threads.

Paddle's issues 56524 (answers of two threads are mixed), 42607 (clones crash) and 34554 (oneDNN with threads) say why.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
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


def in_own_thread() -> bool:
    """Whether this is a thread of a pipeline, which must not wait for what it has to do itself."""
    return threading.current_thread().name.startswith(THREAD_NAMES)


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
        any_thread: tells whether any thread may run the engine, as long as one does at a time. It is asked at each
            call, since which engine it is may be known only after the first.
    Raises:
        whatever `open_run` raises.
    """

    def __init__(
        self,
        open_run: Callable[[], Run],
        split: Split,
        batch: int,
        fixed: bool,
        any_thread: Callable[[], bool] = lambda: False,
    ) -> None:
        self._split, self._batch, self._fixed, self._any_thread = split, batch, fixed, any_thread
        self._engine: Run | None = None
        self._busy = threading.Lock()  # held while the engine runs
        self._changed = threading.Condition()  # guards what follows; notified where the thread has something to do
        self._waiting: deque[Sequence[Work]] = deque()
        self._coming = 0  # images that are announced and have not come yet
        self._closed = False
        self._run_s = 0.0  # how long the last batch ran
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(open_run, opened), daemon=True)
        self._thread.name = f"{THREAD_NAMES}-engine"
        self._thread.start()
        opened.result()

    def announce(self) -> None:
        """Say that an image is on its way, which others may wait for; any thread may.

        `put_announced` or `withdraw` must follow.
        """
        with self._changed:
            self._coming += 1

    def withdraw(self) -> None:
        """Say that an image that was announced will not come; any thread may."""
        with self._changed:
            self._coming -= 1
            self._wake()

    def put_announced(self, image: Work) -> None:
        """Hand over an image that was announced; any thread may."""
        with self._changed:
            self._coming -= 1
            self._add([image])

    def withdraw_if_alone(self) -> bool:
        """Withdraw an image that was announced if no other one waits or is on its way; whether there is none."""
        with self._changed:
            alone = self._coming == 1 and not self._waiting
            self._coming -= alone
        return alone

    def call(self, images: Sequence[Work]) -> None:
        """Hand over images, as `put` or `put_batch` does, whose outcomes are waited for at once; any thread may.

        Where nothing else is running and the engine lets any thread run it, the caller does: on a busy core, handing
        over to another thread and back can take longer than the network. So does the thread of the engine itself, in
        what is called where an outcome is set: it would wait for itself.

        Raises:
            UserError: it is closed; so do `put` and `put_batch`.
        """
        engine, own = self._engine, threading.current_thread() is self._thread
        if engine is None or not (own or self._any_thread()) or not self._busy.acquire(blocking=own):
            self.put_batch(images)
            return
        try:
            outcomes = self._run(engine, images)
        finally:
            self._busy.release()
        _set(images, outcomes)

    def put(self, image: Work) -> Future[Outputs]:
        """Hand over an image, which others may join; any thread may."""
        self.put_batch([image])
        return image.done

    def put_batch(self, images: Sequence[Work]) -> None:
        """Hand over images of the same shapes, at most `batch`, which run together; any thread may."""
        with self._changed:
            self._add(images)

    def close(self) -> None:
        """Finish what was handed over, let go of the engine and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
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
                outcomes = self._run(run, images)
            _set(images, outcomes)
            del images, outcomes  # else this thread would hold the last batch while it waits
        self._engine = None

    def _next(self) -> list[Work]:
        """The next images to run together; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            latest = time.perf_counter() + self._run_s
            while self._wait_for_more() and (patience := latest - time.perf_counter()) > 0:
                self._changed.wait(patience)
            return self._take()

    def _take(self) -> list[Work]:
        """Remove what runs next: the images that wait, as far as they fit into one batch."""
        images: list[Work] = []
        while self._waiting and _fits(self._waiting[0], images, self._batch):
            images += self._waiting.popleft()
        return images

    def _add(self, images: Sequence[Work]) -> None:
        if self._closed:  # nobody would ever run them
            raise UserError(CLOSED)
        self._waiting.append(images)
        self._wake()

    def _wake(self) -> None:
        """Wake the thread, if it has something to do: the first image starts its patience, the last one ends it."""
        if len(self._waiting) == 1 or not self._wait_for_more():
            self._changed.notify()

    def _wait_for_more(self) -> bool:
        """Whether the next batch is to wait: while more images are on their way than are here.

        Then half of them are decoded while the other half runs. It never waits longer than the last batch ran, since
        an image may be large.
        """
        here = sum(map(len, self._waiting))
        return 0 < here < min(self._batch, self._coming) and not self._closed

    def _run(self, run: Run, images: Sequence[Work]) -> list[Outputs | Exception]:
        """The outcomes of a batch; where it fails, each image is run alone, so that a bad one takes no other along."""
        try:
            start = time.perf_counter()
            outputs = run(stack([image.inputs for image in images], self._batch if self._fixed else len(images)))
            self._run_s = time.perf_counter() - start
            ms = self._run_s * 1e3
            return [Outputs(arrays, ms) for arrays in self._split(outputs, len(images))]
        except Exception as error:
            if len(images) == 1:
                return [error]
            return [outcome for image in images for outcome in self._run(run, [image])]


def _set(images: Sequence[Work], outcomes: Sequence[Outputs | Exception]) -> None:
    """Set the outcomes of images, once the engine is free again: what is called then may ask for another image."""
    for image, outcome in zip(images, outcomes, strict=True):
        if isinstance(outcome, Exception):
            image.done.set_exception(outcome)
        else:
            image.done.set_result(outcome)


def _fits(more: Sequence[Work], images: Sequence[Work], batch: int) -> bool:
    """Whether some images can run together with those of a batch of at most so many."""
    return not images or (len(images) + len(more) <= batch and more[0].shapes == images[0].shapes)


def stack(images: Sequence[Arrays], batch: int) -> list[np.ndarray]:
    """Inputs of several images as inputs of a batch, filled up with the last one to `batch` images."""
    if batch == 1:
        return [array[None] for array in images[0]]  # nothing to copy
    filled = [*images, *[images[-1]] * (batch - len(images))]
    return [np.stack(arrays) for arrays in zip(*filled, strict=True)]


def abandon(thing: Any) -> None:
    """Keep an object for ever: in a forked child its destructor would wait for threads that only the parent has."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
