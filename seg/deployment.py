"""What export makes of a segmentation network: the graph, and what its check runs."""

from __future__ import annotations

import cv2
import numpy as np
import paddle
from paddle import nn

from seg.sections import EvalSection
from seg.views import class_map

Sides = tuple[int, int]  # height, width

# Sizes that the check of an export runs where the size is free, by batch: two, so that free sizes are proven.
TRIED_SIZES = {1: (256, 320)}
OTHER_SIZE = (192, 256)


class ExportedNetwork(nn.Layer):
    """float32 [N, 3, H, W] to the class map int32 [N, H, W], or to logits float32 [N, classes, H, W]."""

    def __init__(self, network: nn.Layer, argmax: bool) -> None:
        super().__init__()
        self.network, self.argmax = network, argmax

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Run the network."""
        logits = self.network(x)[0]
        return paddle.argmax(logits, 1, dtype="int32") if self.argmax else logits


class EvaluatedNetwork(nn.Layer):
    """float32 [N, 3, H, W] of any size to the class map int32 [N, H, W], in the way of an `Eval` section.

    Args:
        window: height and width, where the section names none.
    """

    def __init__(self, network: nn.Layer, settings: EvalSection, window: Sides) -> None:
        super().__init__()
        self.network, self.settings, self.window = network, settings, window

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Run the network."""
        return class_map(lambda part: self.network(part)[0], x, self.settings, self.window)


def sample_inputs(count: int, size: Sides | None) -> np.ndarray:
    """Normalised pictures of smooth blobs with some noise, float32 [count, 3, H, W]: most pixels are not borderline."""
    height, width = size or TRIED_SIZES.get(count, OTHER_SIZE)
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((count, 3, 6, 6)).astype(np.float32)
    blobs = [[cv2.resize(c, (width, height), interpolation=cv2.INTER_CUBIC) for c in image] for image in coarse]
    return np.array(blobs, np.float32) * 1.5 + rng.standard_normal((count, 3, height, width)).astype(np.float32) * 0.1
