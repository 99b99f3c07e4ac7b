"""Loops over float32 arrays that Numba compiles for the processor at hand, and how threads share them.

Every kernel is called with `start` and `end` of its first argument's parts, and computes each part alone: what it gives
does not depend on how many threads there are. Sums over parts are taken afterwards, in one order.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, ClassVar

import numba
import numpy as np
from numba import types

from ppcls_ext.core.device import kernel_threads
from ppcls_ext.upstream.onednn import SGEMM, make_sgemm_known, use_one_openmp_thread

# Activations that follow a norm.
NO_ACTIVATION, HARDSWISH, RELU = 0, 1, 2

# Sums over images are taken group by group, in as many groups for any number of threads.
GROUPS = 16


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, initializer=use_one_openmp_thread)


# A forked process has no threads but the one that forked it: it would wait for those of the pool for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)

PARTS_PER_THREAD = 8  # so that a thread that another process holds up leaves its share to the others


def split(kernel: Callable[..., None], threads: int, count: int, *arguments: Any) -> None:
    """Run a kernel on `count` parts; threads take some at a time, until none is left."""
    if threads == kernel_threads() == 1:
        kernel(0, count, *arguments)
        return
    pieces = min(count, PARTS_PER_THREAD * threads)
    ends = [count * piece // pieces for piece in range(pieces + 1)]
    left = iter(list(itertools.pairwise(ends)))

    def work() -> None:
        for start, end in left:
            kernel(start, end, *arguments)

    for done in [_pool(threads).submit(work) for _ in range(threads)]:
        done.result()


class _Compiled:
    """A kernel, with the interpreter's lock released while it runs.

    Sums may be taken in any order, so that they use vector registers; NaN and infinity stay what they are.
    """

    options: ClassVar[dict[str, Any]] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "nsz"},
    }

    def __new__(cls, function: Callable[..., None]) -> Any:
        try:
            return numba.njit(cache=True, **cls.options)(function)
        except RuntimeError:  # no folder that Numba could keep the compiled code in: compiled in every process
            return numba.njit(**cls.options)(function)


# mypy: disable-error-code="no-untyped-def"
# Numba finds the types below: float32 arrays and int64.

# Elementwise


@_Compiled
def add_bias(start, end, x, bias, out):
    """Planes [N x C, H x W] plus a number for each channel."""
    for plane in range(start, end):
        for i in range(x.shape[1]):
            out[plane, i] = x[plane, i] + bias[plane % len(bias)]


@_Compiled
def sum_planes(start, end, x, sums):
    """The sum of each plane."""
    for plane in range(start, end):
        total = np.float32(0)
        for i in range(x.shape[1]):
            total += x[plane, i]
        sums[plane] = total


@_Compiled
def _activated(z, activation):
    if activation == HARDSWISH:
        return z * min(max(z + np.float32(3), np.float32(0)), np.float32(6)) * np.float32(1 / 6)
    if activation == RELU:
        return max(z, np.float32(0))
    return z


@_Compiled
def _slope(z, activation):
    slope = np.float32(1)
    if activation == HARDSWISH:
        slope = z * np.float32(1 / 3) + np.float32(0.5)
        if z <= -3:
            slope = np.float32(0)
        if z >= 3:
            slope = np.float32(1)
    elif activation == RELU:
        slope = np.float32(1) if z > 0 else np.float32(0)
    return slope


@_Compiled
def hardswish(start, end, x, out):
    """H-Swish of numbers."""
    for i in range(start, end):
        out[i] = _activated(x[i], HARDSWISH)


@_Compiled
def hardswish_backward(start, end, x, grad, x_grad):
    """The gradient of `hardswish`."""
    for i in range(start, end):
        x_grad[i] = grad[i] * _slope(x[i], HARDSWISH)


# Batch norm and the activation after it


@_Compiled
def _moments(y, moments):
    """Mean of a plane, and the sum of squared distances from it."""
    total = np.float32(0)
    for i in range(len(y)):
        total += y[i]
    mean = total / np.float32(len(y))
    squares = np.float32(0)
    for i in range(len(y)):
        squares += (y[i] - mean) * (y[i] - mean)
    moments[0] = mean
    moments[1] = squares


@_Compiled
def plane_moments(start, end, y, moments):
    """`moments` float32 [planes, 2]: see `_moments`."""
    for plane in range(start, end):
        _moments(y[plane], moments[plane])


@_Compiled
def normalise(start, end, y, scale, shift, out, activation):
    """Scaled, shifted, activated planes; `scale` and `shift` are of each channel."""
    for plane in range(start, end):
        factor, summand = scale[plane % len(scale)], shift[plane % len(scale)]
        of_plane, out_plane = y[plane], out[plane]
        if activation == HARDSWISH:
            for i in range(len(of_plane)):
                out_plane[i] = _activated(factor * of_plane[i] + summand, HARDSWISH)
        elif activation == RELU:
            for i in range(len(of_plane)):
                out_plane[i] = _activated(factor * of_plane[i] + summand, RELU)
        else:
            for i in range(len(of_plane)):
                out_plane[i] = factor * of_plane[i] + summand


@_Compiled
def normalise_sums(start, end, y, grad, scale, shift, mean, sums, activation):
    """`sums` float32 [planes, 2]: the gradient before the activation, and that times the distance from the mean."""
    for plane in range(start, end):
        channel = plane % len(scale)
        factor, summand, middle = scale[channel], shift[channel], mean[channel]
        of_plane, grad_plane = y[plane], grad[plane]
        total, product = np.float32(0), np.float32(0)
        if activation == HARDSWISH:
            for i in range(len(of_plane)):
                d = grad_plane[i] * _slope(factor * of_plane[i] + summand, HARDSWISH)
                total += d
                product += d * (of_plane[i] - middle)
        else:
            for i in range(len(of_plane)):
                d = grad_plane[i] * _slope(factor * of_plane[i] + summand, activation)
                total += d
                product += d * (of_plane[i] - middle)
        sums[plane, 0] = total
        sums[plane, 1] = product


@_Compiled
def _norm_gradient(y, grad, constants, out, activation):
    """The gradient of a plane before the norm; the four constants are those of its channel."""
    factor, summand, fixed, slanted = constants[0], constants[1], constants[2], constants[3]
    if activation == HARDSWISH:
        for i in range(len(y)):
            d = grad[i] * _slope(factor * y[i] + summand, HARDSWISH)
            out[i] = factor * d + (fixed + slanted * y[i])
    else:
        for i in range(len(y)):
            d = grad[i] * _slope(factor * y[i] + summand, activation)
            out[i] = factor * d + (fixed + slanted * y[i])


@_Compiled
def normalise_backward(start, end, y, grad, constants, y_grad, activation):
    """The gradient of planes before the norm.

    `constants` float32 [channels, 4]: scale and shift of the norm, then by what every gradient of the channel is
    shifted, and that times the value, since mean and deviation follow from the values too.
    """
    for plane in range(start, end):
        _norm_gradient(y[plane], grad[plane], constants[plane % len(constants)], y_grad[plane], activation)


# Dense convolutions, on images [N, C, H x W]

_KINDS = types.int8, types.int8
_SIZES = types.int64, types.int64, types.int64
_MATRIX = types.uintp, types.int64  # where it lies, and the length of its rows
_ARGUMENTS = [*_KINDS, *_SIZES, types.float32, *_MATRIX, *_MATRIX, types.float32, *_MATRIX]
_sgemm: Any = types.ExternalFunction(SGEMM, types.int32(*_ARGUMENTS))
HAS_PRODUCT = make_sgemm_known()
_PLAIN, _TRANSPOSED = ord("N"), ord("T")


@_Compiled
def _product(a, a_kind, b, b_kind, share, out):
    """out = share * out + a b, of matrices by rows, either of which may be meant transposed."""
    rows, columns = out.shape
    inner = a.shape[1] if a_kind == _PLAIN else a.shape[0]
    _sgemm(
        *(a_kind, b_kind, rows, columns, inner, np.float32(1), a.ctypes.data, a.shape[1]),
        *(b.ctypes.data, b.shape[1], share, out.ctypes.data, columns),
    )


@_Compiled
def _unfold(image, columns, window):
    """What each tap of each channel sees, a row of `columns` [C x taps, H' x W'] each; see `dense` for `window`."""
    (taps_y, taps_x), (step_y, step_x), padding, dilation, (height, width), (rows, length) = window
    for channel in range(len(image)):
        for tap in range(taps_y * taps_x):
            column = columns[channel * taps_y * taps_x + tap]
            start = tap % taps_x * dilation[1] - padding[1]  # where the first output looks in its row
            least = max(0, (step_x - 1 - start) // step_x)
            beyond = max(least, min(length, (width - start + step_x - 1) // step_x))
            for row in range(rows):
                y, at = row * step_y - padding[0] + tap // taps_x * dilation[0], row * length
                if y < 0 or y >= height:
                    column[at : at + length] = 0
                    continue
                column[at : at + least] = 0
                column[at + beyond : at + length] = 0
                first = y * width + start
                if step_x == 1:
                    for i in range(least, beyond):
                        column[at + i] = image[channel, first + i]
                else:
                    for i in range(least, beyond):
                        column[at + i] = image[channel, first + i * step_x]


@_Compiled
def _fold(columns, image, window):
    """The gradient of `_unfold`: what every tap sees is added to where it is."""
    (taps_y, taps_x), (step_y, step_x), padding, dilation, (height, width), (rows, length) = window
    image[:] = 0
    for channel in range(len(image)):
        for tap in range(taps_y * taps_x):
            column = columns[channel * taps_y * taps_x + tap]
            start = tap % taps_x * dilation[1] - padding[1]
            least = max(0, (step_x - 1 - start) // step_x)
            beyond = max(least, min(length, (width - start + step_x - 1) // step_x))
            for row in range(rows):
                y, at = row * step_y - padding[0] + tap // taps_x * dilation[0], row * length
                if 0 <= y < height:
                    first = y * width + start
                    for i in range(least, beyond):
                        image[channel, first + i * step_x] += column[at + i]


@_Compiled
def dense(start, end, x, weight, y, moments, window, unfolds):
    """A convolution as one product an image; with moments of the planes of `y`, where there is room for them.

    Args:
        weight: [C', C x taps].
        window: kernel, stride, padding, dilation, size of the input and of the output: pairs, rows first.
        unfolds: a kernel of more than one tap, or a stride: the product is with what the taps see.
    """
    seen = np.empty((weight.shape[1], y.shape[2]) if unfolds else (0, 0), np.float32)
    for image in range(start, end):
        if unfolds:
            _unfold(x[image], seen, window)
        _product(weight, _PLAIN, seen if unfolds else x[image], _PLAIN, np.float32(0), y[image])
        for channel in range(len(weight) if len(moments) else 0):
            _moments(y[image, channel], moments[image * len(weight) + channel])


FEW_CHANNELS, LONG_ROWS = 40, 512  # where the dot products below are faster than the library's


@_Compiled
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


@_Compiled
def dense_backward(start, end, x, weight, y, grad, constants, x_grad, weight_grads, activation, window, unfolds):
    """Gradients of a convolution and of the norm and activation after it, by groups of images.

    Args:
        y: what the convolution gave; `grad` is the gradient after norm and activation.
        constants: as for `normalise_backward`; empty where there is no norm: then y is not read.
        x_grad: empty if nobody wants it.
        weight_grads: [groups, C', C x taps].
        window, unfolds: as for `dense`.
    """
    y_grad = np.empty(grad.shape[1:] if len(constants) else (0, 0), np.float32)
    seen = np.empty((weight.shape[1], grad.shape[2]) if unfolds else (0, 0), np.float32)
    few = grad.shape[2] >= LONG_ROWS and min(weight.shape) <= FEW_CHANNELS
    for group in range(start, end):
        weight_grads[group] = 0
        for image in range(len(x) * group // len(weight_grads), len(x) * (group + 1) // len(weight_grads)):
            for channel in range(len(y_grad)):
                planes = y[image, channel], grad[image, channel]
                _norm_gradient(planes[0], planes[1], constants[channel], y_grad[channel], activation)
            of_image = y_grad if len(constants) else grad[image]
            if unfolds:
                _unfold(x[image], seen, window)
            source = seen if unfolds else x[image]
            if few:
                _add_dots(of_image, source, weight_grads[group])
            else:
                _product(of_image, _PLAIN, source, _TRANSPOSED, np.float32(1), weight_grads[group])
            if len(x_grad):
                goal = seen if unfolds else x_grad[image]
                _product(weight, _TRANSPOSED, of_image, _PLAIN, np.float32(0), goal)
                if unfolds:
                    _fold(seen, x_grad[image], window)


# Depthwise convolutions, on planes [N x C, H, W]


@_Compiled
def _run(y, column, width, stride, padding, phase):
    """Where a padded row has the phase of a column: position and column of the first element, and their count."""
    first = (column - padding[1]) % stride[1]
    at = (first + padding[1]) // stride[1]
    position = ((y % stride[0] * stride[1] + column) * phase[0] + y // stride[0]) * phase[1] + at
    return position, first, min((width - first + stride[1] - 1) // stride[1], phase[1] - at)


@_Compiled
def _deal(plane, dealt, stride, padding, phase):
    """Deal a plane [H, W] out by phase; the margins of `dealt` stay."""
    for row in range(min(plane.shape[0], phase[0] * stride[0] - padding[0])):
        for column in range(stride[1]):
            position, first, count = _run(row + padding[0], column, plane.shape[1], stride, padding, phase)
            if stride[1] == 1:
                for i in range(count):
                    dealt[position + i] = plane[row, first + i]
            else:
                for i in range(count):
                    dealt[position + i] = plane[row, first + i * stride[1]]


@_Compiled
def _collect(dealt, plane, stride, padding, phase):
    """The opposite of `_deal`; what no tap reads becomes 0."""
    plane[:] = 0
    for row in range(min(plane.shape[0], phase[0] * stride[0] - padding[0])):
        for column in range(stride[1]):
            position, first, count = _run(row + padding[0], column, plane.shape[1], stride, padding, phase)
            if stride[1] == 1:
                for i in range(count):
                    plane[row, first + i] = dealt[position + i]
            else:
                for i in range(count):
                    plane[row, first + i * stride[1]] = dealt[position + i]


@_Compiled
def _add_shifted(source, at, factors, total):
    """Add the sum over k of factors[k] * source[at[k] + i] to total[i]; several k at a time save passes."""
    k = 0
    n = len(total)
    while len(at) - k >= 9:
        f0, f1, f2, f3, f4 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3], factors[k + 4]
        f5, f6, f7, f8 = factors[k + 5], factors[k + 6], factors[k + 7], factors[k + 8]
        s0, s1, s2, s3 = source[at[k] :], source[at[k + 1] :], source[at[k + 2] :], source[at[k + 3] :]
        s4, s5, s6, s7 = source[at[k + 4] :], source[at[k + 5] :], source[at[k + 6] :], source[at[k + 7] :]
        s8 = source[at[k + 8] :]
        for i in range(n):
            first = f0 * s0[i] + f1 * s1[i] + f2 * s2[i] + f3 * s3[i] + f4 * s4[i]
            total[i] += first + (f5 * s5[i] + f6 * s6[i] + f7 * s7[i] + f8 * s8[i])
        k += 9
    while len(at) - k >= 5:
        f0, f1, f2, f3, f4 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3], factors[k + 4]
        s0, s1, s2, s3 = source[at[k] :], source[at[k + 1] :], source[at[k + 2] :], source[at[k + 3] :]
        s4 = source[at[k + 4] :]
        for i in range(n):
            total[i] += f0 * s0[i] + f1 * s1[i] + f2 * s2[i] + f3 * s3[i] + f4 * s4[i]
        k += 5
    while len(at) - k >= 2:
        f0, f1 = factors[k], factors[k + 1]
        s0, s1 = source[at[k] :], source[at[k + 1] :]
        for i in range(n):
            total[i] += f0 * s0[i] + f1 * s1[i]
        k += 2
    if k < len(at):
        f0, s0 = factors[k], source[at[k] :]
        for i in range(n):
            total[i] += f0 * s0[i]


@_Compiled
def _dots(grad, source, offsets, out):
    """out[k] = sum over i of grad[i] * source[offsets[k] + i]."""
    k = 0
    n = len(grad)
    while len(offsets) - k >= 3:
        s0, s1, s2 = source[offsets[k] :], source[offsets[k + 1] :], source[offsets[k + 2] :]
        a = b = c = np.float32(0)
        for i in range(n):
            g = grad[i]
            a += g * s0[i]
            b += g * s1[i]
            c += g * s2[i]
        out[k], out[k + 1], out[k + 2] = a, b, c
        k += 3
    while k < len(offsets):
        s0 = source[offsets[k] :]
        a = np.float32(0)
        for i in range(n):
            a += grad[i] * s0[i]
        out[k] = a
        k += 1


VECTOR = 64  # numbers that one turn of a compiled loop takes; what is left over would be done one by one


@_Compiled
def _whole(count):
    return (count + VECTOR - 1) // VECTOR * VECTOR


@_Compiled
def convolve(start, end, x, taps, out, offsets, stride, padding, phase, moments):
    """A depthwise convolution; with moments of the planes of `out`, where there is room for them."""
    length = phase[1]
    # Longer than needed: offsets reach a row beyond, and what is computed is rounded up to whole vectors.
    dealt = np.zeros((stride[0] * stride[1] * phase[0] + 1) * length + VECTOR, np.float32)
    total = np.empty(_whole(out.shape[1] * length), np.float32)
    for plane in range(start, end):
        _deal(x[plane], dealt, stride, padding, phase)
        total[:] = 0
        _add_shifted(dealt, offsets, taps[plane % len(taps)], total)
        for row in range(out.shape[1]):
            for column in range(out.shape[2]):
                out[plane, row, column] = total[row * length + column]
        if len(moments):
            _moments(out[plane].ravel(), moments[plane])


@_Compiled
def convolve_backward(
    start, end, x, taps, y, grad, constants, x_grad, taps_grad, activation, offsets, stride, padding, phase
):
    """Gradients of a depthwise convolution and of the norm and activation after it.

    Args:
        y: what the convolution gave; `grad` is the gradient after norm and activation.
        constants: as for `normalise_backward`; empty where there is no norm: then y is not read.
        taps_grad: of each plane.
    """
    length, phases = phase[1], stride[0] * stride[1]
    size = phase[0] * length
    dealt = np.zeros(phases * size + length + VECTOR, np.float32)
    dealt_grad = np.empty(_whole(size), np.float32)
    collected = np.empty(phases * size + length, np.float32)
    # The gradient of the output in rows as long as those of a phase; zeros before it, after it and between the rows.
    padded = np.zeros(2 * size + grad.shape[1] * length + 2 * VECTOR, np.float32)
    total_grad = padded[size : size + _whole(grad.shape[1] * length)]
    at, factors = np.empty(len(offsets), np.int64), np.empty(len(offsets), np.float32)
    y_grad = np.empty(grad.shape[1:], np.float32)
    for plane in range(start, end):
        of_plane = grad[plane]
        if len(constants):
            constant = constants[plane % len(constants)]
            _norm_gradient(y[plane].ravel(), of_plane.ravel(), constant, y_grad.ravel(), activation)
            of_plane = y_grad
        for row in range(grad.shape[1]):
            for column in range(grad.shape[2]):
                total_grad[row * length + column] = of_plane[row, column]
        _deal(x[plane], dealt, stride, padding, phase)
        _dots(total_grad, dealt, offsets, taps_grad[plane])
        for one in range(phases):
            count = 0
            for tap in range(len(offsets)):
                if offsets[tap] // size == one:
                    at[count] = size - offsets[tap] % size
                    factors[count] = taps[plane % len(taps), tap]
                    count += 1
            dealt_grad[:] = 0
            _add_shifted(padded, at[:count], factors[:count], dealt_grad)
            collected[one * size : one * size + size] = dealt_grad[:size]
        _collect(collected, x_grad[plane], stride, padding, phase)
