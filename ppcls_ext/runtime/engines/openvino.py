"""OpenVINO's own package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.runtime.engines.base import Engine, cannot_open


class OpenVINO(Engine):
    """OpenVINO's own package, on ONNX."""

    name = "openvino-onnx"
    formats = ("onnx",)
    any_thread = True
    package = module = extra = "openvino"

    def open(self, files: Sequence[Path], threads: int) -> None:
        """Load the model; see `Engine.open`."""
        core = self.library().Core()
        try:
            compiled = core.compile_model(core.read_model(files[0]), "CPU", self.settings(threads))
        except RuntimeError as error:
            raise cannot_open(self, str(files[0]), error) from error
        self._request = compiled.create_infer_request()

    @staticmethod
    def settings(threads: int) -> dict[str, Any]:
        """How a model is compiled for this many threads."""
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",  # it takes bfloat16 by itself where the processor has it
        }

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run once; see `Engine.__call__`."""
        results = self._request.infer(list(inputs), share_inputs=True)
        return [np.array(results[k]) for k in range(len(results))]  # copies: the request writes there again
