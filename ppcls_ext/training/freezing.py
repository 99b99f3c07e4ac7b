"""`Global.freeze`: parts of a network that training leaves as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from paddle import nn

from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.models.norms import BATCH_NORMS


def freeze(model: nn.Layer, patterns: Sequence[str]) -> list[nn.Layer]:
    """Take the gradient from the parameters that the patterns name.

    Args:
        patterns: names of layers or parameters as in the weights (`blocks2`, `backbone.*.bn`); a layer stands for all
            that is in it, and `*` for anything.
    Returns:
        the batch norms among them, which must be kept in eval mode for their statistics to stay.
    Raises:
        UserError: a pattern that names nothing, or nothing left to train.
    """
    layers = dict(model.named_sublayers())
    parameters = dict(model.named_parameters())
    names = {*layers, *parameters}
    chosen: set[str] = set()
    for pattern in patterns:
        found = {n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")}
        if not found:
            outer = [n for n in layers if n.count(".") < 2]
            raise UserError(f"Global.freeze: nothing in the network is named '{pattern}'; {nearest(pattern, outer)}")
        chosen |= found
    for name in chosen & set(parameters):
        parameters[name].stop_gradient = True
    if patterns and all(p.stop_gradient for p in parameters.values()):
        raise UserError("Global.freeze: it freezes the whole network, so there is nothing to train")
    return [layers[n] for n in sorted(chosen & set(layers)) if isinstance(layers[n], BATCH_NORMS)]
