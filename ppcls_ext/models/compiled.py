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


# Rows of flat arrays
#
# No slices in inner loops: each would be counted as a reference. And unsigned indices, which need no test for counting
# from the end of an array; with it, LLVM uses no vectors.


@_Compiled
def _copy(source, start, step, goal, to, count):
    """goal[to + i] = source[start + i * step], for so many i."""
    start, to, step = np.uint64(start), np.uint64(to), np.uint64(step)
    if step == 1:
        for i in range(np.uint64(max(count, 0))):
            goal[to + i] = source[start + i]
    elif step == 2:
        for i in range(np.uint64(max(count, 0))):
            goal[to + i] = source[start + i + i]
    else:
        for i in range(np.uint64(max(count, 0))):
            goal[to + i] = source[start + i * step]


@_Compiled
def _copy_apart(source, start, goal, to, step, count):
    """The opposite of `_copy`: goal[to + i * step] = source[start + i]."""
    start, to, step = np.uint64(start), np.uint64(to), np.uint64(step)
    if step == 1:
        for i in range(np.uint64(max(count, 0))):
            goal[to + i] = source[start + i]
    else:
        for i in range(np.uint64(max(count, 0))):
            goal[to + i * step] = source[start + i]


@_Compiled
def _fill(goal, to, count):
    """Zeros."""
    to = np.uint64(to)
    for i in range(np.uint64(max(count, 0))):
        goal[to + i] = np.float32(0)


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
                    _fill(columns, at, least)
                    _copy(images, first, step_x, columns, at + least, beyond - least)
                    _fill(columns, at + beyond, length - beyond)
                else:
                    _fill(columns, at, length)
                at += length


@_Compiled
def _fold(columns, images, base, window):
    """The gradient of `_unfold`: what every tap sees is added to where it is."""
    channels, (taps_y, taps_x), (step_y, step_x), padding, dilation, (height, width), (rows, length) = window
    _fill(images, base, channels * height * width)
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


@_Compiled
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
                _unfold(x.ravel(), image * x.shape[1] * x.shape[2], seen.ravel(), window)
            source = seen if unfolds else x[image]
            if few:
                _add_dots(of_image, source, weight_grads[group])
            else:
                _product(of_image, _PLAIN, source, _TRANSPOSED, np.float32(1), weight_grads[group])
            if len(x_grad):
                goal = seen if unfolds else x_grad[image]
                _product(weight, _TRANSPOSED, of_image, _PLAIN, np.float32(0), goal)
                if unfolds:
                    _fold(seen.ravel(), x_grad.ravel(), image * x.shape[1] * x.shape[2], window)


# Depthwise convolutions, on planes [N x C, H, W]


