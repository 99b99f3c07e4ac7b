"""The process in which photos become results while that is measured; `ppcls_ext.bench.end_to_end` starts it."""

from __future__ import annotations

import functools
import gc
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.bench.scripts import Script, gist, make_script
from ppcls_ext.runtime.exported import read_exported
from ppcls_ext.runtime.predictor import Predictor
from ppcls_ext.runtime.worker import Worker, main

PREDICTOR, SCRIPT, PADDLECLAS = "predictor", "script", "PaddleClas"


class PhotoWorker(Worker):
    """The commands of a process that is measured from image file to result."""

    def __init__(self) -> None:
        super().__init__()
        self.call: Callable[[str], Any] | None = None
        self.gist: Callable[[Any], np.ndarray] = np.asarray
        self.files: itertools.cycle[str] = itertools.cycle(())
        self.streaming: Callable[[int], Predictor] | None = None

    def start(self, kind: str, folder: str, engine: str | None, decode: str, threads: int) -> None:
        """Open what turns photos into results."""
        if kind == PREDICTOR:
            options: dict[str, Any] = {"decode": decode, "threads": threads}
            self.call, self.gist = Predictor(folder, engine, **options), gist
            self.streaming = functools.cache(lambda batch: Predictor(folder, engine, batch=batch, **options))
        else:
            self.call = self._reference(kind, Path(folder), threads)

    def use(self, files: Sequence[str]) -> list[np.ndarray]:
        """Turn these photos into results from now on; gives the gist of the result of each."""
        assert self.call is not None
        self.files = itertools.cycle(files)
        return [np.array(self.gist(self.call(file))) for file in files]

    @staticmethod
    def _reference(kind: str, folder: Path, threads: int) -> Script:
        recipe = read_exported(folder).recipe
        if kind == SCRIPT:
            return make_script(folder, recipe, threads)
        from ppcls_ext.upstream.paddleclas import deploy_predictor

        return deploy_predictor(folder / "legacy", recipe["preprocess"]["transforms"], threads)

    def turn(self, calls: int, discarded: int = 0) -> dict[str, Any]:
        """Nanoseconds of each of `calls` calls, after `discarded` ones that bring caches and clocks back."""
        assert self.call is not None
        call, files, clock = self.call, self.files, time.perf_counter_ns
        for _ in range(discarded):
            call(next(files))
        taken = []
        gc.disable()
        begun = clock()
        try:
            for _ in range(calls):
                file = next(files)
                start = clock()
                call(file)
                taken.append(clock() - start)
        finally:
            gc.enable()
        return {"ns": taken, "seconds": (clock() - begun) / 1e9}

    def stream(self, files: Sequence[str], batch: int, seconds: float) -> float:
        """Images a second of a stream of these files over and over, in batches, which is timed for so long."""
        assert self.streaming is not None
        results = self.streaming(batch).stream(itertools.cycle(files))
        for _ in range(2 * batch):  # warms it up, and fills what is between its threads
            next(results)
        done, start = 0, time.perf_counter()
        while done < 2 * batch or time.perf_counter() - start < seconds:
            for _ in range(batch):
                next(results)
            done += batch
        return done / (time.perf_counter() - start)


if __name__ == "__main__":
    main(PhotoWorker())
