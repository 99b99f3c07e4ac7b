"""What threads hand over to another one that works it off, and that is woken once for many things."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Handover(Generic[Thing]):
    """Things that any thread puts here and one takes, in their order.

    Whoever puts the first one wakes the one who takes: it takes what comes meanwhile too, until nothing is left.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._things: deque[Thing] = deque()
        self._taken = False  # whether someone takes them, or was asked to

    def put(self, thing: Thing) -> bool:
        """Add a thing; whether the caller has to wake the one who takes, since nobody has done so."""
        with self._lock:
            self._things.append(thing)
            first, self._taken = not self._taken, True
        return first

    def take(self) -> Iterator[Thing]:
        """Each thing once, until nothing is left. To be gone through to its end, or those that follow stay here."""
        while True:
            with self._lock:
                if not self._things:
                    self._taken = False
                    return
                thing = self._things.popleft()
            yield thing
