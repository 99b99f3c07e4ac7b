"""The losses of a classification network; the networks themselves are in `ppcls_ext.models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import paddle
from paddle import nn

from ppcls_ext.core.bounds import number
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.operations import read_operations
from ppcls_ext.core.text import one_line
from ppcls_ext.data.bounds import check_arguments
from ppcls_ext.upstream.paddleclas import ppcls

Loss = Callable[..., Mapping[str, paddle.Tensor]]
WEIGHTIEST = 1e4


def build_losses(section: Any, where: str) -> list[tuple[float, Loss]]:
    """PaddleClas's losses of a `Loss` list, each with its weight.

    Raises:
        UserError: an unknown loss or key, or an empty list.
    """
    module = ppcls("loss")
    known = {n: f for n, f in vars(module).items() if isinstance(f, type) and f.__module__.startswith("ppcls.loss.")}
    losses = []
    for operation in read_operations(section, where):
        name, arguments, here = operation
        weight = number(arguments.pop("weight", 1.0), f"{here}.weight", 0, WEIGHTIEST)
        check_arguments(name, arguments, here)
        if name == "CELoss" and not 0 <= number(arguments.get("epsilon") or 0, f"{here}.epsilon") < 1:
            # PaddleClas would train without smoothing, and not say so.
            raise UserError(f"{here}.epsilon: expected 0 to below 1, got {arguments['epsilon']}")
        losses.append((weight, operation.build(known, "loss")))
    if losses and not any(weight for weight, _ in losses):
        raise UserError(f"{where}: every weight is 0, so that nothing is learned; give one above 0")
    if not losses:
        raise UserError(f"{where}: give at least one loss, such as '- CELoss: {{weight: 1.0}}'")
    return losses


def check_losses(losses: Sequence[tuple[float, Loss]], where: str, class_num: int, soft: bool) -> None:
    """Try each loss on two samples, since many of PaddleClas's need more than logits and labels.

    Args:
        losses: of `build_losses`, in the order of the list at `where`.
        soft: labels are shares of every class, as those of mixed batches.
    Raises:
        UserError: a loss that cannot be computed from them.
    """
    logits = paddle.zeros([2, class_num])
    numbers = paddle.to_tensor([[0], [1]], dtype="int64")
    labels = nn.functional.one_hot(numbers[:, 0], class_num) if soft else numbers
    for index, (_, loss) in enumerate(losses):
        here = f"{where}.{index}.{type(loss).__name__}"
        try:
            values = loss(logits, labels)
            computed = isinstance(values, Mapping) and all(value.numel() == 1 for value in values.values())
        except Exception as error:  # each loss fails in a way of its own
            reason = one_line(str(error).strip().rpartition("\n")[2] or type(error).__name__, 100)
            raise UserError(
                f"{here}: it cannot be computed from logits and {'mixed ' if soft else ''}labels, which is all there "
                f"is ({type(error).__name__}: {reason}); use another, such as CELoss"
            ) from error
        if not computed:
            raise UserError(f"{here}: it gives no single number; use another, such as CELoss")
