"""Normalisation after the transfer: processes hand on uint8 pixels, a quarter of the bytes of float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ppcls_ext.core.pixels import normalize
from ppcls_ext.runtime.transforms import PixelTables


class Normalization:
    """A normalisation of the pixels of a batch, each by itself; bit-equal to the operation that it is made of.

    Args:
        operation: from [H, W, 3] to float32 [H, W, 3], each value by itself.
    """

    def __init__(self, operation: Callable[[np.ndarray], np.ndarray]) -> None:
        self._tables = PixelTables(operation)

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Normalization:
        """The normalisation that `ppcls_ext.core.pixels.normalize` does, with this mean and deviation."""
        return cls(lambda image: normalize(image, mean, std).transpose(1, 2, 0))

    def batch(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The arrays of a batch, the first of them normalised: uint8 [N, H, W, 3] to float32 [N, 3, H, W].

        A first array of any other type is normalised already, and stays.
        """
        pixels, *others = arrays
        if pixels.dtype != np.uint8:
            return [pixels, *others]
        count, height, width, _ = pixels.shape
        images = np.empty((count, 3, height, width), np.float32)
        for image, out in zip(pixels, images, strict=True):
            self._tables(image, out)
        return [images, *others]
