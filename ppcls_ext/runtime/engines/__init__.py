"""Engines that run an exported folder on the CPU. An engine is one class, registered here under its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.registry import Registry
from ppcls_ext.runtime.engines.base import Engine
from ppcls_ext.runtime.engines.onnxruntime import OnnxRuntime
from ppcls_ext.runtime.engines.openvino import OpenVINO, OpenVINOBf16, OpenVINOInt8
from ppcls_ext.runtime.engines.paddle_inference import Native, OneDNN, OneDNNBf16, PaddleOpenVINO

ENGINES = Registry("engine")
for _kind in (Native, OneDNN, PaddleOpenVINO, OnnxRuntime, OpenVINO, OneDNNBf16, OpenVINOBf16, OpenVINOInt8):
    ENGINES.register(_kind.name, _kind)


def engine_class(name: str) -> type[Engine]:
    """The engine of this name. Raises UserError, with the nearest known one, if there is none."""
    if name not in ENGINES:
        raise UserError(f"engine '{name}' is unknown; {nearest(name, ENGINES)}")
    kind: Any = ENGINES[name]
    return kind


def open_engine(name: str, folder: Path, threads: int = 1, model_format: str | None = None) -> Engine:
    """Open an exported folder with the engine of this name.

    Args:
        folder: as written by export.
        threads: of the CPU.
        model_format: json, pdmodel, onnx or int8; default: what the engine prefers.
    Raises:
        UserError: an unknown engine or format, files that are not there, an engine that is not installed.
    """
    return engine_class(name)(folder, threads, model_format)
