"""The exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import paddle
import pydantic
from paddle import nn

from ppcls_ext.core.config import Section


class EMA(Section):
    """The `EMA` section: an exponential moving average of the weights, which is what gets evaluated and saved."""

    decay: float = pydantic.Field(default=0.9998, gt=0, lt=1)
    warmup: bool = True  # early on, decay is at most (1 + step) / (10 + step)


class Average:
    """Moving average of a model's parameters and buffers.

    Attributes:
        tensors: the means, by the names that the model's state has.
    """

    def __init__(self, settings: EMA, model: nn.Layer) -> None:
        self.settings = settings
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def update(self, model: nn.Layer, step: int) -> None:
        """Take in the weights after step number `step`; what is no float is copied."""
        decay = min(self.settings.decay, (1 + step) / (10 + step)) if self.settings.warmup else self.settings.decay
        with paddle.no_grad():
            # As tensors: of each number Paddle makes one, and leaks a part of it (`upstream.paddle.tensor_of`).
            shares = {dtype: paddle.full([], 1 - decay, dtype) for dtype in (paddle.float32, paddle.float64)}
            for name, tensor in model.state_dict().items():
                mean = self.tensors[name]
                if mean.dtype in shares:
                    mean.lerp_(tensor, shares[mean.dtype])  # one pass over it
                else:
                    mean.set_value(tensor)

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Start from these weights, by name."""
        for name, tensor in self.tensors.items():
            tensor.set_value(weights[name])
