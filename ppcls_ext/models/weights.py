"""Weights on disk: written atomically, read without executing what a file holds, and loaded into networks."""

from __future__ import annotations

import json
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import safetensors
from paddle import nn

from ppcls_ext.core.display import say
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write
from ppcls_ext.models.pickles import Refused, read_pickle
from ppcls_ext.models.spec import BLOCKS, SCALES, LCNetSpec

Weights = dict[str, np.ndarray]

# Types in .safetensors files; bfloat16, which NumPy has not, is read as its bits.
_SAFETENSORS = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
}


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

    Numbers with fractions become float32; where they were not, a line says so.
    Raises:
        UserError: a missing or damaged file, or one that asks to execute code.
    """
    path = find_weights(path)
    if path.suffix == ".safetensors":
        tensors, _ = read_safetensors(path, "weights")
        model = {name[len("model/") :]: t for name, t in tensors.items() if name.startswith("model/")}
        return _as_float32(model or tensors, (), f"weights {path}")
    try:
        content = read_pickle(path)
    except Refused as error:
        raise UserError(f"weights {path}: not loaded, {error}; only plain tensors are read") from error
    except OSError as error:
        raise UserError(f"weights {path}: cannot be read ({error.strerror or error})") from error
    if not isinstance(content, Mapping):
        raise UserError(f"weights {path}: holds a {type(content).__name__}, not named tensors")
    weights, bfloat16 = {}, []
    for name, value in content.items():
        if name == "StructuredToParameterName@@":  # a table that paddle.save adds
            continue
        if isinstance(value, tuple) and len(value) == 2:  # (parameter name, array), as older Paddle wrote
            value = value[1]
        if not isinstance(value, np.ndarray):
            raise UserError(f"weights {path}: '{name[:100]}' is not a plain tensor")
        weights[name] = value
        if value.dtype == np.uint16:  # what Paddle saves bfloat16 as; it has no uint16 of its own
            bfloat16.append(name)
    return _as_float32(weights, bfloat16, f"weights {path}")


def _as_float32(weights: Weights, bfloat16: Collection[str], what: str) -> Weights:
    """Tensors of float16, float64 and of bits of bfloat16 as float32, with a line about it; others as they are.

    Raises:
        UserError: a number that float32 does not reach to.
    """
    cast: Weights = {}
    kinds = set()
    for name, value in weights.items():
        if name in bfloat16:
            cast[name] = (value.astype(np.uint32) << 16).view(np.float32)
            kinds.add("bfloat16")
        elif value.dtype.kind == "f" and value.dtype != np.float32:
            with np.errstate(over="ignore"):
                cast[name] = value.astype(np.float32)
            if not np.array_equal(np.isfinite(cast[name]), np.isfinite(value)):
                raise UserError(f"{what}: '{name[:100]}' has numbers beyond float32, which the networks compute in")
            if value.dtype.name != "float32":  # it may be one of the other byte order
                kinds.add(value.dtype.name)
    if kinds:
        say(f"{what}: {len(cast)} tensors of {' and '.join(sorted(kinds))} are read as float32")
    return {**weights, **cast}


def describe(weights: Mapping[str, Any]) -> str:
    """What a set of named tensors is, for a message: scale and classes of a PP-LCNet, else its number of tensors."""
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    last = shapes.get("blocks6.1.pw_conv.conv.weight")
    if not last:
        return f"a network of {len(shapes)} tensors"
    scales = [s for s in SCALES if LCNetSpec(scale=s).width(BLOCKS[-1].width) == last[0]]
    scale = f"PPLCNet {scales[0]}x" if scales else f"PPLCNet with {last[0]} last channels"
    head = shapes.get("fc.weight")
    return f"{scale} with {head[1]} classes" if head is not None and len(head) == 2 else f"{scale} without a head"


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
    for name, tensor in own.items():
        if name not in wrong and weights[name].dtype != np.float32 and tensor.dtype == paddle.float32:
            raise UserError(
                f"weights {source}: '{name}' is {weights[name].dtype}, but the model has numbers with fractions there; "
                "give weights of float32 (float16, bfloat16 and float64 are read as that)"
            )
        if name not in wrong and not np.isfinite(weights[name]).all():
            raise UserError(f"weights {source}: '{name}' has numbers that are not finite; take other weights")
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

    The package checks lengths, offsets and types before anything is made of them. bfloat16 becomes float32, with a line
    about it.
    Raises:
        UserError: a missing or damaged file.
    """
    if not path.is_file():
        raise UserError(f"{what} {path}: no such file")
    try:
        data = path.read_bytes()
        found = safetensors.deserialize(data)
        tensors = {name: np.frombuffer(t["data"], _SAFETENSORS[t["dtype"]]).reshape(t["shape"]) for name, t in found}
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except KeyError as error:
        raise UserError(f"{what} {path}: tensors of type {error} are not read; save them as F32") from error
    except (safetensors.SafetensorError, ValueError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} {path}: damaged or not a .safetensors file ({reason})") from error
    bfloat16 = [name for name, tensor in found if tensor["dtype"] == "BF16"]
    if bfloat16:
        tensors |= _as_float32({name: tensors[name] for name in bfloat16}, bfloat16, f"{what} {path}")
    return tensors, header.get("__metadata__") or {}
