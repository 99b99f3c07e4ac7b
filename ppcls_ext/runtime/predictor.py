"""`ppcls_ext.Predictor`: results from an exported folder, in three lines and without a training framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.device import cpu_threads
from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.choice import choose_engine
from ppcls_ext.runtime.engines import open_engine
from ppcls_ext.runtime.engines.base import FORMATS
from ppcls_ext.runtime.exported import Exported, read_exported
from ppcls_ext.runtime.inference import build_inference
from ppcls_ext.runtime.owner import Run
from ppcls_ext.runtime.pipeline import Errors, Pipeline
from ppcls_ext.runtime.sources import MAX_PIXELS

MOST_DECODERS = 4  # threads; decoding of more images at once is bound by memory


class Predictor(Pipeline):
    """Predicts with an exported model of any task: a classifier, a detector or a segmenter.

    It may be called from any thread. The engine lives in a thread of its own. After a fork the child opens an engine of
    its own at its next call; futures and streams of the parent do not go on there.

        with Predictor("output/my_images/inference") as predict:
            print(predict("photo.jpg").labels)

    Args:
        folder: as written by `pplcnet export`.
        engine: name of an engine; default: oneDNN where Paddle is installed, else ONNX Runtime or OpenVINO.
        threads: of the CPU, for the engine; default: OMP_NUM_THREADS, or every usable core.
        batch: images at once, at most, where the export leaves it free.
        errors: `raise`, or `keep` an image's error in its result.
        max_pixels: an image whose header states more is refused before it is decoded; None takes any.
        decoders: threads that decode images for `stream`, `submit` and lists; default: as many as `threads`, at most 4.
        allow_reduced: run an engine with reduced precision also where export has not found it faster and as good.
        options: of the task's own: `topk` (classification), `threshold` (detection).
    Raises:
        UserError: not an exported folder or not as export wrote it; an engine that is not installed or cannot run it.
    """

    def __init__(
        self,
        folder: str | Path,
        engine: str | None = None,
        *,
        threads: int | None = None,
        batch: int = 1,
        errors: Errors = "raise",
        max_pixels: int | None = MAX_PIXELS,
        decoders: int | None = None,
        allow_reduced: bool = False,
        **options: Any,
    ) -> None:
        self.exported = read_exported(folder)
        name, model_format = choose_engine(self.exported, engine, allow_reduced)
        if threads is not None and (type(threads) is not int or threads < 1):
            raise UserError(f"threads must be a positive number, got {threads!r}")
        self.threads = cpu_threads(threads)
        try:
            inference = build_inference(self.exported.task, self.exported.recipe, options)
        except UserError as error:
            raise UserError(f"exported model {self.exported.folder}: {error}") from error
        fixed = self.exported.batch
        super().__init__(
            _opener(self.exported, name, model_format, self.threads),
            inference,
            batch=batch if fixed == -1 else fixed,
            fixed=fixed != -1,
            engine=name,
            where=f"exported model {self.exported.folder}: ",
            errors=errors,
            max_pixels=max_pixels,
            decoders=min(self.threads, MOST_DECODERS) if decoders is None else decoders,
        )

    def __enter__(self) -> Predictor:
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in order of their numbers."""
        return self.exported.labels


def _opener(exported: Exported, name: str, model_format: str, threads: int) -> Callable[[], Run]:
    """What opens the engine: in the thread that will own it, and again in a forked process."""

    def open_run() -> Run:
        exported.verify(FORMATS[model_format])
        engine = open_engine(name, exported.folder, threads, model_format)
        checked = False

        def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            nonlocal checked
            outputs = engine(inputs)
            if not checked:
                engine.check()
                checked = True
            return outputs

        return run

    return open_run
