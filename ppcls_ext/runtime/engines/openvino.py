"""OpenVINO's own package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ppcls_ext.runtime.engines.base import Engine, cannot_open


class OpenVINO(Engine):
    """OpenVINO's own package, on ONNX."""

    name = "openvino-onnx"
    formats = ("onnx",)
    any_thread = True
    package = module = extra = "openvino"
    hint: ClassVar[str] = "f32"  # without it, OpenVINO takes bfloat16 where the processor has it

    def open(self, files: Sequence[Path], threads: int) -> None:
        """Load the model; see `Engine.open`."""
        core = self.library().Core()
        try:
            compiled = core.compile_model(core.read_model(files[0]), "CPU", self.settings(threads))
        except RuntimeError as error:
            raise cannot_open(self, str(files[0]), error) from error
        self._request = compiled.create_infer_request()

    @classmethod
    def settings(cls, threads: int) -> dict[str, Any]:
        """How a model is compiled for this many threads."""
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": cls.hint,
            # By default OpenVINO binds its threads to cores. Where one of these is busy with other work, a call waits
            # for it although another core is free; without it a call on an idle machine is no slower.
            "ENABLE_CPU_PINNING": False,
        }

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run once; see `Engine.__call__`."""
        results = self._request.infer(list(inputs), share_inputs=True)
        return [np.array(results[k]) for k in range(len(results))]  # copies: the request writes there again


class OpenVINOBf16(OpenVINO):
    """OpenVINO on ONNX, in bfloat16 where the processor has it, else in float32."""

    name = "openvino-bf16"
    precision = "bf16"
    hint = "bf16"


class OpenVINOInt8(OpenVINO):
    """OpenVINO on the network with 8-bit integers that `pplcnet export -o Export.int8=true` adds."""

    name = "openvino-int8"
    formats = ("int8",)
    precision = "int8"
