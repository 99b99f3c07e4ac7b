"""Weights that a detector can start from or run with: its own, PaddleDetection's public ones, and a classifier's.

Everything about names in files of others is here: what PaddleDetection or PaddleClas calls something else than we do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from paddle import nn

from det.backbones import Trunk
from det.network import PicoDet
from det.sections import ArchSection
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.weights import Weights, load_into, load_trunk

OF_TAL, RECIPES = "head.cls_align.", ("gfl", "tal")  # only the head of `tal` has such names
PUBLIC = "public"  # Global.pretrained_model: public means the file that Arch.public_weights names


def find_public(arch: ArchSection) -> str:
    """The public weights of a network: the file of the name in `Arch.public_weights`, in the working directory.

    Raises:
        UserError: the config knows of no public weights, or the file is not there.
    """
    if arch.public_weights is None:
        raise UserError(
            "Global.pretrained_model is 'public', but the config has no Arch.public_weights: give a file, or take one "
            "of the configs det/picodet_*_coco_lcnet"
        )
    name = arch.public_weights.rsplit("/", 1)[-1]
    if not Path(name).is_file():
        raise UserError(f"weights {name}: no such file in this folder; fetch it from {arch.public_weights}")
    return name


def is_detector(weights: Mapping[str, np.ndarray]) -> bool:
    """Whether weights are a detector's, with its head."""
    return any(name.startswith("head.head_cls") for name in weights)


def with_both_names(model: nn.Layer, weights: Mapping[str, np.ndarray]) -> Weights:
    """Weights in which a tensor that the model has under two names has both of them.

    PaddleDetection's PicoHeadV2 calls the last layer of level 0 `head_cls0`, and since September 2022
    `head_cls_list.0` as well (its pull request 7030). The public files are of March 2022, and have the first alone.
    """
    same: dict[int, list[str]] = {}
    for name, tensor in model.state_dict().items():
        same.setdefault(id(tensor), []).append(name)
    complete = dict(weights)
    for names in same.values():
        known = [name for name in names if name in weights]
        for name in names if known else ():
            complete.setdefault(name, weights[known[0]])
    return complete


def load_detector(model: PicoDet, weights: Mapping[str, np.ndarray], path: str, new_head: bool = False) -> list[str]:
    """Set every tensor of a detector; with `new_head` those that depend on the number of classes may differ.

    Returns:
        the names of what keeps its initial values.
    Raises:
        UserError: the weights are of another network. The model is unchanged.
    """
    weights = with_both_names(model, weights)
    own, head = model.state_dict(), model.head_names()
    theirs, ours = (RECIPES[any(name.startswith(OF_TAL) for name in names)] for names in (weights, own))
    if theirs != ours:
        raise UserError(
            f"weights {path}: their head is that of recipe {theirs}, the model has that of {ours}; "
            f"take a config of recipe {theirs}" + (", such as det/picodet_s_320_coco_lcnet" if theirs == "tal" else "")
        )
    differ = {n for n in own if n not in weights or tuple(weights[n].shape) != tuple(own[n].shape)}
    some = min(differ, default="")
    if differ and differ <= head and differ <= set(weights) and weights[some].ndim and not new_head:
        classes: int = model.head.num_classes
        raise UserError(
            f"weights {path}: they are for {classes + len(weights[some]) - own[some].shape[0]} classes, the model has "
            f"{classes}; to keep all but the last layers: -o Global.new_head=True"
        )
    return load_into(model, weights, path, new_head, head)


def from_classifier(backbone: nn.Layer, weights: Mapping[str, np.ndarray]) -> Weights:
    """Classification weights by the names that the backbone has for them.

    PP-LCNet has the same ones. PaddleDetection's MobileNetV3 calls `conv1` and `conv2` to `conv16` what PaddleClas
    calls `conv` and `blocks.0` to `blocks.14`.
    """
    if isinstance(backbone, Trunk):
        return dict(weights)

    def renamed(name: str) -> str:
        name = re.sub(r"^conv\.", "conv1.", name)
        return re.sub(r"^blocks\.(\d{1,4})\.", lambda found: f"conv{int(found[1]) + 2}.", name)

    return {renamed(name): tensor for name, tensor in weights.items()}


def load_classifier(model: PicoDet, weights: Mapping[str, np.ndarray], path: str) -> None:
    """Set the backbone of a detector from a classification network's weights.

    Raises:
        UserError: the weights are of another network. The model is unchanged.
    """
    load_trunk(model.backbone, from_classifier(model.backbone, weights), path)
