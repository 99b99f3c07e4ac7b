"""Workarounds for PaddleSeg."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from ppcls_ext.upstream.imports import quiet_import

# paddleseg 2.8.0 imports scikit-learn for the area under a curve; see `ppcls_ext.upstream.paddleclas.LATER`. Can go
# when PaddleSeg does not.
LATER: Mapping[str, Sequence[str]] = {"paddleseg.utils.metrics": ("sklearn", "sklearn.metrics")}


def paddleseg(name: str) -> Any:
    """The module `paddleseg.<name>` of PaddleSeg, imported without its noise.

    paddleseg 2.8.0 changes NumPy's print options for the whole process when it is imported, and its logger prints
    to stdout; the options are put back, and the logger keeps to errors. Can go when it does neither.
    """
    import numpy

    with quiet_import(), numpy.printoptions():
        module = importlib.import_module(f"paddleseg.{name}")
        logger: Any = importlib.import_module("paddleseg.utils.logger")
        logger.log_level = 0
    return module


def average_paddleseg_cross_entropy_in_floats(losses: Any) -> None:
    """paddleseg 2.8.0: `CrossEntropyLoss` multiplies int64 labels and ones by a float32 mask, which paddle 3.2.2
    refuses ("Type promotion only support calculations between floating-point numbers"). The mean over the pixels
    that count is taken here, with the same options. Can go with a paddleseg release that trains on Paddle 3.
    """
    import paddle

    def mean_over_pixels(self: Any, logit: Any, label: Any, semantic_weights: Any, loss: Any) -> Any:
        counted = label != self.ignore_index
        mask = counted.astype(loss.dtype) if self.avg_non_ignore else paddle.ones(label.shape, loss.dtype)
        loss = loss.reshape(label.shape) * mask
        if semantic_weights is not None:
            loss = loss * semantic_weights
        weights = mask
        if self.weight is not None:
            looked_up = paddle.where(counted, label, paddle.zeros_like(label))
            weights = mask * paddle.gather(self.weight, looked_up.flatten()).reshape(label.shape)
        if self.top_k_percent_pixels < 1.0:
            hard = int(self.top_k_percent_pixels * loss.size)
            loss, indices = paddle.topk(loss.flatten(), hard)
            weights = paddle.gather(weights.flatten(), indices)
        return loss.mean() / (weights.detach().mean() + self.EPS)

    losses.CrossEntropyLoss._post_process_loss = mean_over_pixels
