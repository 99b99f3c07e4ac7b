"""What share of the time of steps goes by with waiting for data."""

from __future__ import annotations

import time

from ppcls_ext.data.loader import Loader


class Waits:
    """Compares the seconds that a loader's batches were waited for with all that went by, evaluations left out."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._all = self._all_waited = 0.0  # seconds of the epochs that ended
        self.restart_clock()

    def restart_clock(self) -> None:
        """Count from now on, at the start of an epoch."""
        self._epoch = self._since = time.monotonic()
        self._epoch_waited = self._waited = self._loader.waited

    def share(self) -> float:
        """The share since it was last asked for, or since the epoch began."""
        now, waited = time.monotonic(), self._loader.waited
        share = (waited - self._waited) / max(now - self._since, 1e-9)
        self._since, self._waited = now, waited
        return share

    def end_epoch(self) -> None:
        """Count the epoch that ends."""
        self._all += time.monotonic() - self._epoch
        self._all_waited += self._loader.waited - self._epoch_waited

    def share_of_all(self) -> float:
        """The share in all epochs that ended."""
        return self._all_waited / max(self._all, 1e-9)
