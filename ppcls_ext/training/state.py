"""Training state on disk: everything that an exact resume needs, in one `.safetensors` file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import safetensors.numpy
from paddle import nn
from paddle.base import unique_name

from ppcls_ext.core.config import LATEST_STATE
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write
from ppcls_ext.models.weights import Weights, read_safetensors
from ppcls_ext.upstream.paddle import restore_state


def find_state(path: str) -> Path:
    """The training state that `Global.checkpoints` names: a run folder, or the file with or without its ending.

    Raises:
        UserError: there is none.
    """
    given = Path(path)
    if given.is_dir():
        given = given / LATEST_STATE
    if given.suffix != ".safetensors":
        given = Path(f"{given}.safetensors")
    if not given.is_file():
        raise UserError(f"Global.checkpoints {path}: no training state there (expected {given})")
    return given


def read_state(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Read what `save_state` wrote: tensors by name, and `info`.

    Raises:
        UserError: a missing or damaged file.
    """
    tensors, metadata = read_safetensors(path, "training state")
    try:
        info = json.loads(metadata.get("info", "{}"))
    except ValueError as error:
        raise UserError(f"training state {path}: damaged ({error})") from error
    return tensors, info


def save_state(path: Path, tensors: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> None:
    """Write a training state (tensors, and JSON-able `info`) as one `.safetensors` file, atomically."""
    arrays = {name: np.ascontiguousarray(t) for name, t in tensors.items()}
    metadata = {"info": json.dumps(info)}
    atomic_write(path, lambda temporary: safetensors.numpy.save_file(arrays, temporary, metadata))


def optimizer_state(model: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> Weights:
    """Accumulators of `optimizer`, keyed by the model's structured names.

    Paddle keys them by parameter names that depend on what else the process has built before, and silently
    ignores those it does not know: under structured names a resume finds every one, or fails.
    """
    structured = {p.name: name for name, p in model.named_parameters()}
    state = {}
    for key, value in optimizer.state_dict().items():
        if isinstance(value, paddle.Tensor):
            owner = max((n for n in structured if key.startswith(n + "_")), key=len)
            # The name ends with a number, which says how many optimizers the process had before.
            accumulator = key[len(owner) + 1 :].rsplit("_", 1)[0]
            state[f"{structured[owner]}/{accumulator}"] = value.numpy()
    return state


def load_optimizer_state(
    model: nn.Layer, optimizer: paddle.optimizer.Optimizer, state: Mapping[str, np.ndarray]
) -> None:
    """Put back what `optimizer_state` gave. Learning-rate schedulers are left alone.

    Raises:
        UserError: the state is of another network.
    """
    own = dict(model.named_parameters())
    made = {key.rsplit("_", 1)[0]: key for key, v in optimizer.state_dict().items() if isinstance(v, paddle.Tensor)}
    renamed = {}
    for key, value in state.items():
        name, accumulator = key.rsplit("/", 1)
        if name not in own:
            raise UserError(f"training state: it has an optimizer value for '{name}', which the model does not have")
        # Accumulators are as large as their parameter, or a single number (powers of Adam's betas).
        if value.size != 1 and list(value.shape) != list(own[name].shape):
            raise UserError(
                f"training state: the optimizer value for '{name}' is {list(value.shape)}, "
                f"but the parameter is {list(own[name].shape)}"
            )
        paddle_name = f"{own[name].name}_{accumulator}"
        # An optimizer makes its accumulators, and numbers their names, only at its first step.
        following = f"{paddle_name}_{unique_name.generator.ids[paddle_name]}"
        renamed[made.get(paddle_name, following)] = paddle.to_tensor(value)
    scheduler = optimizer.state_dict().get("LR_Scheduler")
    if scheduler is not None:
        renamed["LR_Scheduler"] = scheduler
    restore_state(optimizer, renamed)
