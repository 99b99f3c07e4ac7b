"""What a batch norm does to each channel, and its gradients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from paddle import Tensor, nn

from ppcls_ext.models.kernels.loops.norms import (
    factors_of_norm,
    gradients_of_norm,
    normalise_sums,
    statistics_of_batch,
)
from ppcls_ext.models.kernels.memory import as_array, as_flat_planes, empty
from ppcls_ext.models.kernels.threads import split


class Statistics(NamedTuple):
    """What a norm did to each channel.

    Attributes:
        of_channel: float32 [4, C]: mean, 1 / deviation, scale and shift.
        fixed: by running statistics.
    """

    of_channel: np.ndarray
    fixed: bool

    @property
    def mean(self) -> np.ndarray:
        """float32 [C]."""
        return self.of_channel[0]

    @property
    def scale(self) -> np.ndarray:
        """float32 [C]: what each value is multiplied by."""
        return self.of_channel[2]

    @property
    def shift(self) -> np.ndarray:
        """float32 [C]: what is added then."""
        return self.of_channel[3]

    @classmethod
    def of(
        cls, norm: nn.BatchNorm2D, moments: np.ndarray, shape: list[int], bias: np.ndarray | None = None
    ) -> Statistics:
        """Those of the batch, which also move the running ones; or the running ones, where the norm is to use them.

        Args:
            moments: float32 [N x C, 2] of the planes of a map of this shape; not read with running statistics.
            bias: float32 [C] that the map should have had added, and has not: the norm takes it out again.
        """
        fixed = uses_running_statistics(norm)
        running = as_array(norm._mean), as_array(norm._variance)
        if fixed:
            mean, variance = (array.astype(np.float64) for array in running)
            mean -= 0.0 if bias is None else bias
        else:
            mean, variance = np.empty((2, shape[1]))
            statistics_of_batch(moments, shape[0], shape[2] * shape[3], norm._momentum, *running, mean, variance)
            if bias is not None:
                running[0][:] += bias * np.float32(1 - norm._momentum)
        of_channel = np.empty((4, shape[1]), np.float32)
        factors_of_norm(mean, variance, norm._epsilon, as_array(norm.weight), as_array(norm.bias), of_channel)
        return cls(of_channel, fixed)

    def gradients(
        self, y: Tensor, grad: Tensor, activation: int, threads: int, weight_grad: Tensor, bias_grad: Tensor
    ) -> np.ndarray:
        """Constants (see `normalise_backward`); the gradients of the norm's weight and bias are filled."""
        count, channels, height, width = y.shape
        sums = np.empty((count * channels, 2), np.float32)
        arrays = as_flat_planes(y), as_flat_planes(grad), self.scale, self.shift, self.mean
        split(normalise_sums, threads, len(sums), *arrays, sums, activation)
        share = 0.0 if self.fixed else 1 / (count * height * width)
        constants = np.empty((channels, 4), np.float32)
        filled = constants, as_array(weight_grad), as_array(bias_grad)
        gradients_of_norm(sums, count, self.of_channel, share, *filled)
        return constants

    def gradient_of_bias(self, norm_bias_grad: Tensor) -> Tensor:
        """That of a bias before the norm, from that of the norm's own: none where the norm takes the mean out."""
        found = empty(norm_bias_grad.shape)
        as_array(found)[:] = self.scale * as_array(norm_bias_grad) if self.fixed else 0
        return found


def uses_running_statistics(norm: nn.BatchNorm2D) -> bool:
    """Whether a batch norm normalises by what it has gathered, and not by the batch."""
    return not norm.training if norm._use_global_stats is None else bool(norm._use_global_stats)
