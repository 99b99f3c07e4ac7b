"""8-bit integers for an exported model, calibrated on training images; and what an engine's outputs are worth.

NNCF quantises OpenVINO's form of the network: of what was tried, only that was faster than float32 at 0.5x and 1.0x.
What ONNX Runtime's own quantiser writes ran no faster there than float32 (docs/precision.md).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.display import bar
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.images import BrokenImage, read_rgb
from ppcls_ext.runtime.engines.base import FORMATS
from ppcls_ext.runtime.exported import read_exported
from ppcls_ext.runtime.process import EngineProcess
from ppcls_ext.tasks.export import ExportedModel
from ppcls_ext.tasks.task import Task


def quantizer() -> Any:
    """The module NNCF. Raises UserError where it or OpenVINO is not installed."""
    for package in ("openvino", "nncf"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"Export.int8 needs the package {package}: python -m pip install openvino nncf")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a greeting
        return importlib.import_module("nncf")


def calibration_inputs(task: Task, folder: Path, count: int) -> list[np.ndarray]:
    """Inputs [1, ...] of `count` training images drawn by the run's seed (all, where there are fewer).

    They are prepared as `pplcnet infer` does it. Raises UserError where no image can be read.
    """
    paths = list(task.image_paths("Train"))
    inference = task.inference(read_exported(folder).recipe)
    drawn = np.random.default_rng(task.global_section.seed).permutation(len(paths))
    inputs: list[np.ndarray] = []
    for k in drawn:
        if len(inputs) == count:
            break
        with contextlib.suppress(BrokenImage):  # another image is taken instead
            inputs.append(inference.prepare(read_rgb(paths[k]))[0][None])
    if not inputs:
        raise UserError("Export.int8: no training image can be read to calibrate on; see pplcnet check-data")
    return inputs


def write_int8(folder: Path, inputs: Sequence[np.ndarray]) -> None:
    """Quantise the ONNX file of an exported folder and write the int8 format beside it.

    Args:
        inputs: to calibrate with, each with its batch axis.
    Raises:
        UserError: NNCF is not installed. CheckFailed: it cannot quantise this network.
    """
    nncf, openvino = quantizer(), importlib.import_module("openvino")
    nncf.set_log_level("ERROR")
    target = folder / FORMATS["int8"][0]
    target.parent.mkdir(exist_ok=True)
    source = folder / FORMATS["onnx"][0]
    if not source.is_file():
        raise CheckFailed("this network has no ONNX format, from which int8 is made")
    network = openvino.Core().read_model(source)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it shows progress bars
            quantized = nncf.quantize(
                network,
                nncf.Dataset(inputs),
                preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations: H-Swish has a short negative side
                subset_size=len(inputs),
            )
        openvino.save_model(quantized, target, compress_to_fp16=False)
    except Exception as error:  # it raises whatever the graph made it meet
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise CheckFailed(f"export: NNCF cannot quantise this network ({lines[-1]}); leave Export.int8 out") from error


def evaluate_engine(task: Task, folder: Path, engine: str, model_format: str) -> dict[str, float]:
    """The metrics of the evaluation split, as `pplcnet eval` gives them, of an exported folder on an engine.

    Raises EngineFailed where the engine does not run it.
    """
    with EngineProcess(threads=1) as process, bar(len(task.eval_loader().dataset), f"eval {engine}") as progress:
        process("open", folder=str(folder.resolve()), engine=engine, model_format=model_format, threads=1)
        model = task.exported(ExportedModel(lambda inputs: process("run", batches=[inputs])[0]))
        return task.evaluate(model, progress.advance, None)
