"""Decoded images kept in memory, so that a set that fits is decoded once; the workers of a loader share them."""

from __future__ import annotations

import mmap
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from typing import IO, Any, Literal

import numpy as np

from ppcls_ext.core.device import processes_of_job
from ppcls_ext.core.display import say
from ppcls_ext.core.headers import image_size
from ppcls_ext.core.images import BrokenImage, read_bytes
from ppcls_ext.core.memory import free_memory
from ppcls_ext.core.system import held_by_process

Setting = bool | Literal["auto"]  # what `DataLoader.<split>.loader.cache` may be

SHARE = 0.5  # decoded images may take this share of the free memory
SIZED = 64  # images whose headers are read, to learn how large the set is
MARGIN = 1.3  # of the memory that is set aside over what those headers make of the set; what is not used costs nothing


class ImageCache:
    """The decoded images of a split, by their number.

    The memory is an anonymous mapping that worker processes inherit when they are forked. It lives until `close`, and
    takes real memory only where an image has been written.

    Args:
        split: what lines for the user call it.
        paths: of the image files.
        setting: `auto` keeps all images or none, True as many as fit, False none.
        extra: bytes of a pixel beside the three of its colours (a mask has one).
        slots: images and masks of one file.
        skip: passes over the split before images are kept: one that is read once only needs none kept.
    """

    def __init__(
        self, split: str, paths: Sequence[str], setting: Setting, extra: int = 0, slots: int = 1, skip: int = 0
    ) -> None:
        self.split, self.paths, self.setting = split, paths, setting
        self.extra, self.slots, self.skip = extra, slots, skip
        self._opened = False
        self._memory: np.ndarray | None = None  # uint8 [capacity]

    def open(self, workers: int) -> None:
        """Set memory aside, and say so in a line; called in the training process before each pass.

        Args:
            workers: processes that are forked afterwards.
        """
        if self.skip > 0:
            self.skip -= 1
            return
        if self._opened or self.setting is False:
            return
        self._opened = True
        capacity, note = self._plan(workers)
        say(f"{self.split}: {note}")
        if capacity > 0:
            # Where each image begins, plus one (0: not there), its height, width and channels; then the end of all.
            places = np.frombuffer(mmap.mmap(-1, 8 * (4 * self.slots * len(self.paths) + 1)), np.int64)
            self._places, self._end = places[:-1].reshape(-1, 4), places[-1:]
            self._lock: IO[Any] = tempfile.TemporaryFile()  # noqa: SIM115  (closed in the next line)
            self._unlock = weakref.finalize(self, self._lock.close)
            self._memory = np.frombuffer(mmap.mmap(-1, capacity), np.uint8)

    def close(self) -> None:
        """Let go of the memory; the next pass sets some aside anew.

        Objects that hold each other hold this one, so that it may outlive its run for long, and a study has many runs.
        """
        self._opened = False
        if self._memory is not None:
            self._memory = None
            del self._places, self._end
            self._unlock()

    def _plan(self, workers: int) -> tuple[int, str]:
        """Bytes to set aside, and what to say about it."""
        if workers and sys.platform != "linux":
            return 0, "images are decoded anew in every epoch: worker processes share no memory on this system"
        free, needed = free_memory(), self._needed()
        budget = int(free * SHARE) // processes_of_job("PADDLE_LOCAL_SIZE")
        sizes = f"{_gigabytes(needed)} of {_gigabytes(free)} free memory"
        if needed <= budget:
            return min(budget, int(needed * MARGIN) + 1), f"decoded images are kept in memory, about {sizes}"
        if self.setting == "auto":
            return 0, f"images are decoded anew in every epoch: they would take {sizes}, more than half"
        return budget, f"about {budget / needed:.0%} of the decoded images are kept in memory: all take {sizes}"

    def _needed(self) -> int:
        """About how many bytes all images take, by the headers of some of them."""
        chosen = np.linspace(0, len(self.paths) - 1, min(SIZED, len(self.paths))).astype(int)
        sizes = [size for index in chosen if (size := _size(self.paths[index])) is not None]
        pixels = sum(width * height for width, height in sizes) / max(1, len(sizes))
        return int(pixels * (3 + self.extra) * len(self.paths)) + 1

    def read(self, number: int, read: Callable[[], np.ndarray], slot: int = 0) -> np.ndarray:
        """The image that `read` gives, uint8 [H, W] or [H, W, 3]; an own copy, where it is kept.

        Args:
            number: of its file.
            slot: which of the file's images it is.
        """
        if self._memory is None:
            return read()
        row = number * self.slots + slot
        begin, height, width, channels = self._places[row].tolist()
        if begin:
            shape = (height, width, channels) if channels else (height, width)
            return self._memory[begin - 1 : begin - 1 + int(np.prod(shape))].reshape(shape).copy()
        image = read()
        self._keep(row, image)
        return image

    def _keep(self, row: int, image: np.ndarray) -> None:
        assert self._memory is not None
        if image.dtype != np.uint8:
            return
        with held_by_process(self._lock):
            begin = int(self._end[0])
            if begin + image.size > len(self._memory):
                return
            self._end[0] = begin + image.size
        self._memory[begin : begin + image.size] = image.reshape(-1)
        with held_by_process(self._lock):  # who finds the place finds all of the image
            self._places[row, 1:] = *image.shape[:2], image.shape[2] if image.ndim == 3 else 0
            self._places[row, 0] = begin + 1


def _size(path: str) -> tuple[int, int] | None:
    try:
        return image_size(read_bytes(path))
    except BrokenImage:  # whoever decodes it says so
        return None


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{max(1, round(count / 1e6))} MB"
