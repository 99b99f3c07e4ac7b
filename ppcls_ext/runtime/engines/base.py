"""What an engine is: an exported model, opened, which takes arrays and gives arrays."""

from __future__ import annotations

import abc
import importlib
import importlib.util
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
    "int8": ("int8/inference.xml", "int8/inference.bin"),
}
# Those of float32, which `--formats` may ask for. Export adds int8 where it passes (`ppcls_ext.bench.precision`).
FLOAT_FORMATS = ("json", "pdmodel", "onnx")
FLOAT = "float32"
# How `pplcnet export` makes what an engine does not find.
HOW_TO_EXPORT = {
    "json": "--formats both",
    "pdmodel": "--formats both",
    "onnx": "--formats onnx",
    "int8": "-o Export.int8=true",
}
# What other exporters of Paddle write: both files side by side.
FOREIGN_PDMODEL = ("inference.pdmodel", "inference.pdiparams")


class Engine(abc.ABC):
    """An exported model, opened. Use `open_engine`.

    Attributes:
        name: what users call it.
        formats: that it runs, the preferred one first.
        package: the distribution that does the work; its version belongs to every figure.
        module: what is imported of it.
        any_thread: whether any thread may run it, as long as one does at a time.
        extra: of this package, which installs it: `pip install pplcnet[EXTRA]`.
        precision: of the numbers it computes with, `FLOAT` or a key of `Export`; outputs of reduced ones differ from
            dygraph's.
    """

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    package: ClassVar[str]
    module: ClassVar[str]
    extra: ClassVar[str]
    any_thread: ClassVar[bool] = False
    precision: ClassVar[str] = FLOAT

    def __init__(self, folder: Path, threads: int, model_format: str | None) -> None:
        self.model_format = model_format or self.formats[0]
        if self.model_format not in FORMATS:
            raise UserError(f"model format '{self.model_format}' is unknown; {nearest(self.model_format, FORMATS)}")
        if self.model_format not in self.formats:
            raise UserError(f"engine {self.name} runs {' or '.join(self.formats)}, not {self.model_format}")
        self.files = self._find(folder)
        self.open(self.files, threads)

    def _find(self, folder: Path) -> list[Path]:
        files = [folder / name for name in FORMATS[self.model_format]]
        foreign = [folder / name for name in FOREIGN_PDMODEL]
        if self.model_format == "pdmodel" and not files[0].exists() and all(f.is_file() for f in foreign):
            return foreign
        for file in files:
            if not file.is_file():
                raise UserError(
                    f"exported model {file}: no such file, engine {self.name} needs the {self.model_format} format; "
                    f"export again with pplcnet export {HOW_TO_EXPORT[self.model_format]}"
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
        """Whether the engine's package is there."""
        return importlib.util.find_spec(cls.module) is not None

    @classmethod
    def require(cls) -> None:
        """Raise UserError if the engine is not installed."""
        if not cls.installed():
            raise UserError(
                f"engine {cls.name} needs the package {cls.package}: python -m pip install 'pplcnet[{cls.extra}]'"
            )

    @classmethod
    def library(cls) -> Any:
        """The engine's module. Raises UserError where it is not installed."""
        cls.require()
        return importlib.import_module(cls.module)


def cannot_open(engine: Engine, model: str, error: Exception) -> UserError:
    """What to raise where an engine's library fails to open a model: one line with the last thing that it said."""
    text = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    return UserError(f"exported model {model}: engine {engine.name} cannot open it ({text.strip()}); export again")
