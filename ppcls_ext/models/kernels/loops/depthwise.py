"""Depthwise convolutions, on planes [N x C, H, W]."""

from __future__ import annotations

import numpy as np

from ppcls_ext.models.kernels.loops.compiling import Compiled
from ppcls_ext.models.kernels.loops.norms import moments_of, norm_gradient, normalise_plane
from ppcls_ext.models.kernels.loops.rows import copy, copy_apart, copy_row, fill
from ppcls_ext.models.kernels.loops.vectors import (
    LANES,
    add,
    load,
    load_evens,
    multiply_add,
    splat,
    store,
    store_in_turn,
    total,
    zeros,
)

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
def _deal(planes, base, dealt, runs, stride):
    """Deal the plane that begins at `base` out by phase; the margins of `dealt` stay zeros."""
    step = stride[1]
    if step == 1:
        may_spill = stride[0] == 1  # with more phases, rows are not dealt in the order in which they lie
        for k in range(len(runs)):
            copy_row(planes, base + runs[k, 0], dealt, runs[k, 1], runs[k, 2], may_spill)
        return
    for k in range(len(runs)):
        start, goal, count = base + runs[k, 0], runs[k, 1], runs[k, 2]
        if step == 2 and count >= LANES and start + 2 * count <= len(planes):
            for i in range(0, count, LANES):
                place = min(i, count - LANES)
                store(dealt, goal + place, load_evens(planes, start + 2 * place))
        else:
            copy(planes, start, step, dealt, goal, count)


@Compiled
def _reach(runs, phase, size):
    """From where to where a plane dealt out by phase has elements of the plane in this phase."""
    low, high = (phase + 1) * size, phase * size
    for k in range(len(runs)):
        if phase * size <= runs[k, 1] < (phase + 1) * size:
            low, high = min(low, runs[k, 1]), max(high, runs[k, 1] + runs[k, 2])
    return low, high


@Compiled
def _collect(dealt, planes, base, size, runs, step):
    """The opposite of `_deal`; what no tap reads becomes 0."""
    if step == 1:
        seen = 0
        for k in range(len(runs)):
            seen += runs[k, 2]
        if seen < size:
            fill(planes, base, size)
        for k in range(len(runs)):
            copy_row(dealt, runs[k, 1], planes, base + runs[k, 0], runs[k, 2], False)
        return
    fill(planes, base, size)
    for k in range(0, len(runs) - step + 1, step):
        done = 0
        if step == 2:  # both phases of a row
            even, odd = (k, k + 1) if runs[k, 0] < runs[k + 1, 0] else (k + 1, k)
            pairs = min(runs[even, 2], runs[odd, 2])
            if pairs >= LANES and runs[odd, 0] == runs[even, 0] + 1:
                for i in range(0, pairs, LANES):
                    at = min(i, pairs - LANES)
                    one, other = load(dealt, runs[even, 1] + at), load(dealt, runs[odd, 1] + at)
                    store_in_turn(planes, base + runs[even, 0] + 2 * at, one, other)
                done = pairs
        for n in range(step):
            start, goal, count = runs[k + n, 1] + done, runs[k + n, 0] + step * done, runs[k + n, 2] - done
            copy_apart(dealt, start, planes, base + goal, step, count)


@Compiled
def _sum_shifted(source, at, factors, count, out, to, size):
    """out[to + i] = sum over k < count of factors[k] * source[at[k] + i], for i < `size`, rounded up to `BLOCK`."""
    for i in range(0, size, BLOCK):
        a, b, c, d = zeros(), zeros(), zeros(), zeros()
        for k in range(count):
            factor, place = splat(factors[k]), at[k] + i
            a = multiply_add(factor, load(source, place), a)
            b = multiply_add(factor, load(source, place + LANES), b)
            c = multiply_add(factor, load(source, place + 2 * LANES), c)
            d = multiply_add(factor, load(source, place + 3 * LANES), d)
        store(out, to + i, a)
        store(out, to + i + LANES, b)
        store(out, to + i + 2 * LANES, c)
        store(out, to + i + 3 * LANES, d)


@Compiled
def _dots(padded, start, count, source, offsets, out, plane):
    """out[plane, k] = sum over i < count of padded[start + i] * source[offsets[k] + i].

    `count` is rounded up to `BLOCK`. Five or three taps at a time share what they read.
    """
    k = 0
    while k < len(offsets):
        left = len(offsets) - k
        if left % 5 == 0:
            s0, s1, s2, s3, s4 = offsets[k], offsets[k + 1], offsets[k + 2], offsets[k + 3], offsets[k + 4]
            a, b, c, d, e = zeros(), zeros(), zeros(), zeros(), zeros()
            for i in range(0, count, LANES):
                g = load(padded, start + i)
                a = multiply_add(g, load(source, s0 + i), a)
                b = multiply_add(g, load(source, s1 + i), b)
                c = multiply_add(g, load(source, s2 + i), c)
                d = multiply_add(g, load(source, s3 + i), d)
                e = multiply_add(g, load(source, s4 + i), e)
            out[plane, k], out[plane, k + 1], out[plane, k + 2] = total(a), total(b), total(c)
            out[plane, k + 3], out[plane, k + 4] = total(d), total(e)
            k += 5
        elif left >= 3:
            s0, s1, s2 = offsets[k], offsets[k + 1], offsets[k + 2]
            a, b, c, d, e, f = zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
            for i in range(0, count, 2 * LANES):
                g, h = load(padded, start + i), load(padded, start + i + LANES)
                a = multiply_add(g, load(source, s0 + i), a)
                b = multiply_add(g, load(source, s1 + i), b)
                c = multiply_add(g, load(source, s2 + i), c)
                d = multiply_add(h, load(source, s0 + i + LANES), d)
                e = multiply_add(h, load(source, s1 + i + LANES), e)
                f = multiply_add(h, load(source, s2 + i + LANES), f)
            out[plane, k], out[plane, k + 1], out[plane, k + 2] = total(add(a, d)), total(add(b, e)), total(add(c, f))
            k += 3
        else:
            s0 = offsets[k]
            a = zeros()
            for i in range(0, count, LANES):
                a = multiply_add(load(padded, start + i), load(source, s0 + i), a)
            out[plane, k] = total(a)
            k += 1


