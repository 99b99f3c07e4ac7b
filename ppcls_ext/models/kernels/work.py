"""How much a kernel has to do at least: for comparing its time with what the machine can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class KernelWork(NamedTuple):
    """One call of a kernel.

    Attributes:
        problem: the kernel's name and the sizes that it was called with.
        bytes: of its arrays, each read or written once.
        flops: floating-point operations, two for a multiply-add; 0 for what only passes over its arrays.
    """

    problem: str
    bytes: int
    flops: int


def work_of(kernel: Callable[..., None], arguments: Sequence[Any]) -> KernelWork:
    """Args: arguments: all after `start` and `end`, as `threads.split` takes them."""
    name = str(getattr(kernel, "__name__", kernel))
    arrays = [argument for argument in arguments if isinstance(argument, np.ndarray) and argument.size]
    distinct = {array.ctypes.data: array for array in arrays}  # the same one may stand for two
    count = FLOPS.get(name)
    sizes = " ".join("x".join(map(str, array.shape)) for array in arrays[: 1 if count is None else 2])
    flops = 0 if count is None else count(arguments)
    return KernelWork(f"{name} {sizes}", sum(array.nbytes for array in distinct.values()), flops)


def _forward(arguments: Sequence[Any]) -> int:
    weight, out = arguments[1:3]
    return int(2 * out.size * weight.shape[1])


def _dense_backward(arguments: Sequence[Any]) -> int:
    weight, grad, x_grad = arguments[1], arguments[3], arguments[5]
    return int(2 * grad.size * weight.shape[1] * (2 if len(x_grad) else 1))


def _convolve_backward(arguments: Sequence[Any]) -> int:
    taps, grad = arguments[1], arguments[3]
    return int(4 * grad.size * taps.shape[1])


FLOPS: dict[str, Callable[[Sequence[Any]], int]] = {
    "dense": _forward,
    "dense_backward": _dense_backward,
    "convolve": _forward,
    "convolve_backward": _convolve_backward,
}
