"""The process in which an engine runs a model: engines may crash the process they are in.

It obeys commands that come over a pipe: (name, keyword arguments) -> ("ok", value) or ("failed", reason).
`ppcls_ext.runtime.process` starts it.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.engines import Engine, open_engine
from ppcls_ext.runtime.timing import make_inputs, timed


class Worker:
    """The commands that every such process knows."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.inputs: list[np.ndarray] = []

    def open(self, folder: str, engine: str, model_format: str | None, threads: int) -> None:
        """Load a model."""
        self.engine = open_engine(engine, Path(folder), threads, model_format)

    def run(self, batches: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        """The outputs for each batch of inputs, from the engine that was asked for and no other."""
        assert self.engine is not None
        outputs = [[np.array(array) for array in self.engine(batch)] for batch in batches]
        self.engine.check()
        return outputs

    def measure(self, inputs: Sequence[Mapping[str, Any]], calls: int, discarded: int = 0) -> list[int]:
        """Nanoseconds of `calls` calls on normal noise, after `discarded` ones that bring caches and clocks back.

        Args:
            inputs: `shape` and `dtype` of each.
        """
        assert self.engine is not None
        if [list(array.shape) for array in self.inputs] != [list(spec["shape"]) for spec in inputs]:
            self.inputs = make_inputs(inputs, seed=0)
        timed(self.engine, self.inputs, discarded)
        gc.disable()
        try:
            return timed(self.engine, self.inputs, calls)
        finally:
            gc.enable()


def serve(pipe: Connection, worker: Worker) -> None:
    """Obey until the other end of the pipe is closed."""
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("ok", getattr(worker, name)(**arguments)))
        except UserError as error:
            pipe.send(("failed", str(error)))
        except Exception as error:  # whatever an engine raises is the reason why it failed
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            pipe.send(("failed", f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"[:300]))


def main(worker: Worker) -> None:
    """Be the process that `EngineProcess` starts: its arguments are the pipe and the cores to bind to."""
    pipe, cores = sys.argv[1:]
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    serve(Connection(int(pipe)), worker)
    sys.stdout.flush()
    os._exit(0)  # engines of several libraries may crash while a process ends


if __name__ == "__main__":
    main(Worker())
