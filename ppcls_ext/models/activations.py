"""Activations like a trained network's, for timing networks that were not trained.

Without training, batch norms leave their input as it is, and from layer to layer activations shrink by powers of ten
(PP-LCNet's logits are 1e-5 with the initial statistics, 1e-9 with SE in every block). Sums of such numbers become
denormal, which processors handle up to a hundred times slower, and dead units make work vanish: both falsify timings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from ppcls_ext.core.errors import CheckFailed
from ppcls_ext.models.hooks import run_hooked
from ppcls_ext.models.norms import batch_norms

LEAST_NORMAL = np.float32(2.0**-126).view(np.uint32)  # bits below these, without the sign, are a denormal float32

# Bounds of the check. A layer's output has a root mean square near 1 behind a batch norm, and within two powers of
# ten of it elsewhere; of a ReLU's outputs half are zero.
LEAST_RMS, LARGEST_RMS = 1e-2, 1e2
MOST_ZEROS = 0.9
MOST_DENORMALS = 1e-4
# A layer with fewer outputs (a squeeze of SE has as few as 2 an image) may give only zeros by chance, without harm.
LEAST_OUTPUTS = 1000


class Activations(NamedTuple):
    """What the outputs of a layer are like; `rms` is nan where one of them is not finite."""

    layer: str
    zeros: float  # share
    denormals: float  # share
    rms: float

    def problem(self) -> str | None:
        """What is wrong with them for timing, or None."""
        if not LEAST_RMS <= self.rms <= LARGEST_RMS:
            return f"{self.layer}: root mean square {self.rms:.1e}, not in {LEAST_RMS:g} to {LARGEST_RMS:g}"
        if self.zeros > MOST_ZEROS:
            return f"{self.layer}: {self.zeros:.1%} of the outputs are zero, more than {MOST_ZEROS:.0%}"
        if self.denormals > MOST_DENORMALS:
            return f"{self.layer}: {self.denormals:.2%} of the outputs are denormal, more than {MOST_DENORMALS:.2%}"
        return None


class Summary(NamedTuple):
    """The extremes over all layers looked at."""

    layers: int
    most_zeros: float
    most_denormals: float
    least_rms: float
    largest_rms: float


def measure_activations(model: nn.Layer, *inputs: paddle.Tensor) -> list[Activations]:
    """Look at the outputs of every layer without sublayers in one forward pass, where it has `LEAST_OUTPUTS`.

    `model` is run in the mode it is in.
    """
    found: list[Activations] = []
    hooks = []

    def look_at(name: str) -> None:
        def after(layer: nn.Layer, _: object, output: object) -> None:
            if isinstance(output, paddle.Tensor) and output.size >= LEAST_OUTPUTS and output.is_floating_point():
                found.append(_describe(name, output))

        hooks.append(layers[name].register_forward_post_hook(after))

    layers = {name: layer for name, layer in model.named_sublayers() if not list(layer.children())}
    for name in layers:
        look_at(name)
    run_hooked(model, inputs, hooks)
    return found


def _describe(name: str, output: paddle.Tensor) -> Activations:
    # Magnitudes as integers: Paddle lets the processor take denormal operands for zero, in comparisons too.
    bits = output.astype("float32").numpy().view(np.uint32) & 0x7FFFFFFF
    zeros, tiny = float((bits == 0).mean()), float((bits < LEAST_NORMAL).mean())
    squares = np.square(bits.view(np.float32), dtype=np.float64)
    return Activations(name, zeros, tiny - zeros, float(np.sqrt(squares.mean())))


def check_activations(model: nn.Layer, *inputs: paddle.Tensor) -> Summary:
    """Is `model` fit for timing? `inputs` are realistic ones.

    Raises:
        CheckFailed: a layer's outputs are dead, denormal or far from unit scale; the text names the first.
    """
    layers = measure_activations(model, *inputs)
    problems = [problem for layer in layers if (problem := layer.problem()) is not None]
    if problems:
        raise CheckFailed(f"not fit for timing: {problems[0]} ({len(problems)} of {len(layers)} layers are like this)")
    return Summary(
        len(layers),
        max(layer.zeros for layer in layers),
        max(layer.denormals for layer in layers),
        min(layer.rms for layer in layers),
        max(layer.rms for layer in layers),
    )


def give_realistic_statistics(model: nn.Layer, *inputs: paddle.Tensor) -> Summary:
    """Set the running statistics of every batch norm to those of its input in one forward pass, and check the result.

    Only batch norms are in training mode during the pass: each normalises by the statistics that it keeps, so what
    follows sees unit scale too. The model's mode is left as it was.

    Args:
        inputs: realistic ones, of a batch of several.
    Raises:
        CheckFailed: see `check_activations`.
    """
    norms = batch_norms(model)
    before = [(norm.training, norm._momentum) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm._momentum = True, 0.0  # momentum is the share of the old statistics
        with paddle.no_grad():
            model(*inputs)
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.training, norm._momentum = training, momentum
    return check_activations(model, *inputs)