@_Compiled
def _runs(height, width, stride, padding, phase):
    """Where rows of a plane lie when it is dealt out by phase: int64 [rows and columns' phases, 3].

    Each is a run of elements that are a stride apart in the plane: where it begins there, and when dealt out, and the
    count. Found once for all planes.
    """
    rows = min(height, phase[0] * stride[0] - padding[0])
    runs = np.empty((rows * stride[1], 3), np.int64)
    for k in range(len(runs)):
        row, column = k // stride[1], k % stride[1]
        first = (column - padding[1]) % stride[1]
        at, y = (first + padding[1]) // stride[1], row + padding[0]
        runs[k, 0] = row * width + first
        runs[k, 1] = ((y % stride[0] * stride[1] + column) * phase[0] + y // stride[0]) * phase[1] + at
        runs[k, 2] = min((width - first + stride[1] - 1) // stride[1], phase[1] - at)
    return runs


@_Compiled
def _deal(planes, base, dealt, runs, step):
    """Deal the plane that begins at `base` out by phase; the margins of `dealt` stay."""
    for k in range(len(runs)):
        _copy(planes, base + runs[k, 0], step, dealt, runs[k, 1], runs[k, 2])


@_Compiled
def _collect(dealt, planes, base, size, runs, step):
    """The opposite of `_deal`; what no tap reads becomes 0."""
    _fill(planes, base, size)
    for k in range(len(runs)):
        _copy_apart(dealt, runs[k, 1], planes, base + runs[k, 0], step, runs[k, 2])


@_Compiled
def _add_shifted(source, at, factors, count, total):
    """Add the sum over k < count of factors[k] * source[at[k] + i] to total[i]; several k at a time save passes."""
    k = 0
    n = np.uint64(len(total))
    while count - k >= 5:
        f0, f1, f2, f3, f4 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3], factors[k + 4]
        s0, s1, s2 = np.uint64(at[k]), np.uint64(at[k + 1]), np.uint64(at[k + 2])
        s3, s4 = np.uint64(at[k + 3]), np.uint64(at[k + 4])
        for i in range(n):
            summand = f0 * source[s0 + i] + f1 * source[s1 + i] + f2 * source[s2 + i]
            total[i] += summand + (f3 * source[s3 + i] + f4 * source[s4 + i])
        k += 5
    while count - k >= 2:
        f0, f1 = factors[k], factors[k + 1]
        s0, s1 = np.uint64(at[k]), np.uint64(at[k + 1])
        for i in range(n):
            total[i] += f0 * source[s0 + i] + f1 * source[s1 + i]
        k += 2
    if k < count:
        f0, s0 = factors[k], np.uint64(at[k])
        for i in range(n):
            total[i] += f0 * source[s0 + i]


@_Compiled
def _dots(padded, start, count, source, offsets, out, plane):
    """out[plane, k] = sum over i < count of padded[start + i] * source[offsets[k] + i]."""
    k = 0
    start, n = np.uint64(start), np.uint64(count)
    while len(offsets) - k >= 3:
        s0, s1, s2 = np.uint64(offsets[k]), np.uint64(offsets[k + 1]), np.uint64(offsets[k + 2])
        a = b = c = np.float32(0)
        for i in range(n):
            g = padded[start + i]
            a += g * source[s0 + i]
            b += g * source[s1 + i]
            c += g * source[s2 + i]
        out[plane, k], out[plane, k + 1], out[plane, k + 2] = a, b, c
        k += 3
    while k < len(offsets):
        s0 = np.uint64(offsets[k])
        a = np.float32(0)
        for i in range(n):
            a += padded[start + i] * source[s0 + i]
        out[plane, k] = a
        k += 1


VECTOR = 64  # numbers that one turn of a compiled loop takes; what is left over would be done one by one


@_Compiled
def _whole(count):
    return (count + VECTOR - 1) // VECTOR * VECTOR


@_Compiled
def convolve(start, end, x, taps, out, offsets, stride, padding, phase, moments):
    """A depthwise convolution; with moments of the planes of `out`, where there is room for them."""
    length = phase[1]
    runs = _runs(x.shape[1], x.shape[2], stride, padding, phase)
    # Longer than needed: offsets reach a row beyond, and what is computed is rounded up to whole vectors.
    dealt = np.zeros((stride[0] * stride[1] * phase[0] + 1) * length + VECTOR, np.float32)
    total = np.empty(_whole(out.shape[1] * length), np.float32)
    flat_x, flat_out = x.ravel(), out.ravel()
    of_channel = np.empty(len(offsets), np.float32)
    for plane in range(start, end):
        _deal(flat_x, plane * x.shape[1] * x.shape[2], dealt, runs, stride[1])
        of_channel[:] = taps[plane % len(taps)]
        _fill(total, 0, len(total))
        _add_shifted(dealt, offsets, of_channel, len(offsets), total)
        base = plane * out.shape[1] * out.shape[2]
        for row in range(out.shape[1]):
            _copy(total, row * length, 1, flat_out, base + row * out.shape[2], out.shape[2])
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
    runs = _runs(x.shape[1], x.shape[2], stride, padding, phase)
    dealt = np.zeros(phases * size + length + VECTOR, np.float32)
    dealt_grad = np.empty(_whole(size), np.float32)
    collected = np.empty(phases * size + length, np.float32)
    # The gradient of the output in rows as long as those of a phase; zeros before it, after it and between the rows.
    count = _whole(grad.shape[1] * length)
    padded = np.zeros(2 * size + grad.shape[1] * length + 2 * VECTOR, np.float32)
    at, factors = np.empty(len(offsets), np.int64), np.empty(len(offsets), np.float32)
    flat_x, flat_grad, flat_x_grad = x.ravel(), grad.ravel(), x_grad.ravel()
    area, width = grad.shape[1] * grad.shape[2], grad.shape[2]
    y_grad = np.empty(area, np.float32)
    for plane in range(start, end):
        if len(constants):
            constant = constants[plane % len(constants)]
            _norm_gradient(y[plane].ravel(), grad[plane].ravel(), constant, y_grad, activation)
            for row in range(grad.shape[1]):
                _copy(y_grad, row * width, 1, padded, size + row * length, width)
        else:
            for row in range(grad.shape[1]):
                _copy(flat_grad, plane * area + row * width, 1, padded, size + row * length, width)
        _deal(flat_x, plane * x.shape[1] * x.shape[2], dealt, runs, stride[1])
        _dots(padded, size, count, dealt, offsets, taps_grad, plane)
        for one in range(phases):
            found = 0
            for tap in range(len(offsets)):
                if one * size <= offsets[tap] < (one + 1) * size:
                    at[found] = size - (offsets[tap] - one * size)
                    factors[found] = taps[plane % len(taps), tap]
                    found += 1
            _fill(dealt_grad, 0, len(dealt_grad))
            _add_shifted(padded, at, factors, found, dealt_grad)
            _copy(dealt_grad, 0, 1, collected, one * size, size)
        _collect(collected, flat_x_grad, plane * x.shape[1] * x.shape[2], x.shape[1] * x.shape[2], runs, stride[1])
