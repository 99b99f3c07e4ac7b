"""A model on an engine in a process of its own: what benchmark, soak tests and operator times all run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppcls_ext.bench.turns import TimedProcess
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.text import shown
from ppcls_ext.core.yaml_files import read_yaml
from ppcls_ext.runtime.engines import engine_class
from ppcls_ext.runtime.engines.base import FORMATS
from ppcls_ext.runtime.exported import DTYPES, RECIPE, RECIPE_LIMITS


@dataclass(frozen=True)
class Subject:
    """A model on an engine, as it is to be run.

    Attributes:
        model: folder that export wrote, or any folder with inference.pdmodel and inference.pdiparams.
        engine: a name of `ppcls_ext.runtime.engines.ENGINES`; or `auto`, see `ppcls_ext.bench.automatic.chosen`.
        label: for reports; default: the folder's name (that of the run, where the folder is `inference`).
        threads: of the CPU, for each stream.
        batch: images in a call.
        size: height and width, where the model leaves them open.
        streams: predictors that run at the same time; 1 measures latency, more measure throughput.
        format: of the model; default: the first of the engine's that the folder has.
        automatic: the engine was chosen and not named.
    """

    model: Path
    engine: str = "onednn"
    label: str = ""
    threads: int = 1
    batch: int = 1
    size: tuple[int, int] | None = None
    streams: int = 1
    format: str | None = None
    automatic: bool = False

    @property
    def engine_name(self) -> str:
        """The engine, for reports."""
        return f"auto ({self.engine})" if self.automatic else self.engine

    @property
    def name(self) -> str:
        """What reports call the subject: its label, else the folder that the model lies in."""
        folder = self.model.resolve()
        return self.label or (folder.parent.name if folder.name == "inference" else folder.name)


class Session(TimedProcess):
    """A subject's process, seen from here, bound to the cores `pin`, if any."""

    def __init__(self, subject: Subject, pin: Sequence[int] = (), verbose: bool = False) -> None:
        super().__init__(subject.threads, "ppcls_ext.bench.worker", pin, verbose)
        self.subject = subject

    def open(self, seed: int) -> dict[str, float]:
        """Load the model and run it once; milliseconds and resident megabytes."""
        subject = self.subject
        opened: dict[str, float] = self(
            "start",
            folder=str(subject.model),
            engine=subject.engine,
            model_format=model_format(subject),
            threads=subject.threads,
            streams=subject.streams,
            inputs=input_shapes(subject),
            seed=seed,
        )
        return opened


def model_format(subject: Subject) -> str:
    """The subject's own format, else the first of its engine's that its folder holds, else the last of these."""
    if subject.format is not None:
        return subject.format
    formats = engine_class(subject.engine).formats
    return next((f for f in formats if (subject.model / FORMATS[f][0]).is_file()), formats[-1])


def declared_inputs(subject: Subject) -> list[dict[str, Any]]:
    """Shape and dtype of each input as the folder's recipe has them, -1 where the model takes any number.

    Where no recipe says so, as in folders of other exporters, one image is assumed; then the subject must have a size.
    Raises:
        UserError: no such folder, a recipe that cannot be read, or no size where one is needed.
    """
    if not subject.model.is_dir():
        raise UserError(f"model {subject.model}: no such folder; give one that pplcnet export wrote")
    file = subject.model / RECIPE
    inputs = read_yaml(file, RECIPE_LIMITS).get("inputs") if file.is_file() else None
    if inputs is None:
        if subject.size is None:
            raise UserError(f"model {subject.model}: no {RECIPE} in it that names its inputs; give --size HEIGHT WIDTH")
        return [{"shape": [-1, 3, -1, -1], "dtype": "float32"}]
    if not isinstance(inputs, list) or not inputs or not all(_is_input(entry) for entry in inputs):
        raise UserError(f"{file}: inputs must be a list of shape and dtype, got {shown(inputs)}; export again")
    return inputs


def _is_input(entry: Any) -> bool:
    if not isinstance(entry, dict) or not {"shape", "dtype"} <= set(entry):
        return False
    shape, dtype = entry["shape"], entry["dtype"]
    return isinstance(shape, list) and all(isinstance(n, int) for n in shape) and dtype in DTYPES


def sides_of(spec: Mapping[str, Any]) -> slice:
    """Where in the shape of an image input its height and width are: pixels are [N, H, W, 3], floats [N, 3, H, W]."""
    return slice(1, 3) if spec["dtype"] == "uint8" else slice(2, 4)


def input_shapes(subject: Subject) -> list[dict[str, Any]]:
    """Shape and dtype of each input of a subject.

    Raises:
        UserError: no such folder, no size where one is needed, or one that the model does not take.
    """
    resolved = []
    for spec in declared_inputs(subject):
        shape = list(spec["shape"])
        wanted = shape
        if len(shape) == 4:
            wanted = [subject.batch, *shape[1:]]
            wanted[sides_of(spec)] = subject.size or shape[sides_of(spec)]
        for given, asked in zip(shape, wanted, strict=True):
            if given not in (-1, asked):
                raise UserError(
                    f"model {subject.model}: its input is fixed at {shape}, asked for {wanted}; export again"
                )
        if min(wanted) < 1:
            raise UserError(f"model {subject.model}: it takes any size; say which with --size HEIGHT WIDTH")
        resolved.append({"shape": wanted, "dtype": spec["dtype"]})
    return resolved
