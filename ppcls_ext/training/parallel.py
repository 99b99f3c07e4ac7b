"""What data parallel training does to a network: equal weights, and the losses and gradients of the global batch."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import distributed as engine
from paddle import nn

from ppcls_ext.core.distributed import communicate, world
from ppcls_ext.models.norms import batch_norms
from ppcls_ext.tasks.step import Step
from ppcls_ext.upstream.paddle import tensor_of


def prepare(model: nn.Layer, device: str) -> nn.Layer:
    """`model` with weights equal in all processes, and batch norms that use the statistics of the global batch.

    Paddle has such batch norms (SyncBatchNorm) for GPUs only. On the CPU each process normalises by its own share, and
    `synchronise` keeps the running statistics of all processes at their mean.
    """
    if world() == 1:
        return model
    if device != "cpu":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    communicate(engine.parallel.sync_params_buffers, model)
    return model


def over_all(step: Step) -> tuple[paddle.Tensor, Step]:
    """The loss to differentiate here, and the step's figures over the whole global batch.

    The mean over processes of the gradients of these losses is the gradient of the mean over the global batch.
    """
    loss = step.losses["loss"]
    if world() == 1:
        return loss, step
    weight = _double(step.images if step.weight is None else step.weight)
    figures = {**step.losses, **step.stats}
    sums = paddle.stack([weight, _double(step.images), *(_double(value) * weight for value in figures.values())])
    communicate(engine.all_reduce, sums)
    total = sums[0].clip(min=1.0)
    means = dict(zip(figures, (sums[2:] / total).unbind(), strict=True))
    losses = {name: means[name] for name in step.losses}
    stats = {name: means[name] for name in step.stats}
    here = loss * (weight * world() / total).astype(loss.dtype)
    return here, step._replace(losses=losses, stats=stats, images=int(sums[1]), weight=None)


def _double(number: paddle.Tensor | float) -> paddle.Tensor:
    tensor = number.detach() if isinstance(number, paddle.Tensor) else tensor_of(np.array(number, np.float64))
    return tensor.astype("float64").reshape([])


def synchronise(model: nn.Layer) -> None:
    """Give all processes the mean of their gradients, and of the running statistics of their batch norms."""
    if world() == 1:
        return
    from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients

    communicate(fused_allreduce_gradients, [p for p in model.parameters() if not p.stop_gradient], None)
    # A SyncBatchNorm uses the statistics of the global batch already.
    norms = [n for n in batch_norms(model) if n.training and not isinstance(n, nn.SyncBatchNorm)]
    statistics = [s for norm in norms for s in (norm._mean, norm._variance)]
    if statistics:
        flat = paddle.concat(statistics)
        communicate(engine.all_reduce, flat)
        means = paddle.split(flat / world(), [s.shape[0] for s in statistics])
        for statistic, mean in zip(statistics, means, strict=True):
            paddle.assign(mean, statistic)
