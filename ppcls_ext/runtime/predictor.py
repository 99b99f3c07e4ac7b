"""`ppcls_ext.Predictor`: results from an exported folder, in three lines and without a training framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.bounds import MAX_PIXELS
from ppcls_ext.core.device import THREADS_A_CPU, cpu_threads, most_threads, usable_cores
from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.auto import check_auto, choose_fastest
from ppcls_ext.runtime.choice import AUTO, EngineChoice, choose_engine
from ppcls_ext.runtime.engines import engine_class, open_engine
from ppcls_ext.runtime.engines.base import FORMATS, Engine
from ppcls_ext.runtime.exported import Exported, read_exported
from ppcls_ext.runtime.inference import Inference, build_inference
from ppcls_ext.runtime.owner import Run
from ppcls_ext.runtime.pipeline import Pipeline
from ppcls_ext.runtime.processing import Decode, Errors
from ppcls_ext.upstream.glibc import keep_freed_memory

MOST_DECODERS = 4  # threads; decoding of more images at once is bound by memory
KEPT_BYTES = 2**28  # so much freed memory stays with the process: a few decoded photos of phones


class Predictor(Pipeline):
    """Predicts with an exported model of any task: a classifier, a detector or a segmenter.

    It may be called from any thread. The engine lives in a thread of its own. After a fork the child opens an engine of
    its own at its next call; futures and streams of the parent do not go on there.

        with Predictor("output/my_images/inference") as predict:
            print(predict("photo.jpg").labels)

    Args:
        folder: as written by `pplcnet export`.
        engine: name of an engine; default: oneDNN where Paddle is installed, else ONNX Runtime or OpenVINO. `auto`
            measures once on this machine, for some seconds, and takes the fastest one that gives the outputs which the
            export stores; `report` says why.
        threads: of the CPU, for the engine; default: OMP_NUM_THREADS, or every usable core.
        batch: images at once, at most, where the export leaves it free.
        errors: `raise`, or `keep` an image's error in its result.
        max_pixels: an image whose header states more is refused before it is decoded; None takes any.
        decode: `exact` is bit-equal to evaluation. `scaled` decodes JPEGs at 1/2, 1/4 or 1/8 where at least twice the
            size that the network needs is left: several times as fast on photos of cameras, with slightly other pixels.
        decoders: threads that decode images for `stream`, `submit` and lists; default: as many as `threads`, at most 4.
            With 0, the default where there is one core, streams and lists do so in the thread that takes the results.
        size: height and width of the network's input that `auto` looks for the fastest engine for, where the export
            leaves them free; default: those of the first image.
        allow_reduced: run an engine with reduced precision also where export has not found it faster and as good.
        model_format: of the folder, that a named engine runs; default: the first of its own that is there.
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
        decode: Decode = "exact",
        decoders: int | None = None,
        size: tuple[int, int] | None = None,
        allow_reduced: bool = False,
        model_format: str | None = None,
        **options: Any,
    ) -> None:
        _check(engine, threads, size, allow_reduced, model_format)
        self.exported = read_exported(folder)
        choice = None if engine == AUTO else choose_engine(self.exported, engine, allow_reduced, model_format)
        self.threads = _checked_threads(threads)
        self._options = options
        try:
            inference = self.inference_with()
        except UserError as error:
            raise UserError(f"exported model {self.exported.folder}: {error}") from error
        fixed = self.exported.batch
        selection = _Selection(self.exported, inference, self.threads, batch if fixed == -1 else fixed, choice)
        self._selection = selection
        self._shapes = self.exported.shapes(1, size)
        keep_freed_memory(KEPT_BYTES, one_heap=True)
        super().__init__(
            _opener(selection),
            inference,
            batch=batch if fixed == -1 else fixed,
            fixed=fixed != -1,
            engine=selection.name,
            where=f"exported model {self.exported.folder}: ",
            errors=errors,
            max_pixels=max_pixels,
            decode=decode,
            any_thread=lambda: selection.any_thread,
            decoders=_decoders(self.threads) if decoders is None else decoders,
        )

    def _before_opening(self) -> None:
        if self._shapes is not None:
            self._selection.choose(self._shapes)

    def __enter__(self) -> Predictor:
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in order of their numbers."""
        return self.exported.labels

    @property
    def model_format(self) -> str | None:
        """The format of the folder that the engine runs; None until `auto` has chosen for the first image's size."""
        return None if self._selection.choice is None else self._selection.choice.model_format

    @property
    def chosen(self) -> EngineChoice | None:
        """What `auto` has chosen; None where an engine was named or none is chosen yet."""
        choice = self._selection.choice
        return choice if choice is not None and choice.candidates else None

    def inference_with(self, **options: Any) -> Inference:
        """What makes results with other options of the task's own; for `submit`.

        Args:
            options: `topk` (classification), `threshold` (detection); those not given are as this Predictor has them.
        Raises:
            UserError: an option that the task does not have, or a value that is none for it.
        """
        return build_inference(self.exported.task, self.exported.recipe, {**self._options, **options})

    def report(self) -> EngineChoice:
        """Which engine runs the model and why; as text, a line for it and one for each candidate that was measured.

        Raises:
            UserError: none is chosen yet.
        """
        if self._selection.choice is None:
            raise UserError(
                "no engine is chosen yet, since the fastest depends on the size of images; predict on one first, or "
                "give size=(HEIGHT, WIDTH)"
            )
        return self._selection.choice


