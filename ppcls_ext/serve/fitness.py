"""Whether a model is fit for work: after a failure it is tried until it gives a result again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ppcls_ext.serve.log import Log

PROBE_S = 1.0  # between two probes of a model that is not fit for work


class Fitness:
    """Knows whether a model works. Every method is called in the event loop.

    Args:
        name: of the model, for the log.
        probe: tries the model; gives whether it works.

    Attributes:
        good: as the last probe has found.
    """

    def __init__(self, name: str, probe: Callable[[], Awaitable[bool]], log: Log) -> None:
        self.good = True
        self._name, self._probe, self._log = name, probe, log
        self._probing: asyncio.Task[None] | None = None

    def suspect(self, error: BaseException) -> None:
        """After a failure that is not an image's own: see whether the model still works."""
        self._log("failure", model=self._name, text=" ".join(str(error).split())[:300])
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().create_task(self._probe_until_good())

    def close(self) -> None:
        """Stop probing."""
        if self._probing is not None:
            self._probing.cancel()

    async def _probe_until_good(self) -> None:
        while not await self._probe():
            if self.good:
                self._log("not ready", model=self._name)
            self.good = False
            await asyncio.sleep(PROBE_S)
        if not self.good:
            self._log("ready again", model=self._name)
        self.good = True
