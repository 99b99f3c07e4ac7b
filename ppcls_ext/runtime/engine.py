"""Engines that run an exported folder on the CPU: arrays in, arrays out.

An engine is one class, registered under its name. `python -m ppcls_ext.runtime.engine JOB.json` runs a model in a
process of its own: engines may crash the process.
"""

from __future__ import annotations

import abc
import importlib
import importlib.util
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.registry import Registry

# Relative to the exported folder: model file, parameter file.
FORMATS: dict[str, tuple[str, ...]] = {
    "json": ("inference.json", "inference.pdiparams"),
    "pdmodel": ("legacy/inference.pdmodel", "legacy/inference.pdiparams"),
    "onnx": ("onnx/inference.onnx",),
}
# What other exporters of Paddle write: both files side by side.
FOREIGN_PDMODEL = ("inference.pdmodel", "inference.pdiparams")

# How to get the packages of the engines that run ONNX.
INSTALL_ONNX = "python -m pip install --require-hashes --no-deps -r requirements-onnx.lock"

ENGINES = Registry("engine")

# oneDNN keeps a compiled primitive for each input shape it has seen; unbounded, inputs of many sizes grow memory.
ONEDNN_CACHED_SHAPES = 16


class Engine(abc.ABC):
    """An exported model, opened. Use `open_engine`.

    Attributes:
        name: what users call it.
        formats: that it runs, the preferred one first.
        package: the distribution that does the work; its version belongs to every figure.
        module: what is imported of it.
        verbose_log: it prints its operators on stdout where ONEDNN_VERBOSE is 1.
    """

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    package: ClassVar[str]
    module: ClassVar[str]
    verbose_log: ClassVar[bool] = False

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
                flag = "onnx" if self.model_format == "onnx" else "both"
                raise UserError(
                    f"exported model {file}: no such file, engine {self.name} needs the {self.model_format} format; "
                    f"export again with pplcnet export --formats {flag}"
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

    @classmethod
    def operator_times(
        cls, folder: Path, threads: int, inputs: Sequence[np.ndarray], calls: int
    ) -> list[list[dict[str, Any]]]:
        """For each call its operators in order: `kind`, `kernel`, `detail`, `ms`, `flops` (None: not known).

        For engines without a verbose log.

        Raises:
            UserError: the engine has no counters.
        """
        raise UserError(f"engine {cls.name} does not tell the time of its operators; profile onednn instead")


class PaddleInference(Engine):
    """Paddle Inference; its engines differ in how its config is set up."""

    formats: ClassVar[tuple[str, ...]] = ("json", "pdmodel")
    package = "paddlepaddle"
    module = "paddle"

    def open(self, files: Sequence[Path], threads: int) -> None:
        from paddle import inference

        model, params = map(str, files)
        config = inference.Config(model, params)
        config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(threads)
        if self.model_format == "json":
            # Without these two the new format runs unoptimised (they must be set before enable_memory_optim).
            config.enable_new_executor(True)
            config.enable_new_ir(True)
        config.enable_memory_optim()
        self._scratch = tempfile.TemporaryDirectory(prefix="pplcnet-")  # gone with the engine
        self.set_up(config)
        try:
            self._predictor = inference.create_predictor(config)
        except (RuntimeError, ValueError, OSError) as error:
            raise _cannot_open(self, model, error) from error
        self._inputs = [self._predictor.get_input_handle(n) for n in self._predictor.get_input_names()]
        self._outputs = [self._predictor.get_output_handle(n) for n in self._predictor.get_output_names()]

    @abc.abstractmethod
    def set_up(self, config: Any) -> None:
        """Choose the kernels in a `paddle.inference.Config`."""

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        for handle, array in zip(self._inputs, inputs, strict=True):
            handle.copy_from_cpu(np.ascontiguousarray(array))
        self._predictor.run()
        return [handle.copy_to_cpu() for handle in self._outputs]


def _cannot_open(engine: Engine, model: str, error: Exception) -> UserError:
    text = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    return UserError(f"exported model {model}: engine {engine.name} cannot open it ({text.strip()}); export again")


class Native(PaddleInference):
    """Paddle's own kernels."""

    name = "native"

    def set_up(self, config: Any) -> None:
        config.disable_mkldnn()  # in Paddle 3.3 it is on by default


class OneDNN(PaddleInference):
    """Paddle Inference with oneDNN: `enable_mkldnn()`, what the paper measures."""

    name = "onednn"
    verbose_log = True

    def set_up(self, config: Any) -> None:
        config.enable_mkldnn()
        config.set_mkldnn_cache_capacity(ONEDNN_CACHED_SHAPES)


class PaddleOpenVINO(PaddleInference):
    """The OpenVINO engine inside the paddlepaddle wheel. Paddle silently does not use it on the new format."""

    name = "openvino"
    formats = ("pdmodel",)
    verbose_log = True  # its CPU plugin is made of oneDNN too
    _PLUGIN = "libopenvino_intel_cpu_plugin"  # mapped into the process only once OpenVINO compiles a model

    def set_up(self, config: Any) -> None:
        from paddle.inference import PrecisionType

        config.set_optim_cache_dir(self._scratch.name)  # else it leaves compiled blobs in the current folder
        config.enable_openvino_engine(PrecisionType.Float32)

    def check(self) -> None:
        maps = Path("/proc/self/maps")
        if maps.exists() and self._PLUGIN not in maps.read_text():
            raise UserError(f"exported model {self.files[0]}: Paddle accepted engine openvino but did not use it")


def operator_flops(kind: str, inputs: Sequence[Sequence[int]], output: Sequence[int]) -> int | None:
    """Floating-point operations of an operator of ONNX Runtime or OpenVINO, two for a multiply-add.

    Args:
        inputs: the shape of each input; of a convolution [N, C, H, W] and weights with or without a group axis.
        output: its shape, channels second.
    Returns:
        None for kinds without a rule here.
    """
    if kind in ("Conv", "FusedConv", "Convolution", "GroupConvolution"):
        return 2 * math.prod(output) * (math.prod(inputs[1]) // output[1])
    if kind in ("Gemm", "FusedGemm", "MatMul", "FullyConnected"):
        return 2 * math.prod(output) * inputs[0][-1]
    return None


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


class OnnxRuntime(OnnxEngine):
    """ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    package = module = "onnxruntime"

    def open(self, files: Sequence[Path], threads: int) -> None:
        ort = self.library()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        try:
            self._session = ort.InferenceSession(str(files[0]), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base class but this
            raise _cannot_open(self, str(files[0]), error) from error
        self._names = [i.name for i in self._session.get_inputs()]

    @classmethod
    def operator_times(
        cls, folder: Path, threads: int, inputs: Sequence[np.ndarray], calls: int
    ) -> list[list[dict[str, Any]]]:
        ort = cls.library()
        with tempfile.TemporaryDirectory(prefix="pplcnet-") as scratch:
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            options.enable_profiling = True
            options.profile_file_prefix = f"{scratch}/ort"
            session = ort.InferenceSession(
                str(folder / FORMATS["onnx"][0]), options, providers=["CPUExecutionProvider"]
            )
            named = dict(zip([i.name for i in session.get_inputs()], inputs, strict=True))
            for _ in range(calls):
                session.run(None, named)
            events = json.loads(Path(session.end_profiling()).read_text())
        found: list[list[dict[str, Any]]] = []
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                arguments = event["args"]
                shapes = [next(iter(one.values())) for one in arguments.get("input_type_shape", [])]
                results = [next(iter(one.values())) for one in arguments.get("output_type_shape", [])]
                if not found or arguments["node_index"] in {o["index"] for o in found[-1]}:
                    found.append([])
                found[-1].append(
                    {
                        "index": arguments["node_index"],
                        "kind": arguments["op_name"],
                        "kernel": "",
                        "detail": event["name"].removesuffix("_kernel_time"),
                        "ms": event["dur"] / 1e3,
                        "flops": operator_flops(arguments["op_name"], shapes, results[0]) if results else None,
                    }
                )
        return [[{k: v for k, v in o.items() if k != "index"} for o in call] for call in found]

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return outputs


class OpenVINO(OnnxEngine):
    """OpenVINO's own package, on ONNX."""

    name = "openvino-onnx"
    package = module = "openvino"

    def open(self, files: Sequence[Path], threads: int) -> None:
        core = self.library().Core()
        try:
            compiled = core.compile_model(core.read_model(files[0]), "CPU", self._settings(threads))
        except RuntimeError as error:
            raise _cannot_open(self, str(files[0]), error) from error
        self._request = compiled.create_infer_request()

    @staticmethod
    def _settings(threads: int) -> dict[str, Any]:
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",  # it takes bfloat16 by itself where the processor has it
        }

    @classmethod
    def operator_times(
        cls, folder: Path, threads: int, inputs: Sequence[np.ndarray], calls: int
    ) -> list[list[dict[str, Any]]]:
        core = cls.library().Core()
        settings = {**cls._settings(threads), "PERF_COUNT": True}
        compiled = core.compile_model(core.read_model(folder / FORMATS["onnx"][0]), "CPU", settings)
        request = compiled.create_infer_request()
        fixed = core.read_model(folder / FORMATS["onnx"][0])
        fixed.reshape({k: list(array.shape) for k, array in enumerate(inputs)})
        flops = cls._flops(core.compile_model(fixed, "CPU", settings))
        found = []
        for _ in range(calls):
            request.infer(list(inputs))
            found.append(
                [
                    {
                        "kind": node.node_type,
                        "kernel": node.exec_type,
                        "detail": node.node_name,
                        "ms": node.real_time.total_seconds() * 1e3,
                        "flops": flops.get(node.node_name),
                    }
                    for node in request.get_profiling_info()
                    if str(node.status) == "Status.EXECUTED"
                ]
            )
        return found

    @staticmethod
    def _flops(compiled: Any) -> dict[str, int | None]:
        """Floating-point operations by the name of the operator, in a model whose shapes are fixed: only then known."""
        found = {}
        for node in compiled.get_runtime_model().get_ops():
            if node.get_input_size() and node.get_output_size() == 1:
                kind = node.get_rt_info()["layerType"].astype(str)
                shapes = [list(node.get_input_shape(k)) for k in range(node.get_input_size())]
                found[node.get_friendly_name()] = operator_flops(kind, shapes, list(node.get_output_shape(0)))
        return found

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        results = self._request.infer(list(inputs), share_inputs=True)
        return [np.array(results[k]) for k in range(len(results))]  # copies: the request writes there again


for _kind in (Native, OneDNN, PaddleOpenVINO, OnnxRuntime, OpenVINO):
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
        model_format: json, pdmodel or onnx; default: what the engine prefers.
    Raises:
        UserError: an unknown engine or format, files that are not there, an engine that is not installed.
    """
    return engine_class(name)(folder, threads, model_format)


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
    """Run the inputs of a job through an engine and write the outputs; see `ppcls_ext.deploy.parity`."""
    engine = open_engine(job["engine"], Path(job["folder"]), job["threads"], job["format"])
    outputs = [engine(batch) for batch in read_arrays(Path(job["inputs"]))]
    engine.check()
    write_arrays(Path(job["outputs"]), outputs)


if __name__ == "__main__":
    run_job(json.loads(Path(sys.argv[1]).read_text()))
    # Engines of several libraries in a process may crash while it ends; the outputs are written by now.
    sys.stdout.flush()
    os._exit(0)