def _check(engine: Any, threads: Any, size: Any, allow_reduced: Any, model_format: Any) -> None:
    """Raise UserError for arguments that are none, before anything is read or measured."""
    if engine is not None and not isinstance(engine, str):
        raise UserError(f"engine must be a name, got {engine!r}")
    if threads is not None and type(threads) is not int:
        raise UserError(f"threads must be a positive number, got {threads!r}")
    if size is not None and not _are_sides(size):
        raise UserError(f"size must be (HEIGHT, WIDTH) in pixels, got {size!r}")
    if type(allow_reduced) is not bool:
        raise UserError(f"allow_reduced must be True or False, got {allow_reduced!r}")
    if model_format is not None and engine in (None, AUTO):
        raise UserError(f"model_format={model_format!r} is of an engine: name that too")


def _checked_threads(threads: int | None) -> int:
    found, most = cpu_threads(threads), most_threads()
    if not 0 < found <= most:
        what = "threads" if threads is not None else "threads, from OMP_NUM_THREADS,"
        raise UserError(
            f"{what} must be a positive number of at most {most}, which is {THREADS_A_CPU} for each processor of this "
            f"machine; got {found}"
        )
    return found


def _are_sides(size: Any) -> bool:
    return isinstance(size, (tuple, list)) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)


def _decoders(threads: int) -> int:
    return min(threads, MOST_DECODERS) if usable_cores() > 1 else 0


class _Selection:
    """Which engine runs an export: known from the start, or chosen for the shapes of a batch.

    Raises:
        UserError: a choice will have to be made, and the export does not have what that needs.
    """

    def __init__(
        self, exported: Exported, inference: Inference, threads: int, batch: int, choice: EngineChoice | None
    ) -> None:
        self.exported, self.threads, self.choice = exported, threads, choice
        self._inference, self._batch = inference, batch
        if choice is None:
            check_auto(exported)

    def name(self) -> str:
        """The engine's name; `auto` until one is chosen for the first image's size."""
        return AUTO if self.choice is None else self.choice.engine

    @property
    def any_thread(self) -> bool:
        """Whether any thread may run the engine; not as long as none is chosen."""
        return self.choice is not None and engine_class(self.choice.engine).any_thread

    def choose(self, shapes: Sequence[tuple[int, ...]]) -> EngineChoice:
        """The choice; where none is made yet, it is made for inputs of these shapes in a full batch."""
        if self.choice is None:
            full = [(self._batch, *shape[1:]) for shape in shapes]
            self.choice = choose_fastest(self.exported, self._inference, full, self.threads)
        return self.choice


def _opener(selection: _Selection) -> Callable[[], Run]:
    """What opens the engine: in the thread that will own it, and again in a forked process.

    Where an engine has yet to be chosen, that happens when the first batch comes.
    """

    def open_run() -> Run:
        engine: Engine | None = None if selection.choice is None else _open(selection, selection.choice)
        checked = False

        def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            nonlocal engine, checked
            if engine is None:
                engine = _open(selection, selection.choose([array.shape for array in inputs]))
            outputs = engine(inputs)
            if not checked:
                engine.check()
                checked = True
            return outputs

        return run

    return open_run


def _open(selection: _Selection, choice: EngineChoice) -> Engine:
    exported = selection.exported
    exported.verify(FORMATS[choice.model_format])
    return open_engine(choice.engine, exported.folder, selection.threads, choice.model_format)
