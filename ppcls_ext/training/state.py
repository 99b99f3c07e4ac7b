"""Training state on disk: everything that an exact resume needs, in one `.safetensors` file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import safetensors.numpy
from paddle import nn
from paddle.base import unique_name

from ppcls_ext.core.config import BEST_WEIGHTS, LATEST_STATE
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_bytes
from ppcls_ext.core.reading import Unreadable, parsed_json
from ppcls_ext.models.weights import Weights, read_safetensors
from ppcls_ext.upstream.paddle import accumulator_names, restore_state

CHECKSUM = "sha256"  # in the metadata; states of earlier versions have none


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
        UserError: a missing or damaged file; one that is not as it was written, where it has a checksum.
    """
    tensors, metadata = read_safetensors(path, "training state")
    text = metadata.get("info", "{}")
    if CHECKSUM in metadata and metadata[CHECKSUM] != _checksum(tensors, text):
        raise UserError(
            f"training state {path}: damaged, its checksum differs; take a copy that is whole, or start anew from the "
            f"run's weights: -o Global.pretrained_model={path.parent / BEST_WEIGHTS}"
        )
    try:
        info = parsed_json(text)
    except Unreadable as error:
        raise UserError(f"training state {path}: damaged ({error})") from error
    if not isinstance(info, dict):
        raise UserError(f"training state {path}: damaged (it says nothing of a run)")
    return tensors, info


def _checksum(tensors: Mapping[str, np.ndarray], info: str) -> str:
    """SHA-256 of names, types, shapes and numbers, and of `info`."""
    digest = hashlib.sha256(info.encode())
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"\0{name}\0{tensor.dtype.str}\0{list(tensors[name].shape)}\0".encode())
        digest.update(tensor.data if tensor.size else b"")
    return digest.hexdigest()


def save_state(path: Path, tensors: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> None:
    """Write a training state (tensors, and JSON-able `info`) as one `.safetensors` file, atomically."""
    arrays = {name: np.ascontiguousarray(t) for name, t in tensors.items()}
    text = json.dumps(info)
    data = safetensors.numpy.save(arrays, {"info": text, CHECKSUM: _checksum(arrays, text)})
    atomic_write_bytes(path, data)


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


def check_optimizer_state(
    model: nn.Layer, optimizer: paddle.optimizer.Optimizer, state: Mapping[str, np.ndarray]
) -> None:
    """Raise UserError where `load_optimizer_state` could not put a state back, or where some of it is missing."""
    own = dict(model.named_parameters())
    found: dict[str, set[str]] = {}
    for key, value in state.items():
        name, _, accumulator = key.rpartition("/")
        if name not in own:
            raise UserError(f"it has an optimizer value for '{name}', which the model does not have")
        # Accumulators are as large as their parameter, or a single number (powers of Adam's betas).
        if value.size != 1 and list(value.shape) != list(own[name].shape):
            raise UserError(
                f"the optimizer value for '{name}' is {list(value.shape)}, but the parameter is {list(own[name].shape)}"
            )
        if value.dtype != np.float32:
            raise UserError(f"the optimizer value for '{name}' is {value.dtype}, expected float32")
        found.setdefault(name, set()).add(accumulator)
    every = set().union(*found.values())
    known = accumulator_names(optimizer)
    for name, accumulators in found.items():
        missing = sorted(every - accumulators) or sorted(known and accumulators - known)
        if missing:
            raise UserError(
                f"the optimizer values {', '.join(missing)} for '{name}' do not fit; it was saved with "
                "another optimizer, or is damaged"
            )


def load_optimizer_state(
    model: nn.Layer, optimizer: paddle.optimizer.Optimizer, state: Mapping[str, np.ndarray]
) -> None:
    """Put back what `optimizer_state` gave. Learning-rate schedulers are left alone.

    Raises:
        UserError: the state is of another network. Nothing is changed then.
    """
    check_optimizer_state(model, optimizer, state)
    own = dict(model.named_parameters())
    made = {key.rsplit("_", 1)[0]: key for key, v in optimizer.state_dict().items() if isinstance(v, paddle.Tensor)}
    renamed = {}
    for key, value in state.items():
        name, accumulator = key.rsplit("/", 1)
        paddle_name = f"{own[name].name}_{accumulator}"
        # An optimizer makes its accumulators, and numbers their names, only at its first step.
        following = f"{paddle_name}_{unique_name.generator.ids[paddle_name]}"
        renamed[made.get(paddle_name, following)] = paddle.to_tensor(value)
    scheduler = optimizer.state_dict().get("LR_Scheduler")
    if scheduler is not None:
        renamed["LR_Scheduler"] = scheduler
    restore_state(optimizer, renamed)
