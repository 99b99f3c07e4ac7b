"""What every task's `Export` section has, and an exported model in the place of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import paddle
import pydantic
from paddle import nn
from typing_extensions import override

from ppcls_ext.core.config import Batch, InputKind, Section

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


class ExportSection(Section):
    """`Export`, as far as it is the same in every task.

    Attributes:
        batch: images in a call of the exported network; -1: any number.
        input: uint8 takes pixels [N, H, W, 3] and normalises them in the graph; in segmentation it needs `size`.
        int8, bf16: also try 8-bit integers or bfloat16, which are kept where they are faster on this machine and the
            primary metric on the evaluation split falls by no more than `loss`.
        loss: the largest fall of the primary metric that is accepted, in points of 100.
        calibration: number of training images from which the ranges of the integers are taken.
    """

    batch: Batch = -1
    input: InputKind = "float32"
    int8: bool = False
    bf16: bool = False
    loss: float = pydantic.Field(default=0.5, ge=0, le=100)
    calibration: int = pydantic.Field(default=200, ge=1, le=1_000_000)


class ExportedModel(nn.Layer):
    """An exported model behind the interface of a network, for `Task.evaluate`: images [N, ...] to its outputs.

    Args:
        run: arrays in, arrays out; it is given one image at a time.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    @override
    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        array = images.numpy()
        found = [self._run([array[k : k + 1]]) for k in range(len(array))]
        return [paddle.to_tensor(_joined(arrays)) for arrays in zip(*found, strict=True)]


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of all arrays. The shape of one that holds nothing differs from engine to engine, and is not joined."""
    return np.concatenate([array for array in arrays if array.size] or arrays[:1])
