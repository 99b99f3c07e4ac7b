"""Convolutions in one group, on images [N, C, H x W]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from ppcls_ext.models.kernels.loops.compiling import Compiled
from ppcls_ext.models.kernels.loops.norms import moments_of, norm_gradient, normalise_plane
from ppcls_ext.models.kernels.loops.rows import copy, fill
from ppcls_ext.upstream.onednn import SGEMM, make_sgemm_known

# mypy: disable-error-code="no-untyped-def"
# Numba finds the types below: float32 arrays and int64.

# Sums over images are taken group by group, in as many groups for any number of threads.
GROUPS = 16


_KINDS = types.int8, types.int8
_SIZES = types.int64, types.int64, types.int64
_MATRIX = types.uintp, types.int64  # where it lies, and the length of its rows
_ARGUMENTS = [*_KINDS, *_SIZES, types.float32, *_MATRIX, *_MATRIX, types.float32, *_MATRIX]
_sgemm: Any = types.ExternalFunction(SGEMM, types.int32(*_ARGUMENTS))
HAS_PRODUCT = make_sgemm_known()
_PLAIN, _TRANSPOSED = ord("N"), ord("T")


@Compiled
def _product(a, a_kind, b, b_kind, share, out):
    """out = share * out + a b, of matrices by rows, either of which may be meant transposed."""
    rows, columns = out.shape
    inner = a.shape[1] if a_kind == _PLAIN else a.shape[0]
    _sgemm(
        *(a_kind, b_kind, rows, columns, inner, np.float32(1), a.ctypes.data, a.shape[1]),
        *(b.ctypes.data, b.shape[1], share, out.ctypes.data, columns),
    )


@Compiled
def _unfold(images, base, columns, window):
    """What each tap of each channel sees, a row [H' x W'] of flat `columns` each.

    Args:
        images: flat; the image begins at `base`.
        window: see `dense`.
    """
    channels, (taps_y, taps_x), (step_y, step_x), padding, dilation, (height, width), (rows, length) = window
    at = 0
    for channel in range(channels):
        for tap in range(taps_y * taps_x):
            start = tap % taps_x * dilation[1] - padding[1]  # where the first output looks in its row
            least = min(length, max(0, (step_x - 1 - start) // step_x))
            beyond = max(least, min(length, (width - start + step_x - 1) // step_x))
            for row in range(rows):
                y = row * step_y - padding[0] + tap // taps_x * dilation[0]
                if 0 <= y < height:
                    first = base + (channel * height + y) * width + start + least * step_x
                    fill(columns, at, least)
                    copy(images, first, step_x, columns, at + least, beyond - least)
                    fill(columns, at + beyond, length - beyond)
                else:
                    fill(columns, at, length)
                at += length


@Compiled
def _fold(columns, images, base, window):
    """The gradient of `_unfold`: what every tap sees is added to where it is."""
    channels, (taps_y, taps_x), (step_y, step_x), padding, dilation, (height, width), (rows, length) = window
    fill(images, base, channels * height * width)
    step, at = np.uint64(step_x), 0
    for channel in range(channels):
        for tap in range(taps_y * taps_x):
            start = tap % taps_x * dilation[1] - padding[1]
            least = min(length, max(0, (step_x - 1 - start) // step_x))
            beyond = max(least, min(length, (width - start + step_x - 1) // step_x))
            for row in range(rows):
                y = row * step_y - padding[0] + tap // taps_x * dilation[0]
                if 0 <= y < height:
                    goal = np.uint64(base + (channel * height + y) * width + start + least * step_x)
                    source = np.uint64(at + least)
                    for i in range(np.uint64(beyond - least)):
                        images[goal + i * step] += columns[source + i]
                at += length


@Compiled
def dense(start, end, x, weight, y, moments, window, unfolds):
    """A convolution as one product an image; with moments of the planes of `y`, where there is room for them.

    Args:
        weight: [C', C x taps].
        window: input channels, then kernel, stride, padding, dilation, size of the input and of the output: pairs.
        unfolds: a kernel of more than one tap, or a stride: the product is with what the taps see.
    """
    seen = np.empty((weight.shape[1], y.shape[2]) if unfolds else (0, 0), np.float32)
    for image in range(start, end):
        if unfolds:
            _unfold(x.ravel(), image * x.shape[1] * x.shape[2], seen.ravel(), window)
        _product(weight, _PLAIN, seen if unfolds else x[image], _PLAIN, np.float32(0), y[image])
        for channel in range(len(weight) if len(moments) else 0):
            moments_of(y[image, channel], moments[image * len(weight) + channel])


FEW_CHANNELS, LONG_ROWS = 40, 512  # where the dot products below are faster than the library's


@Compiled
def _add_dots(grad, x, out):
    """out += grad x^T, for few long rows: four rows of either at a time, so that each is read a fourth as often."""
    for o in range(0, len(grad), 4):
        g0, g1 = grad[o], grad[min(o + 1, len(grad) - 1)]
        g2, g3 = grad[min(o + 2, len(grad) - 1)], grad[min(o + 3, len(grad) - 1)]
        for k in range(0, len(x), 4):
            x0, x1, x2, x3 = x[k], x[min(k + 1, len(x) - 1)], x[min(k + 2, len(x) - 1)], x[min(k + 3, len(x) - 1)]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = np.float32(0)
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = np.float32(0)
            for i in range(len(g0)):
                a, b, c, d, p, q, r, s = g0[i], g1[i], g2[i], g3[i], x0[i], x1[i], x2[i], x3[i]
                s00 += a * p
                s01 += a * q
                s02 += a * r
                s03 += a * s
                s10 += b * p
                s11 += b * q
                s12 += b * r
                s13 += b * s
                s20 += c * p
                s21 += c * q
                s22 += c * r
                s23 += c * s
                s30 += d * p
                s31 += d * q
                s32 += d * r
                s33 += d * s
            sums = ((s00, s01, s02, s03), (s10, s11, s12, s13), (s20, s21, s22, s23), (s30, s31, s32, s33))
            for row in range(min(4, len(grad) - o)):
                for column in range(min(4, len(x) - k)):
                    out[o + row, k + column] += sums[row][column]


@Compiled
def dense_backward(
    start, end, x, weight, y, grad, constants, x_grad, weight_grads, activation, window, unfolds, factors, x_activation
):
    """Gradients of a convolution and of the norm and activation after it, by groups of images.

    Args:
        y: what the convolution gave; `grad` is the gradient after norm and activation.
        constants: as for `normalise_backward`; empty where there is no norm: then y is not read.
        x_grad: empty if nobody wants it.
        weight_grads: [groups, C', C x taps].
        window, unfolds: as for `dense`.
        factors: float32 [C, 2], scale and shift by which `x` becomes what the convolution saw, and `x_activation` after
            them; empty where `x` is that itself.
    """
    y_grad = np.empty(grad.shape[1:] if len(constants) else (0, 0), np.float32)
    seen = np.empty((weight.shape[1], grad.shape[2]) if unfolds else (0, 0), np.float32)
    normal = np.empty(x.shape[1:] if len(factors) else (0, 0), np.float32)
    few = grad.shape[2] >= LONG_ROWS and min(weight.shape) <= FEW_CHANNELS
    for group in range(start, end):
        weight_grads[group] = 0
        for image in range(len(x) * group // len(weight_grads), len(x) * (group + 1) // len(weight_grads)):
            for channel in range(len(y_grad)):
                planes = y[image, channel], grad[image, channel]
                norm_gradient(planes[0], planes[1], constants[channel], y_grad[channel], activation)
            of_image = y_grad if len(constants) else grad[image]
            for channel in range(len(normal)):
                factor, summand = factors[channel, 0], factors[channel, 1]
                normalise_plane(x[image, channel], factor, summand, normal[channel], x_activation)
            source = normal if len(factors) else x[image]
            if unfolds:
                _unfold(source.ravel(), 0, seen.ravel(), window)
                source = seen
            if few:
                _add_dots(of_image, source, weight_grads[group])
            else:
                _product(of_image, _PLAIN, source, _TRANSPOSED, np.float32(1), weight_grads[group])
            if len(x_grad):
                goal = seen if unfolds else x_grad[image]
                _product(weight, _TRANSPOSED, of_image, _PLAIN, np.float32(0), goal)
                if unfolds:
                    _fold(seen.ravel(), x_grad.ravel(), image * x.shape[1] * x.shape[2], window)
