"""What the engines that run ONNX have in common: their packages are extras."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.engines.base import Engine

# How to get the packages of the engines that run ONNX.
INSTALL_ONNX = "python -m pip install --require-hashes --no-deps -r requirements-onnx.lock"


class OnnxEngine(Engine):
    """An engine whose package is not in the lock, and is named like its module."""

    formats = ("onnx",)

    @classmethod
    def installed(cls) -> bool:
        return importlib.util.find_spec(cls.package) is not None

    @classmethod
    def library(cls) -> Any:
        if not cls.installed():
            raise UserError(f"engine {cls.name} needs the package {cls.package}: {INSTALL_ONNX}")
        return super().library()

    def __init__(self, folder: Path, threads: int, model_format: str | None) -> None:
        self.library()
        super().__init__(folder, threads, model_format)
