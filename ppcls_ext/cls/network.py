"""The losses of a classification network; the networks themselves are in `ppcls_ext.models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import paddle

from ppcls_ext.core.config import number
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.operations import read_operations
from ppcls_ext.upstream.paddleclas import ppcls


def build_losses(section: Any, where: str) -> list[tuple[float, Callable[..., Mapping[str, paddle.Tensor]]]]:
    """PaddleClas's losses of a `Loss` list, each with its weight.

    Raises:
        UserError: an unknown loss or key, or an empty list.
    """
    module = ppcls("loss")
    known = {n: f for n, f in vars(module).items() if isinstance(f, type) and f.__module__.startswith("ppcls.loss.")}
    losses = []
    for operation in read_operations(section, where):
        name, arguments, here = operation
        weight = number(arguments.pop("weight", 1.0), f"{here}.weight")
        if name == "CELoss" and not 0 <= number(arguments.get("epsilon") or 0, f"{here}.epsilon") < 1:
            # PaddleClas would train without smoothing, and not say so.
            raise UserError(f"{here}.epsilon: expected 0 to below 1, got {arguments['epsilon']}")
        losses.append((weight, operation.build(known, "loss")))
    if not losses:
        raise UserError(f"{where}: give at least one loss, such as '- CELoss: {{weight: 1.0}}'")
    return losses
