"""Depthwise convolutions, on planes [N x C, H, W]."""

from __future__ import annotations

import numpy as np

from ppcls_ext.models.kernels.loops.compiling import Compiled
from ppcls_ext.models.kernels.loops.norms import moments_of, norm_gradient
from ppcls_ext.models.kernels.loops.rows import copy, copy_apart, fill

# mypy: disable-error-code="no-untyped-def"
# Numba finds the types below: float32 arrays and int64.


@Compiled
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


@Compiled
def _deal(planes, base, dealt, runs, step):
    """Deal the plane that begins at `base` out by phase; the margins of `dealt` stay."""
    for k in range(len(runs)):
        copy(planes, base + runs[k, 0], step, dealt, runs[k, 1], runs[k, 2])


@Compiled
def _collect(dealt, planes, base, size, runs, step):
    """The opposite of `_deal`; what no tap reads becomes 0."""
    fill(planes, base, size)
    for k in range(len(runs)):
        copy_apart(dealt, runs[k, 1], planes, base + runs[k, 0], step, runs[k, 2])


@Compiled
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


@Compiled
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


@Compiled
def _whole(count):
    return (count + VECTOR - 1) // VECTOR * VECTOR


@Compiled
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
        fill(total, 0, len(total))
        _add_shifted(dealt, offsets, of_channel, len(offsets), total)
        base = plane * out.shape[1] * out.shape[2]
        for row in range(out.shape[1]):
            copy(total, row * length, 1, flat_out, base + row * out.shape[2], out.shape[2])
        if len(moments):
            moments_of(out[plane].ravel(), moments[plane])


@Compiled
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
            norm_gradient(y[plane].ravel(), grad[plane].ravel(), constant, y_grad, activation)
            for row in range(grad.shape[1]):
                copy(y_grad, row * width, 1, padded, size + row * length, width)
        else:
            for row in range(grad.shape[1]):
                copy(flat_grad, plane * area + row * width, 1, padded, size + row * length, width)
        _deal(flat_x, plane * x.shape[1] * x.shape[2], dealt, runs, stride[1])
        _dots(padded, size, count, dealt, offsets, taps_grad, plane)
        for one in range(phases):
            found = 0
            for tap in range(len(offsets)):
                if one * size <= offsets[tap] < (one + 1) * size:
                    at[found] = size - (offsets[tap] - one * size)
                    factors[found] = taps[plane % len(taps), tap]
                    found += 1
            fill(dealt_grad, 0, len(dealt_grad))
            _add_shifted(padded, at, factors, found, dealt_grad)
            copy(dealt_grad, 0, 1, collected, one * size, size)
        _collect(collected, flat_x_grad, plane * x.shape[1] * x.shape[2], x.shape[1] * x.shape[2], runs, stride[1])
