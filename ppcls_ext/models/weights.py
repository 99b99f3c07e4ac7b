"""Weights on disk: written atomically, read without executing what a file holds, and loaded into networks."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from paddle import nn

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write
from ppcls_ext.models.spec import BLOCKS, SCALES, LCNetSpec

Weights = dict[str, np.ndarray]

# The only things that the pickle of a .pdparams file may name: what NumPy needs to rebuild an array.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return super().find_class(module, name)


def numpy_state(model: nn.Layer) -> Weights:
    """Parameters and buffers by their structured name."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def save_weights(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Write `path` (.pdparams) in the format of `paddle.save`, which PaddleClas and Paddle read too."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            pickle.dump({name: np.ascontiguousarray(w) for name, w in weights.items()}, file, protocol=4)

    atomic_write(path, write)


def find_weights(path: Path | str) -> Path:
    """The weights file that `path` names, with or without its ending.

    Raises:
        UserError: there is no such file.
    """
    path = Path(path)
    for candidate in (path, Path(f"{path}.pdparams"), Path(f"{path}.safetensors")):
        if candidate.is_file():
            return candidate
    raise UserError(f"weights {path}: no such file (nor with .pdparams or .safetensors at its end)")


def read_weights(path: Path | str) -> Weights:
    """Read a `.pdparams` file, or the model in a training state (`.safetensors`). Executes nothing of the file.

    Raises:
        UserError: a missing or damaged file, or one that asks to execute code.
    """
    path = find_weights(path)
    if path.suffix == ".safetensors":
        tensors, _ = read_safetensors(path, "weights")
        return {name[len("model/") :]: t for name, t in tensors.items() if name.startswith("model/")} or tensors
    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a hostile or damaged pickle raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"weights {path}: not loaded, {reason}; only plain tensors are read") from error
    if not isinstance(content, Mapping):
        raise UserError(f"weights {path}: holds a {type(content).__name__}, not named tensors")
    weights = {}
    for name, value in content.items():
        if name == "StructuredToParameterName@@":  # a table that paddle.save adds
            continue
        if isinstance(value, tuple) and len(value) == 2:  # (parameter name, array), as older Paddle wrote
            value = value[1]
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc":  # numbers only
            raise UserError(f"weights {path}: '{name}' is not a plain tensor")
        weights[str(name)] = value
    return weights


def describe(weights: Mapping[str, Any]) -> str:
    """What a set of named tensors is, for a message: scale and classes of a PP-LCNet, else its number of tensors."""
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    last = shapes.get("blocks6.1.pw_conv.conv.weight")
    if last is None:
        return f"a network of {len(shapes)} tensors"
    scales = [s for s in SCALES if LCNetSpec(scale=s).width(BLOCKS[-1].width) == last[0]]
    scale = f"PPLCNet {scales[0]}x" if scales else f"PPLCNet with {last[0]} last channels"
    head = shapes.get("fc.weight")
    return f"{scale} with {head[1]} classes" if head else f"{scale} without a head"


def head_names(model: nn.Layer) -> set[str]:
    """Names of the parameters of the last linear layer, which depends on the number of classes."""
    heads = [name for name, layer in model.named_sublayers() if isinstance(layer, nn.Linear)]
    return {f"{heads[-1]}.weight", f"{heads[-1]}.bias"} if heads else set()


def load_into(
    model: nn.Layer,
    weights: Mapping[str, np.ndarray],
    source: Path | str,
    new_head: bool = False,
    head: Collection[str] | None = None,
) -> list[str]:
    """Set every parameter and buffer of `model` from `weights`; all must be there with the same shape.

    Args:
        source: where the weights come from, for messages.
        new_head: the head may differ and then keeps its initial values.
        head: names of the head's parameters; default: those of the last linear layer.
    Returns:
        names left at their initial values (of the head; empty without `new_head`).
    Raises:
        UserError: the weights are of another network. The model is unchanged.
    """
    own = model.state_dict()
    wrong = [n for n in own if n not in weights or tuple(weights[n].shape) != tuple(own[n].shape)]
    extra = [n for n in weights if n not in own]
    head = head_names(model) if head is None else set(head)
    if wrong or extra:
        name = (wrong or extra)[0]
        theirs = list(weights[name].shape) if name in weights else "absent"
        ours = list(own[name].shape) if name in own else "absent"
        what = (
            f"weights {source}: {describe(weights)}, but the model is {describe(own)} "
            f"('{name}': {theirs} in the file, {ours} in the model)"
        )
        if extra or not set(wrong) <= head:
            raise UserError(f"{what}; use the weights of the same network")
        if not new_head:
            raise UserError(f"{what}; to keep the trunk and start a new head: -o Global.new_head=True")
    # Paddle warns of every name that is left out: those keep what they have.
    model.set_state_dict({n: tensor if n in wrong else weights[n] for n, tensor in own.items()})
    return wrong


def load_trunk(backbone: nn.Layer, weights: Mapping[str, np.ndarray], source: Path | str) -> None:
    """Set a headless backbone from classification weights: its own tensors must all be there, the head's are left out.

    Raises:
        UserError: the weights are of another network. The backbone is unchanged.
    """
    own = backbone.state_dict()
    load_into(backbone, {n: w for n, w in weights.items() if n in own} or dict(weights), source)


def read_safetensors(path: Path, what: str) -> tuple[Weights, dict[str, str]]:
    """The tensors and the metadata of a `.safetensors` file; `what` it is, for messages.

    Raises:
        UserError: a missing or damaged file.
    """
    if not path.is_file():
        raise UserError(f"{what} {path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{what} {path}: damaged or not a .safetensors file ({error})") from error
