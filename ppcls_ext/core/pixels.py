"""From decoded pixels to what networks take, in NumPy alone: training and deployment share it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Mean and standard deviation of the pixels of ImageNet in [0, 1], R, G, B: public weights expect inputs scaled by them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(
    image: np.ndarray, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> np.ndarray:
    """Scale an image to about zero mean and unit deviation.

    Args:
        image: uint8 RGB [H, W, 3].
        mean, std: of pixels in [0, 1], a number for each channel.
    Returns:
        float32 [3, H, W], contiguous.
    """
    centre, scale = (np.asarray(values, np.float32) * np.float32(255) for values in (mean, std))
    return np.ascontiguousarray(((image.astype(np.float32) - centre) / scale).transpose(2, 0, 1))
