"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppcls_ext.runtime.engines.base import Engine, cannot_open


class OnnxRuntime(Engine):
    """ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    formats = ("onnx",)
    any_thread = True
    package = module = extra = "onnxruntime"

    def open(self, files: Sequence[Path], threads: int) -> None:
        """Load the model; see `Engine.open`."""
        ort = self.library()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        try:
            self._session = ort.InferenceSession(str(files[0]), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no other common base class
            raise cannot_open(self, str(files[0]), error) from error
        self._names = [i.name for i in self._session.get_inputs()]

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run once; see `Engine.__call__`."""
        outputs: list[np.ndarray] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return outputs
