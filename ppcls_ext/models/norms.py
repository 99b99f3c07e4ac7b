"""The batch norms of a network, whichever of Paddle's classes they are of."""

from __future__ import annotations

from paddle import nn

BATCH_NORMS = (nn.BatchNorm, nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm)


def batch_norms(model: nn.Layer) -> list[nn.Layer]:
    """Every batch norm of `model`, itself included, in the order of its layers."""
    return [layer for layer in model.sublayers(include_self=True) if isinstance(layer, BATCH_NORMS)]
