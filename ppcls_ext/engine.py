"""Paddle Inference on the CPU: an exported folder, an engine by name, arrays in and out.

`python -m ppcls_ext.engine JOB.json` runs a model in a process of its own: engines may crash the process.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.errors import UserError, nearest
from ppcls_ext.registry import Registry

# Relative to the exported folder: model file, parameter file.
FORMATS = {
    "json": ("inference.json", "inference.pdiparams"),
    "pdmodel": ("legacy/inference.pdmodel", "legacy/inference.pdiparams"),
}

ENGINES = Registry("engine")

# oneDNN keeps a compiled primitive for each input shape it has seen; unbounded, inputs of many sizes grow memory.
ONEDNN_CACHED_SHAPES = 16


def _native(config: Any, scratch: str) -> None:
    config.disable_mkldnn()  # in Paddle 3.3 it is on by default


def _onednn(config: Any, scratch: str) -> None:
    config.enable_mkldnn()
    config.set_mkldnn_cache_capacity(ONEDNN_CACHED_SHAPES)


def _openvino(config: Any, scratch: str) -> None:
    from paddle.inference import PrecisionType

    config.set_optim_cache_dir(scratch)  # else it leaves compiled blobs in the current folder

    config.enable_openvino_engine(PrecisionType.Float32)


for _name, _setup in {"native": _native, "onednn": _onednn, "openvino": _openvino}.items():
    ENGINES.register(_name, _setup)


def default_format(engine: str) -> str:
    """The model format that an engine runs; OpenVINO inside Paddle is silently not used on the new one."""
    return "pdmodel" if engine == "openvino" else "json"


class Engine:
    """A Paddle Inference predictor.

    Args:
        folder: as written by export.
        engine: native, onednn, or openvino (inside the paddlepaddle wheel).
        threads: of the CPU.
        model_format: json or pdmodel; default: what the engine runs.
    Raises:
        UserError: an unknown engine or format, or files that are not there.
    """

    def __init__(self, folder: Path, engine: str = "onednn", threads: int = 1, model_format: str | None = None) -> None:
        if engine not in ENGINES:
            raise UserError(f"engine '{engine}' is unknown; {nearest(engine, ENGINES)}")
        model_format = model_format or default_format(engine)
        if model_format not in FORMATS:
            raise UserError(f"model format '{model_format}' is unknown; {nearest(model_format, FORMATS)}")
        if engine == "openvino" and model_format != "pdmodel":
            raise UserError("engine openvino runs the legacy format only (.pdmodel); on .json Paddle would not use it")
        model, params = (folder / name for name in FORMATS[model_format])
        for file in (model, params):
            if not file.is_file():
                raise UserError(
                    f"exported model {file}: no such file, engine {engine} needs the {model_format} format; "
                    "export again with pplcnet export --formats both"
                )
        from paddle import inference

        config = inference.Config(str(model), str(params))
        config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(threads)
        if model_format == "json":
            # Without these two the new format runs unoptimised (they must be set before enable_memory_optim).
            config.enable_new_executor(True)
            config.enable_new_ir(True)
        config.enable_memory_optim()
        self._scratch = tempfile.TemporaryDirectory(prefix="pplcnet-")  # gone with the engine
        ENGINES[engine](config, self._scratch.name)
        try:
            self._predictor = inference.create_predictor(config)
        except (RuntimeError, ValueError, OSError) as error:
            text = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            raise UserError(
                f"exported model {model}: engine {engine} cannot open it ({text.strip()}); export again"
            ) from error
        self._inputs = [self._predictor.get_input_handle(n) for n in self._predictor.get_input_names()]
        self._outputs = [self._predictor.get_output_handle(n) for n in self._predictor.get_output_names()]

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run once; arrays in the order of the model's inputs, batch first. Gives its outputs in order."""
        for handle, array in zip(self._inputs, inputs, strict=True):
            handle.copy_from_cpu(np.ascontiguousarray(array))
        self._predictor.run()
        return [handle.copy_to_cpu() for handle in self._outputs]


def write_arrays(path: Path, batches: Sequence[Sequence[np.ndarray]]) -> None:
    """Write lists of arrays, one list a batch, as one .npz."""
    named: dict[str, Any] = {f"{b}.{i}": array for b, arrays in enumerate(batches) for i, array in enumerate(arrays)}
    np.savez(path, **named)


def read_arrays(path: Path) -> list[list[np.ndarray]]:
    """Read what `write_arrays` wrote."""
    batches: list[list[np.ndarray]] = []
    with np.load(path) as stored:
        for name in sorted(stored.files, key=lambda n: tuple(map(int, n.split(".")))):
            if int(name.split(".")[0]) == len(batches):
                batches.append([])
            batches[-1].append(stored[name])
    return batches


def run_job(job: dict[str, Any]) -> None:
    """Run the inputs of a job through an engine and write the outputs; see `ppcls_ext.parity`."""
    engine = Engine(Path(job["folder"]), job["engine"], job["threads"], job["format"])
    outputs = [engine(batch) for batch in read_arrays(Path(job["inputs"]))]
    write_arrays(Path(job["outputs"]), outputs)


if __name__ == "__main__":
    run_job(json.loads(Path(sys.argv[1]).read_text()))
    # Engines of several libraries in a process may crash while it ends; the outputs are written by now.
    sys.stdout.flush()
    os._exit(0)