BLOCK = 4 * LANES  # numbers that one turn of these loops takes


@Compiled
def _whole(count):
    return (count + BLOCK - 1) // BLOCK * BLOCK


@Compiled
def convolve(start, end, x, taps, out, offsets, stride, padding, phase, moments):
    """A depthwise convolution; with moments of the planes of `out`, where there is room for them."""
    length = phase[1]
    runs = _runs(x.shape[1], x.shape[2], stride, padding, phase)
    # Longer than needed: offsets reach a row beyond, and what is computed is rounded up to whole vectors.
    dealt = np.zeros((stride[0] * stride[1] * phase[0] + 1) * length + BLOCK, np.float32)
    sums = np.empty(_whole(out.shape[1] * length), np.float32)
    flat_x, flat_out = x.ravel(), out.ravel()
    of_channel = np.empty(len(offsets), np.float32)
    for plane in range(start, end):
        _deal(flat_x, plane * x.shape[1] * x.shape[2], dealt, runs, stride)
        of_channel[:] = taps[plane % len(taps)]
        _sum_shifted(dealt, offsets, of_channel, len(offsets), sums, 0, out.shape[1] * length)
        base = plane * out.shape[1] * out.shape[2]
        for row in range(out.shape[1]):
            copy_row(sums, row * length, flat_out, base + row * out.shape[2], out.shape[2], False)
        if len(moments):
            moments_of(out[plane].ravel(), moments[plane])


@Compiled
def convolve_backward(
    start,
    end,
    x,
    taps,
    y,
    grad,
    constants,
    x_grad,
    taps_grad,
    activation,
    offsets,
    stride,
    padding,
    phase,
    factors,
    x_activation,
):
    """Gradients of a depthwise convolution and of the norm and activation after it.

    Args:
        y: what the convolution gave; `grad` is the gradient after norm and activation.
        constants: as for `normalise_backward`; empty where there is no norm: then y is not read.
        taps_grad: of each plane.
        factors, x_activation: as for `dense_backward`.
    """
    length, phases = phase[1], stride[0] * stride[1]
    size = phase[0] * length
    runs = _runs(x.shape[1], x.shape[2], stride, padding, phase)
    dealt = np.zeros(phases * size + length + BLOCK, np.float32)
    dealt_grad = np.empty(phases * size + length + BLOCK, np.float32)
    # The gradient of the output in rows as long as those of a phase; zeros before it, after it and between the rows.
    count = _whole(grad.shape[1] * length)
    padded = np.zeros(2 * size + grad.shape[1] * length + 2 * BLOCK, np.float32)
    at, of_taps = np.empty(len(offsets), np.int64), np.empty(len(offsets), np.float32)
    flat_x, flat_grad, flat_x_grad = x.ravel(), grad.ravel(), x_grad.ravel()
    area, width = grad.shape[1] * grad.shape[2], grad.shape[2]
    y_grad = np.empty(area, np.float32)
    normal = np.empty(x.shape[1] * x.shape[2] if len(factors) else 0, np.float32)
    reaches = [_reach(runs, one, size) for one in range(phases)]
    for plane in range(start, end):
        if len(constants):
            constant = constants[plane % len(constants)]
            norm_gradient(y[plane].ravel(), grad[plane].ravel(), constant, y_grad, activation)
            for row in range(grad.shape[1]):
                copy_row(y_grad, row * width, padded, size + row * length, width, True)
        else:
            for row in range(grad.shape[1]):
                copy_row(flat_grad, plane * area + row * width, padded, size + row * length, width, True)
        if len(factors):
            channel = plane % len(factors)
            normalise_plane(x[plane].ravel(), factors[channel, 0], factors[channel, 1], normal, x_activation)
            _deal(normal, 0, dealt, runs, stride)
        else:
            _deal(flat_x, plane * x.shape[1] * x.shape[2], dealt, runs, stride)
        _dots(padded, size, count, dealt, offsets, taps_grad, plane)
        for one in range(phases):
            found = 0
            low, high = reaches[one]
            for tap in range(len(offsets)):
                if one * size <= offsets[tap] < (one + 1) * size:
                    at[found] = size - offsets[tap] + low
                    of_taps[found] = taps[plane % len(taps), tap]
                    found += 1
            _sum_shifted(padded, at, of_taps, found, dealt_grad, low, high - low)
        _collect(dealt_grad, flat_x_grad, plane * x.shape[1] * x.shape[2], x.shape[1] * x.shape[2], runs, stride[1])
