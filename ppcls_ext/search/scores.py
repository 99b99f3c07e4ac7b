"""Scores of networks that nobody trained: good for leaving the worst out, and for nothing else.

A score may change the weights and statistics of the network that it is given: each gets one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional
from scipy.stats import spearmanr

from ppcls_ext.core.seeding import seed_paddle
from ppcls_ext.models.lcnet import PPLCNet
from ppcls_ext.models.network_spec import IMAGE_CHANNELS, LARGEST_STRIDE, NetworkSpec
from ppcls_ext.models.norms import batch_norms

SCORED_IMAGES = 16
DISTURBANCE = 0.01  # the Zen score changes inputs by noise of this deviation


def zen_score(network: PPLCNet, images: paddle.Tensor) -> float:
    """How much the last map changes with the input, on a logarithmic scale, with what batch norms divide by added back.

    Lin et al., "Zen-NAS", 2021 (arXiv 2102.01063).
    """
    network.train()
    for norm in batch_norms(network):
        # Its variance is then that of the batch, which it divides by, not mixed with the initial 1.
        norm._momentum = 0.0
    with paddle.no_grad():
        change = network.features(images)[LARGEST_STRIDE]
        change = change - network.features(images + DISTURBANCE * paddle.randn(images.shape))[LARGEST_STRIDE]
        scales = [float(paddle.log(paddle.sqrt(norm._variance.mean()) + 1e-12)) for norm in batch_norms(network)]
    return float(paddle.log(change.abs().mean() + 1e-12)) + sum(scales)


def synflow(network: PPLCNet, images: paddle.Tensor) -> float:
    """The logarithm of the sum of all weights times their gradients, with absolute weights and an input of ones.

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", 2020
    (arXiv 2006.05467). It is summed in double numbers: what flows through a wide network is beyond single ones.
    """
    network.to(dtype="float64")
    network.eval()
    for parameter in network.parameters():
        parameter.set_value(parameter.abs())
    network(paddle.ones_like(images[:1]).astype("float64")).sum().backward()
    flow = sum(float((p * p.grad).abs().sum()) for p in network.parameters() if p.grad is not None)
    return float(np.log(flow + 1e-30))


def gradient_norm(network: PPLCNet, images: paddle.Tensor) -> float:
    """The norm of the gradient of a cross entropy against labels in turn."""
    network.train()
    logits = network(images)
    labels = paddle.arange(len(images)) % logits.shape[1]
    functional.cross_entropy(logits, labels).backward()
    total = sum(float((p.grad**2).sum()) for p in network.parameters() if p.grad is not None)
    return float(np.sqrt(total))


SCORES: Mapping[str, Callable[[PPLCNet, paddle.Tensor], float]] = {
    "zen": zen_score,
    "synflow": synflow,
    "gradient norm": gradient_norm,
}


class Scorer:
    """Scores networks with initial weights, on noise of an input size: a function of seed and network."""

    def __init__(self, class_num: int, seed: int, made_fast: Callable[[nn.Layer], nn.Layer] = lambda model: model):
        self.class_num, self.seed, self._made_fast = class_num, seed, made_fast

    def __call__(self, spec: NetworkSpec, score: str = "zen") -> float:
        """A score of `SCORES`."""
        seed_paddle(self.seed)
        with paddle.utils.unique_name.guard():
            network = PPLCNet(spec, self.class_num)
        self._made_fast(network)
        images = paddle.randn([SCORED_IMAGES, IMAGE_CHANNELS, spec.input_size, spec.input_size])
        return SCORES[score](network, images)

    def all(self, spec: NetworkSpec, names: Sequence[str] = tuple(SCORES)) -> dict[str, float]:
        """Some scores by name. None depends on which others were asked for, or on their order."""
        return {name: self(spec, name) for name in names}


def rank_correlations(
    scorer: Scorer, specs: Sequence[NetworkSpec], accuracy: Sequence[float]
) -> dict[str, tuple[float, float]]:
    """How far scores rank networks as their accuracy does: Spearman's correlation and its p.

    Beside the scores stand parameters, multiply-adds and a random order: a score that does no better is worth nothing.
    """
    rows = [scorer.all(spec) for spec in specs]
    found = {name: [row[name] for row in rows] for name in SCORES}
    counts = [spec.count(scorer.class_num) for spec in specs]
    found["parameters"] = [float(count.params) for count in counts]
    found["multiply-adds"] = [float(count.flops) for count in counts]
    found["random order"] = list(np.random.default_rng(scorer.seed).random(len(specs)))
    results = {name: spearmanr(values, accuracy) for name, values in found.items()}
    return {name: (float(result.statistic), float(result.pvalue)) for name, result in results.items()}
