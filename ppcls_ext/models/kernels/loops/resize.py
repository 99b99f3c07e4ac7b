"""Bilinear resizing, on planes [N x C, H, W]: rows first, then columns."""

from __future__ import annotations

import numpy as np

from ppcls_ext.models.kernels.loops.compiling import Compiled

# mypy: disable-error-code="no-untyped-def"
# Numba finds the types below: float32 arrays and int64.


@Compiled
def resize(start, end, x, out, above, below, share_below, left, right, share_right):
    """Fill `out`; where each row and column lies is as in `resizing.Places`."""
    row = np.empty(x.shape[2], np.float32)
    for plane in range(start, end):
        of_plane, out_plane = x[plane], out[plane]
        for y in range(out.shape[1]):
            upper, lower, share = of_plane[above[y]], of_plane[below[y]], share_below[y]
            for i in range(len(row)):
                row[i] = upper[i] + share * (lower[i] - upper[i])
            out_row = out_plane[y]
            for i in range(len(out_row)):
                first = row[left[i]]
                out_row[i] = first + share_right[i] * (row[right[i]] - first)


@Compiled
def resize_backward(start, end, grad, x_grad, above, below, share_below, left, right, share_right):
    """The gradient of `resize`."""
    row = np.empty(x_grad.shape[2], np.float32)
    for plane in range(start, end):
        of_plane, x_plane = grad[plane], x_grad[plane]
        x_plane[:] = 0
        for y in range(grad.shape[1]):
            row[:] = 0
            of_row = of_plane[y]
            for i in range(len(of_row)):
                to_right = share_right[i] * of_row[i]
                row[left[i]] += of_row[i] - to_right
                row[right[i]] += to_right
            upper, lower, share = x_plane[above[y]], x_plane[below[y]], share_below[y]
            for i in range(len(row)):
                upper[i] += (1 - share) * row[i]
            for i in range(len(row)):
                lower[i] += share * row[i]
