"""A trained network in dygraph: what evaluation, export and prediction start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from ppcls_ext.core.bounds import mapping
from ppcls_ext.core.config import BEST_WEIGHTS, LAST_WEIGHTS, in_run_folder, read_yaml, trained_weights
from ppcls_ext.core.device import set_device
from ppcls_ext.core.display import say
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.seeding import seed_all
from ppcls_ext.tasks.task import Task


def build_with_weights(task: Task, command: str) -> nn.Layer:
    """The network of a config, with the weights that `Global.pretrained_model` names, in eval mode.

    Raises:
        UserError: no weights are named, those of a run folder are not there yet, or they are of another network.
    """
    path = task.global_section.pretrained_model
    file, folder = task.config.path, task.config.path.parent
    if in_run_folder(file) and trained_weights(file) is None and path == _start_of(file):
        raise UserError(
            f"run folder {folder}: no {BEST_WEIGHTS} or {LAST_WEIGHTS} in it yet, so there is nothing to {command}; "
            f"go on with pplcnet train --resume {folder}, or give -o Global.pretrained_model=FILE.pdparams"
        )
    if not path:
        raise UserError(
            f"{command} needs weights: give a run folder (-c output/NAME) or -o Global.pretrained_model=FILE.pdparams"
        )
    set_device(task.global_section.device)
    seed_all(task.global_section.seed)
    model = task.build_model()
    for note in task.load_trained(model, path):
        say(note)
    model.eval()
    return model


def _start_of(file: Path) -> str | None:
    """The weights that the run of a run folder's config started from."""
    start: str | None = mapping(read_yaml(file).get("Global"), "Global").get("pretrained_model")
    return start


def dygraph_outputs(model: nn.Layer, inputs: Sequence[Any]) -> list[Any]:
    """Outputs of `model` as arrays for arrays."""
    with paddle.no_grad():
        outputs = model(*(paddle.to_tensor(array) for array in inputs))
    return [t.numpy() for t in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]
