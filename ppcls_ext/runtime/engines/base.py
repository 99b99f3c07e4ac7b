"""What an engine is: an exported model, opened, which takes arrays and gives arrays."""

from __future__ import annotations

import abc
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ppcls_ext.core.errors import UserError, nearest

# Relative to the exported folder: model file, parameter file.
FORMATS: dict[str, tuple[str, ...]] = {
    "json": ("inference.json", "inference.pdiparams"),
    "pdmodel": ("legacy/inference.pdmodel", "legacy/inference.pdiparams"),
    "onnx": ("onnx/inference.onnx",),
}
# The same of formats with smaller numbers, which export adds where they pass (`ppcls_ext.bench.precision`).
REDUCED_FORMATS: dict[str, tuple[str, ...]] = {"int8": ("int8/inference.xml", "int8/inference.bin")}
# What other exporters of Paddle write: both files side by side.
FOREIGN_PDMODEL = ("inference.pdmodel", "inference.pdiparams")


class Engine(abc.ABC):
    """An exported model, opened. Use `open_engine`.

    Attributes:
        name: what users call it.
        formats: that it runs, the preferred one first.
        package: the distribution that does the work; its version belongs to every figure.
        module: what is imported of it.
        precision: of the numbers it computes with; outputs of others than float32 differ from dygraph's.
    """

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    package: ClassVar[str]
    module: ClassVar[str]
    precision: ClassVar[str] = "float32"

    def __init__(self, folder: Path, threads: int, model_format: str | None) -> None:
        self.model_format = model_format or self.formats[0]
        known = FORMATS | REDUCED_FORMATS
        if self.model_format not in known:
            raise UserError(f"model format '{self.model_format}' is unknown; {nearest(self.model_format, known)}")
        if self.model_format not in self.formats:
            raise UserError(f"engine {self.name} runs {' or '.join(self.formats)}, not {self.model_format}")
        self.files = self._find(folder)
        self.open(self.files, threads)

    def _find(self, folder: Path) -> list[Path]:
        files = [folder / name for name in (FORMATS | REDUCED_FORMATS)[self.model_format]]
        foreign = [folder / name for name in FOREIGN_PDMODEL]
        if self.model_format == "pdmodel" and not files[0].exists() and all(f.is_file() for f in foreign):
            return foreign
        for file in files:
            if not file.is_file():
                choices = {"onnx": "onnx", "int8": "onnx -o Export.int8=true"}
                raise UserError(
                    f"exported model {file}: no such file, engine {self.name} needs the {self.model_format} format; "
                    f"export again with pplcnet export --formats {choices.get(self.model_format, 'both')}"
                )
        return files

    @abc.abstractmethod
    def open(self, files: Sequence[Path], threads: int) -> None:
        """Load the model. Raises UserError if it cannot be loaded."""

    @abc.abstractmethod
    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run once; arrays in the order of the model's inputs, batch first. Gives its outputs in order."""

    def check(self) -> None:  # noqa: B027  most engines have nothing to check
        """Raise UserError if the engine, after a first run, turns out not to be what runs."""

    @classmethod
    def installed(cls) -> bool:
        return True

    @classmethod
    def library(cls) -> Any:
        """The engine's module. Raises UserError where it is not installed."""
        return importlib.import_module(cls.module)


def cannot_open(engine: Engine, model: str, error: Exception) -> UserError:
    """What to raise where an engine's library fails to open a model: one line with the last thing that it said."""
    text = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    return UserError(f"exported model {model}: engine {engine.name} cannot open it ({text.strip()}); export again")
