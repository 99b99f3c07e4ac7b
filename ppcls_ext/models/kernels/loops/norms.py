"""Biases, activations, and batch norms with the activation after them, on planes [N x C, H x W]."""

from __future__ import annotations

import numpy as np

from ppcls_ext.models.kernels.loops.compiling import Compiled

# mypy: disable-error-code="no-untyped-def"
# Numba finds the types below: float32 arrays and int64.

# Activations that follow a norm.
NO_ACTIVATION, HARDSWISH, RELU = 0, 1, 2


@Compiled
def add_bias(start, end, x, bias, out):
    """Planes [N x C, H x W] plus a number for each channel."""
    for plane in range(start, end):
        for i in range(x.shape[1]):
            out[plane, i] = x[plane, i] + bias[plane % len(bias)]


@Compiled
def sum_planes(start, end, x, sums):
    """The sum of each plane."""
    for plane in range(start, end):
        total = np.float32(0)
        for i in range(x.shape[1]):
            total += x[plane, i]
        sums[plane] = total


@Compiled
def activated(z, activation):
    """One number after the activation."""
    if activation == HARDSWISH:
        return z * min(max(z + np.float32(3), np.float32(0)), np.float32(6)) * np.float32(1 / 6)
    if activation == RELU:
        return max(z, np.float32(0))
    return z


@Compiled
def slope_of(z, activation):
    """The activation's slope at one number."""
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


@Compiled
def hardswish(start, end, x, out):
    """H-Swish of numbers."""
    for i in range(start, end):
        out[i] = activated(x[i], HARDSWISH)


@Compiled
def hardswish_backward(start, end, x, grad, x_grad):
    """The gradient of `hardswish`."""
    for i in range(start, end):
        x_grad[i] = grad[i] * slope_of(x[i], HARDSWISH)


# Batch norm and the activation after it


@Compiled
def moments_of(y, moments):
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


@Compiled
def plane_moments(start, end, y, moments):
    """`moments` float32 [planes, 2]: see `moments_of`."""
    for plane in range(start, end):
        moments_of(y[plane], moments[plane])


@Compiled
def normalise_plane(y, factor, summand, out, activation):
    """Scaled, shifted, activated numbers of one channel."""
    if activation == HARDSWISH:
        for i in range(len(y)):
            out[i] = activated(factor * y[i] + summand, HARDSWISH)
    elif activation == RELU:
        for i in range(len(y)):
            out[i] = activated(factor * y[i] + summand, RELU)
    else:
        for i in range(len(y)):
            out[i] = factor * y[i] + summand


@Compiled
def normalise(start, end, y, scale, shift, out, activation):
    """Scaled, shifted, activated planes; `scale` and `shift` are of each channel."""
    for plane in range(start, end):
        channel = plane % len(scale)
        normalise_plane(y[plane], scale[channel], shift[channel], out[plane], activation)


@Compiled
def normalise_sums(start, end, y, grad, scale, shift, mean, sums, activation):
    """`sums` float32 [planes, 2]: the gradient before the activation, and that times the distance from the mean."""
    for plane in range(start, end):
        channel = plane % len(scale)
        factor, summand, middle = scale[channel], shift[channel], mean[channel]
        of_plane, grad_plane = y[plane], grad[plane]
        total, product = np.float32(0), np.float32(0)
        if activation == HARDSWISH:
            for i in range(len(of_plane)):
                d = grad_plane[i] * slope_of(factor * of_plane[i] + summand, HARDSWISH)
                total += d
                product += d * (of_plane[i] - middle)
        else:
            for i in range(len(of_plane)):
                d = grad_plane[i] * slope_of(factor * of_plane[i] + summand, activation)
                total += d
                product += d * (of_plane[i] - middle)
        sums[plane, 0] = total
        sums[plane, 1] = product


@Compiled
def norm_gradient(y, grad, constants, out, activation):
    """The gradient of a plane before the norm; the four constants are those of its channel."""
    factor, summand, fixed, slanted = constants[0], constants[1], constants[2], constants[3]
    if activation == HARDSWISH:
        for i in range(len(y)):
            d = grad[i] * slope_of(factor * y[i] + summand, HARDSWISH)
            out[i] = factor * d + (fixed + slanted * y[i])
    else:
        for i in range(len(y)):
            d = grad[i] * slope_of(factor * y[i] + summand, activation)
            out[i] = factor * d + (fixed + slanted * y[i])


@Compiled
def normalise_backward(start, end, y, grad, constants, y_grad, activation):
    """The gradient of planes before the norm.

    `constants` float32 [channels, 4]: scale and shift of the norm, then by what every gradient of the channel is
    shifted, and that times the value, since mean and deviation follow from the values too.
    """
    for plane in range(start, end):
        norm_gradient(y[plane], grad[plane], constants[plane % len(constants)], y_grad[plane], activation)


# Numbers of channels


@Compiled
def statistics_of_batch(moments, count, area, momentum, running_mean, running_variance, mean, variance):
    """Mean and variance of each channel of a batch; the running ones move towards them.

    Args:
        moments: float32 [count x channels, 2] of the planes: see `moments_of`.
        mean, variance: float64 [channels], filled.
    """
    channels = len(mean)
    keep, take = np.float32(momentum), np.float32(1 - momentum)
    for channel in range(channels):
        total = 0.0
        for image in range(count):
            total += moments[image * channels + channel, 0]
        middle = total / count
        squares = 0.0
        for image in range(count):
            distance = moments[image * channels + channel, 0] - middle
            squares += moments[image * channels + channel, 1] / area + distance * distance
        mean[channel], variance[channel] = middle, squares / count
        running_mean[channel] = running_mean[channel] * keep + np.float32(middle) * take
        running_variance[channel] = running_variance[channel] * keep + np.float32(squares / count) * take


@Compiled
def factors_of_norm(mean, variance, epsilon, weight, bias, of_channel):
    """`of_channel` float32 [4, channels]: mean, 1 / deviation, scale and shift of the norm."""
    for channel in range(len(mean)):
        inverse = 1 / np.sqrt(variance[channel] + epsilon)
        factor = weight[channel] * inverse
        of_channel[0, channel] = mean[channel]
        of_channel[1, channel] = inverse
        of_channel[2, channel] = factor
        of_channel[3, channel] = bias[channel] - mean[channel] * factor


@Compiled
def gradients_of_norm(sums, count, of_channel, share, constants, weight_grad, bias_grad):
    """Gradients of a norm's weight and bias, and the `constants` of `normalise_backward`.

    Args:
        sums: see `normalise_sums`; of `count` images.
        of_channel: see `factors_of_norm`.
        share: 1 / values of a channel; 0 where mean and deviation do not follow from the values.
    """
    channels = len(constants)
    for channel in range(channels):
        total = product = 0.0
        for image in range(count):
            total += sums[image * channels + channel, 0]
            product += sums[image * channels + channel, 1]
        mean, inverse = np.float64(of_channel[0, channel]), np.float64(of_channel[1, channel])
        scale = np.float64(of_channel[2, channel])
        product *= inverse
        slanted = -share * scale * inverse * product
        constants[channel, 0] = scale
        constants[channel, 1] = of_channel[3, channel]
        constants[channel, 2] = -share * scale * total - slanted * mean
        constants[channel, 3] = slanted
        weight_grad[channel], bias_grad[channel] = product, total


@Compiled
def add_up(parts, out):
    """The sum of float32 [parts, n] over the parts, in their order."""
    out[:] = parts[0]
    for part in range(1, len(parts)):
        of_part = parts[part]
        for i in range(len(out)):
            out[i] += of_part[i]
