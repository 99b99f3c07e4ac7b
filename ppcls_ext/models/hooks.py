"""Looking into a network while it runs."""

from __future__ import annotations

from collections.abc import Iterable

import paddle
from paddle import nn


def run_hooked(model: nn.Layer, inputs: Iterable[paddle.Tensor], hooks: Iterable[object]) -> None:
    """One forward pass without gradients, after which the hooks are gone, also where it fails.

    Args:
        hooks: what Paddle gave when they were registered.
    """
    try:
        with paddle.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()  # type: ignore[attr-defined]
