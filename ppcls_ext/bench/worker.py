"""The process in which one engine runs one model while it is measured; `ppcls_ext.bench.session` starts it."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ppcls_ext.bench.counters import operator_times
from ppcls_ext.core.peak import peak_gflops
from ppcls_ext.runtime.engines import engine_class, open_engine
from ppcls_ext.runtime.timing import Runner, make_inputs, timed
from ppcls_ext.runtime.worker import Worker, main

NULL = "null"  # an engine that does nothing: what it seems to cost is what measuring costs
CALL_MARK = b"#call\n"  # between the lines that oneDNN prints


class BenchWorker(Worker):
    """The commands of a process that is measured."""

    def __init__(self) -> None:
        super().__init__()
        self.runners: list[Runner] = []
        self.process = psutil.Process()

    def rss_mb(self) -> float:
        """Memory of this process, MiB."""
        return float(self.process.memory_info().rss / 2**20)

    def start(
        self,
        folder: str,
        engine: str,
        model_format: str | None,
        threads: int,
        streams: int,
        inputs: list[dict[str, Any]],
        seed: int,
    ) -> dict[str, float]:
        """Load the model once for each stream, run it for the first time; milliseconds and resident megabytes."""
        self.inputs = make_inputs(inputs, seed)
        if engine == NULL:
            self.runners = [lambda arrays: []] * streams
            return {"rss_before_mb": self.rss_mb(), "load_ms": 0.0, "first_run_ms": 0.0}
        engine_class(engine).library()  # the time that this takes is not the model's
        before = self.rss_mb()
        start = time.perf_counter()
        opened = [open_engine(engine, Path(folder), threads, model_format) for _ in range(streams)]
        loaded = time.perf_counter()
        for one in opened:
            one(self.inputs)
        first = time.perf_counter()
        opened[0].check()
        self.runners = list(opened)
        return {
            "rss_before_mb": before,
            "load_ms": 1e3 * (loaded - start) / streams,
            "first_run_ms": 1e3 * (first - loaded) / streams,
        }

    def outputs(self, inputs: list[dict[str, Any]], seed: int) -> list[np.ndarray]:
        """The outputs for random inputs that `seed` fixes."""
        return [np.array(a) for a in self.runners[0](make_inputs(inputs, seed))]

    def turn(self, calls: int, discarded: int = 0) -> dict[str, Any]:
        """`calls` timed calls in each stream, after `discarded` ones that bring caches and clocks back."""
        for run in self.runners:
            timed(run, self.inputs, discarded)
        taken: list[list[int]] = [[] for _ in self.runners]

        def stream(k: int) -> None:
            taken[k] = timed(self.runners[k], self.inputs, calls)

        start = time.perf_counter()
        gc.disable()
        try:
            if len(self.runners) == 1:
                stream(0)
            else:
                threads = [threading.Thread(target=stream, args=(k,)) for k in range(len(self.runners))]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        finally:
            gc.enable()
        return {
            "ns": [ns for one in taken for ns in one],
            "seconds": time.perf_counter() - start,
            "rss_mb": self.rss_mb(),
        }

    def vary(self, shapes: list[list[dict[str, Any]]], seed: int) -> None:
        """Run once on inputs of each of these shapes."""
        for inputs in shapes:
            self.runners[0](make_inputs(inputs, seed))

    def used(self) -> dict[str, float]:
        """What this process holds: resident megabytes, open files, threads."""
        return {"rss_mb": self.rss_mb(), "files": self.process.num_fds(), "threads": self.process.num_threads()}

    def marked(self, calls: int) -> None:
        """Run with a mark on stdout before each call, for the log that oneDNN writes there."""
        for _ in range(calls):
            os.write(1, CALL_MARK)
            self.runners[0](self.inputs)

    def counters(self, folder: str, engine: str, threads: int, calls: int) -> list[list[dict[str, Any]]]:
        """Operator times of each of `calls` calls, from the engine's own counters."""
        return operator_times(engine, Path(folder), threads, self.inputs, calls)

    def peak(self, threads: int) -> float:
        """GFLOP/s that this process can reach, so on the cores that it is bound to."""
        return peak_gflops(threads)


if __name__ == "__main__":
    main(BenchWorker())
