"""DeepLabV3+ of PaddleSeg on our backbones, its losses, and which weights fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn
from typing_extensions import override

from ppcls_ext.core.bounds import number
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.operations import read_operations
from ppcls_ext.models.layers import Resize
from ppcls_ext.models.weights import load_into, load_trunk
from ppcls_ext.upstream.paddleseg import paddleseg
from seg.backbones import build_backbone, register_with_paddleseg
from seg.sections import IGNORE, ArchSection

LOW_AND_HIGH = (0, 3)  # the maps that DeepLabV3+ reads: strides 4 and 32
ASPP_CHANNELS = 256  # PaddleSeg's decoder takes no other number
CLASSIFIER = ("head.decoder.conv.weight", "head.decoder.conv.bias")  # their shapes depend on the number of classes

# How far the dilated convolutions of ASPP look to each side, in shares of a training crop's short side. PaddleSeg's
# rates (models/deeplab.py: 6, 12, 18 at output stride 16; 12, 24, 36 at 8) are these for crops of 512 pixels.
ASPP_REACH = (3 / 16, 6 / 16, 9 / 16)

# PaddleSeg's losses for one map of logits that train on current Paddle.
LOSSES = {
    "CrossEntropyLoss": "cross_entropy_loss",
    "OhemCrossEntropyLoss": "ohem_cross_entropy_loss",
    "BootstrappedCrossEntropyLoss": "bootstrapped_cross_entropy",
    "DiceLoss": "dice_loss",
    "LovaszSoftmaxLoss": "lovasz_loss",
}


def aspp_ratios(crop: tuple[int, int], output_stride: int) -> tuple[int, int, int, int]:
    """The dilations of ASPP for training crops of a height and width: 1, 3, 6, 9 for 512x1024 at output stride 32.

    They go with the crop. A tap that lies outside the map of every crop is never trained; on larger images it falls
    inside, and adds noise of its initial weights to the result.
    """
    side = min(crop) / output_stride
    first, second, third = (max(1, round(side * reach)) for reach in ASPP_REACH)
    return 1, first, second, third


class DeepLabV3P(nn.Layer):
    """The parts of PaddleSeg's network by their names, with layers that resize, which may have another kernel."""

    def __init__(self, network: nn.Layer) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.head
        self.resize = Resize(network.align_corners)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """A list of the logits, float32 [N, classes, H, W]."""
        maps, decoder = self.backbone(x), self.head.decoder
        fine, coarse = (maps[index] for index in self.head.backbone_indices)
        fine = decoder.conv_bn_relu1(fine)
        coarse = self.resize(self.head.aspp(coarse), _size(fine))
        logits = decoder.conv(decoder.conv_bn_relu3(decoder.conv_bn_relu2(paddle.concat([coarse, fine], axis=1))))
        return [self.resize(logits, _size(x))]


def _size(x: paddle.Tensor) -> list[int] | paddle.Tensor:
    """Height and width; a tensor where a graph for any size is traced."""
    return list(x.shape[2:]) if paddle.in_dynamic_mode() else paddle.shape(x)[2:]


def build_network(arch: ArchSection, class_num: int, ratios: Sequence[int]) -> nn.Layer:
    """Build the network of an `Arch` section, with these dilations in its ASPP.

    Shapes: float32 [N, 3, H, W], RGB, normalised, to a list of one float32 [N, class_num, H, W] of logits.
    Raises:
        UserError: an unknown backbone, or a value that it refuses.
    """
    register_with_paddleseg()
    backbone = build_backbone(arch.backbone, arch.output_stride)
    network = paddleseg("models").DeepLabV3P(
        class_num,
        backbone,
        backbone_indices=LOW_AND_HIGH,
        aspp_ratios=ratios,
        aspp_out_channels=ASPP_CHANNELS,
        align_corners=arch.align_corners,
    )
    return DeepLabV3P(network)


def is_whole(weights: Mapping[str, np.ndarray]) -> bool:
    """Whether weights are a segmentation network's, with its head."""
    return CLASSIFIER[0] in weights


def load_whole(model: nn.Layer, weights: Mapping[str, np.ndarray], path: str, new_head: bool) -> list[str]:
    """Load a network that `is_whole`; with `new_head` its last convolution may have other classes.

    Returns:
        the names of what keeps its initial values.
    Raises:
        UserError: the weights are of another network.
    """
    own = model.state_dict()[CLASSIFIER[0]].shape[0]
    theirs = weights[CLASSIFIER[0]].shape[0] if weights[CLASSIFIER[0]].ndim else own  # else `load_into` refuses it
    if theirs != own and not new_head:
        raise UserError(
            f"weights {path}: they are for {theirs} classes, the model has {own}; "
            "to keep all but the last layer: -o Global.new_head=True"
        )
    return load_into(model, weights, path, new_head, CLASSIFIER)


def load_backbone(model: nn.Layer, weights: Mapping[str, np.ndarray], path: str) -> None:
    """Load the backbone from a classification network's weights, or from a network that has one as `backbone`.

    Raises:
        UserError: the weights are of another backbone.
    """
    prefix = "backbone."
    inside = {name[len(prefix) :]: w for name, w in weights.items() if name.startswith(prefix)}
    load_trunk(model.backbone, inside or weights, path)


Loss = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]


def build_losses(section: Any, where: str) -> list[tuple[str, float, Loss]]:
    """The losses of a `Loss` list: name, coefficient, function of logits [N, C, H, W] and labels int64 [N, H, W].

    `coef` is the coefficient; other keys are those of PaddleSeg's class.
    Raises:
        UserError: an unknown loss or key, or an empty list.
    """
    known = {name: getattr(paddleseg(f"models.losses.{module}"), name) for name, module in LOSSES.items()}
    losses = []
    for operation in read_operations(section, where):
        coefficient = number(operation.arguments.pop("coef", 1.0), f"{operation.where}.coef", 0, 1e4)
        loss = operation.build(known, "loss", {"ignore_index": IGNORE})
        losses.append((operation.name, float(coefficient), loss))
    if not losses:
        raise UserError(f"{where}: give at least one loss, such as '- CrossEntropyLoss: {{coef: 1.0}}'")
    return losses


class ExportedLogits(nn.Layer):
    """An exported model as a network: float32 [N, 3, H, W] to a list of logits float32 [N, classes, H, W].

    A class map counts as certain: a logit of 1 for its class, 0 for all others.
    """

    def __init__(self, model: nn.Layer, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    @override
    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        (output,) = self.model(x)
        if output.ndim == 4:
            return [output]
        return [nn.functional.one_hot(output.astype("int64"), self.classes).transpose([0, 3, 1, 2])]
