"""Parameters and multiply-adds of a network, counted from one forward pass."""

from __future__ import annotations

from typing import NamedTuple

import paddle
from paddle import nn

from ppcls_ext.models.hooks import run_hooked
from ppcls_ext.models.norms import BATCH_NORMS

# What `count` counts, in words: reports quote it next to every figure.
RULE = (
    "params: elements of trainable parameters (running statistics of batch norm are not parameters); "
    "FLOPs: multiply-adds of convolutions and linear layers without biases, plus 2 per element of a batch-norm output"
)

CONVS = (nn.Conv1D, nn.Conv2D)
COUNTED = (*CONVS, nn.Conv2DTranspose, nn.Linear, *BATCH_NORMS)


class Count(NamedTuple):
    """What `count` gives, by `RULE`."""

    params: int
    flops: int


def count_params(model: nn.Layer) -> int:
    """Elements of all trainable parameters, as an exact integer."""
    return sum(int(p.size) for p in model.parameters() if not p.stop_gradient)


def count(model: nn.Layer, *inputs: paddle.Tensor) -> Count:
    """Count `model` on `inputs` by `RULE`. The model's mode, statistics and hooks are left as they were.

    FLOPs are those of one forward pass over the whole batch given.
    """
    flops = 0

    def after(layer: nn.Layer, inputs: tuple[paddle.Tensor, ...], output: paddle.Tensor) -> None:
        nonlocal flops
        out = int(output.size)
        if isinstance(layer, nn.Conv2DTranspose):
            # Each input element is multiplied by its channel's kernels; few outputs lie under all of them.
            flops += int(inputs[0].size) * int(layer.weight.size) // layer._in_channels
        elif isinstance(layer, CONVS):
            flops += out * int(layer.weight.size) // layer._out_channels
        elif isinstance(layer, nn.Linear):
            flops += out * int(layer.weight.shape[0])
        else:
            flops += 2 * out

    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    hooks = [layer.register_forward_post_hook(after) for layer, _ in modes if isinstance(layer, COUNTED)]
    model.eval()
    try:
        run_hooked(model, inputs, hooks)
    finally:
        for layer, training in modes:
            layer.training = training
    return Count(count_params(model), flops)
