"""What a batch norm does to each channel, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from paddle import Tensor, nn

from ppcls_ext.models.kernels.loops.norms import normalise_sums
from ppcls_ext.models.kernels.memory import as_array, as_flat_planes
from ppcls_ext.models.kernels.threads import split


class Statistics(NamedTuple):
    """What a norm did to each channel: factors and summands float32 [C]; `fixed`: by running statistics."""

    mean: np.ndarray
    inverse: np.ndarray  # 1 / deviation, float64 [C]
    scale: np.ndarray
    shift: np.ndarray
    fixed: bool

    @classmethod
    def of(cls, norm: nn.BatchNorm2D, moments: np.ndarray, shape: Sequence[int]) -> Statistics:
        """Those of the batch, which also move the running ones; or the running ones, where the norm is to use them.

        Args:
            moments: float32 [N x C, 2] of the planes of a map of this shape; not read with running statistics.
        """
        fixed = uses_running_statistics(norm)
        if fixed:
            mean, variance = (as_array(t).astype(np.float64) for t in (norm._mean, norm._variance))
        else:
            means, squares = moments.reshape(shape[0], shape[1], 2).astype(np.float64).transpose(2, 0, 1)
            with np.errstate(invalid="ignore", over="ignore"):  # of a run that diverges, which its loss says
                mean = means.mean(axis=0)
                variance = squares.mean(axis=0) / (shape[2] * shape[3]) + np.square(means - mean).mean(axis=0)
            for running, new in ((norm._mean, mean), (norm._variance, variance)):
                kept = as_array(running)
                kept[:] = kept * np.float32(norm._momentum) + new.astype(np.float32) * np.float32(1 - norm._momentum)
        inverse = 1 / np.sqrt(variance + norm._epsilon)
        factor = as_array(norm.weight) * inverse
        scale, shift = _singles(factor, as_array(norm.bias) - mean * factor)
        return cls(mean.astype(np.float32), inverse, scale, shift, fixed)

    def gradients(
        self, y: Tensor, grad: Tensor, activation: int, threads: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Constants (see `normalise_backward`), and the gradients of the norm's weight and bias."""
        count, channels, height, width = y.shape
        sums = np.empty((count * channels, 2), np.float32)
        arrays = as_flat_planes(y), as_flat_planes(grad), self.scale, self.shift, self.mean
        split(normalise_sums, threads, len(sums), *arrays, sums, activation)
        total, product = sums.reshape(count, channels, 2).astype(np.float64).sum(axis=0).T
        product = product * self.inverse
        share = 0.0 if self.fixed else 1 / (count * height * width)
        slanted = -share * self.scale * self.inverse * product
        fixed = -share * self.scale * total - slanted * self.mean
        constants = np.stack(_singles(self.scale, self.shift, fixed, slanted), axis=1)
        weight_grad, bias_grad = _singles(product, total)
        return constants, weight_grad, bias_grad


def uses_running_statistics(norm: nn.BatchNorm2D) -> bool:
    """Whether a batch norm normalises by what it has gathered, and not by the batch."""
    return not norm.training if norm._use_global_stats is None else bool(norm._use_global_stats)


def _singles(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays in float32."""
    return [array.astype(np.float32) for array in arrays]
