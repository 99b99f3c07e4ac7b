"""Paddle Inference on the CPU: its own kernels, oneDNN, and the OpenVINO inside its wheel."""

from __future__ import annotations

import abc
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.engines.base import Engine, cannot_open
from ppcls_ext.upstream.glibc import keep_freed_memory
from ppcls_ext.upstream.paddle import free_tensors_in_lots, import_paddle_with_threads
from ppcls_ext.upstream.stdout import quiet_stdout

# oneDNN keeps a compiled primitive for each input shape it has seen; unbounded, inputs of many sizes grow memory.
ONEDNN_CACHED_SHAPES = 16


class PaddleInference(Engine):
    """Paddle Inference; its engines differ in how its config is set up."""

    formats: ClassVar[tuple[str, ...]] = ("json", "pdmodel")
    package = "paddlepaddle"
    module = "paddle"
    extra = "paddle"

    def open(self, files: Sequence[Path], threads: int) -> None:
        """Load the model; see `Engine.open`."""
        self.require()
        keep_freed_memory()
        import_paddle_with_threads(threads)
        free_tensors_in_lots()
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
            with quiet_stdout():
                self._predictor = inference.create_predictor(config)
        except (RuntimeError, ValueError, OSError) as error:
            raise cannot_open(self, model, error) from error
        self._inputs = [self._predictor.get_input_handle(n) for n in self._predictor.get_input_names()]
        self._outputs = [self._predictor.get_output_handle(n) for n in self._predictor.get_output_names()]

    @abc.abstractmethod
    def set_up(self, config: Any) -> None:
        """Choose the kernels in a `paddle.inference.Config`."""

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run once; see `Engine.__call__`."""
        for handle, array in zip(self._inputs, inputs, strict=True):
            handle.copy_from_cpu(np.ascontiguousarray(array))
        self._predictor.run()
        return [handle.copy_to_cpu() for handle in self._outputs]


class Native(PaddleInference):
    """Paddle's own kernels."""

    name = "native"

    def set_up(self, config: Any) -> None:
        """Choose the kernels."""
        config.disable_mkldnn()  # Paddle 3.3 has oneDNN on by default


class OneDNN(PaddleInference):
    """Paddle Inference with oneDNN: `enable_mkldnn()`, what the paper measures."""

    name = "onednn"

    def set_up(self, config: Any) -> None:
        """Choose the kernels."""
        config.enable_mkldnn()
        config.set_mkldnn_cache_capacity(ONEDNN_CACHED_SHAPES)


class OneDNNBf16(OneDNN):
    """Paddle Inference with oneDNN in bfloat16. Where the processor has none, Paddle says so and takes float32."""

    name = "onednn-bf16"
    precision = "bf16"

    def set_up(self, config: Any) -> None:
        """Choose the kernels."""
        super().set_up(config)
        config.enable_mkldnn_bfloat16()


class PaddleOpenVINO(PaddleInference):
    """The OpenVINO engine inside the paddlepaddle wheel. Paddle silently does not use it on the new format."""

    name = "openvino"
    formats = ("pdmodel",)
    _PLUGIN = "libopenvino_intel_cpu_plugin"  # mapped into the process only once OpenVINO compiles a model

    def set_up(self, config: Any) -> None:
        """Choose the kernels."""
        from paddle.inference import PrecisionType

        config.set_optim_cache_dir(self._scratch.name)  # else it leaves compiled blobs in the current folder
        config.enable_openvino_engine(PrecisionType.Float32)

    def check(self) -> None:
        """Raise UserError if OpenVINO was not loaded by the first run."""
        maps = Path("/proc/self/maps")
        if maps.exists() and self._PLUGIN not in maps.read_text():
            raise UserError(f"exported model {self.files[0]}: Paddle accepted engine openvino but did not use it")
