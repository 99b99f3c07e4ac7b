"""Layers whose CPU kernels in Paddle 3.2.2 hold up training, with faster ones, compiled by Numba for this processor.

- A depthwise convolution of Paddle unfolds each plane of each image (im2col) to multiply it with a single row. Here a
  tap of the kernel is one multiply-add of long vectors that stay in the cache.
- A convolution in one group is one product of matrices an image, by the oneDNN in Paddle's wheel.
- Batch norm and the activation after it are two passes over memory each way, not six; after a convolution, their sums
  and gradients are taken from what is in the cache just then, and what lies between the layers is never stored.

Results are Paddle's up to rounding, and the same for any number of threads. `speed_up` is the way in.
"""

from __future__ import annotations

from ppcls_ext.models.kernels.layers import speed_up

__all__ = ["speed_up"]
