"""Fold what only training needs: parallel branches into one convolution, batch norms into the one before them."""

from __future__ import annotations

import paddle
from paddle import nn

from ppcls_ext.models.hooks import run_hooked
from ppcls_ext.models.layers import BranchedConv
from ppcls_ext.models.norms import BATCH_NORMS
from ppcls_ext.upstream.paddleclas import merge_branches


def fold_branches(model: nn.Layer) -> int:
    """Replace, in place, every convolution that has branches by the one that computes the same; gives how many.

    `model` must be in eval mode: in training the branches normalise each batch by themselves.
    """
    folded = 0
    for parent in model.sublayers(include_self=True):
        for name, child in parent.named_children():
            if isinstance(child, BranchedConv):
                parent.add_sublayer(name, child.folded())
                folded += 1
            elif merge_branches(child):
                folded += 1
    return folded


def fold_batch_norm(model: nn.Layer, *inputs: paddle.Tensor) -> int:
    """Fold, in place, every batch norm whose input is a convolution's output in a forward pass; gives how many.

    Works on any network: which norm follows which convolution is seen from the pass itself. `model` must be in
    eval mode. A convolution or norm that is used more than once, or whose output something else reads too, is
    not recognised as such; the parity check of export is what proves the result.
    """
    made_by: dict[int, nn.Conv2D] = {}
    uses: dict[int, int] = {}
    pairs: list[tuple[nn.Layer, nn.Conv2D]] = []
    alive: list[paddle.Tensor] = []  # an id may be given again once its tensor is gone

    def after_conv(layer: nn.Layer, _: object, output: paddle.Tensor) -> None:
        made_by[id(output)] = layer
        uses[id(layer)] = uses.get(id(layer), 0) + 1
        alive.append(output)

    def before_norm(layer: nn.Layer, args: tuple[paddle.Tensor, ...]) -> None:
        uses[id(layer)] = uses.get(id(layer), 0) + 1
        conv = made_by.get(id(args[0]))
        if conv is not None:
            pairs.append((layer, conv))

    hooks = [
        layer.register_forward_post_hook(after_conv)
        if isinstance(layer, nn.Conv2D)
        else layer.register_forward_pre_hook(before_norm)
        for layer in model.sublayers(include_self=True)
        if isinstance(layer, (nn.Conv2D, *BATCH_NORMS))
    ]
    run_hooked(model, inputs, hooks)

    folded: dict[int, nn.Layer] = {}
    for norm, conv in pairs:
        if uses[id(norm)] == 1 and uses[id(conv)] == 1:
            folded[id(norm)] = _fold(conv, norm)
    for parent in model.sublayers(include_self=True):
        for name, child in parent.named_children():
            if id(child) in folded:
                parent.add_sublayer(name, folded[id(child)])
    return len(folded)


def _fold(conv: nn.Conv2D, norm: nn.Layer) -> nn.Layer:
    """Move the norm's affine map into the convolution; gives the layer that takes the norm's place."""
    with paddle.no_grad():
        scale = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)
        shift = norm.bias - norm._mean * scale
        conv.weight.set_value(conv.weight * scale.reshape([-1, 1, 1, 1]))
        if conv.bias is None:
            conv.bias = conv.create_parameter([conv._out_channels], is_bias=True)
            conv.bias.set_value(shift)
        else:
            conv.bias.set_value(conv.bias * scale + shift)
    # PaddleClas's older networks use nn.BatchNorm, which may hold an activation.
    act = getattr(norm, "_act", None)
    return nn.Identity() if act is None else getattr(nn, {"relu": "ReLU", "relu6": "ReLU6", "swish": "Swish"}[act])()
