"""Training the supernet of a space as a task of its own: the loop, its resume and its files are those of any training.

Each step trains the largest network on the labels, and the smallest and some random ones on the labels and on what the
largest gives: the sandwich rule with in-place distillation (Yu and Huang, 2019, arXiv 1903.05134). The largest learns
slowest, and at first it gives the same for every image, so that it counts as far as it has learned something.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional
from typing_extensions import override

from ppcls_ext.core.config import Config
from ppcls_ext.core.errors import UserError
from ppcls_ext.data.faults import DataReport
from ppcls_ext.data.loader import Loader
from ppcls_ext.models.spec import LCNetSpec
from ppcls_ext.models.weights import describe, read_weights
from ppcls_ext.search.judge import Judge
from ppcls_ext.search.space import Space
from ppcls_ext.search.supernet import Subnet, Supernet
from ppcls_ext.tasks.deployment import Deployment
from ppcls_ext.tasks.export import ExportedModel
from ppcls_ext.tasks.step import Step
from ppcls_ext.tasks.task import Task

RANDOM_NETWORKS = 2  # each step trains so many beside the largest and the smallest
LARGEST_DRAW = 2**31 - 1


def trust_in(loss: float, classes: int) -> float:
    """The share of the other networks' loss that is about what the largest gives: none while its loss is that of
    guessing.
    """
    return min(1.0, max(0.0, 1 - loss / math.log(max(2, classes))))


class SandwichTask(Task):
    """A task whose network is the supernet of a space; everything else is that of the task `of`.

    Args:
        judge: of the largest and the smallest network in evaluations; by default one of its own.
    """

    def __init__(self, of: Task, space: Space, networks: int = RANDOM_NETWORKS, judge: Judge | None = None) -> None:
        self.of, self.space, self.networks = of, space, networks
        self.config, self.global_section, self.data = of.config, of.global_section, of.data
        self.name, self.primary = of.name, of.primary  # type: ignore[misc]
        self._ends: tuple[Subnet, Subnet] | None = None  # the largest and the smallest network
        self._judge = Judge(of) if judge is None else judge

    @property
    @override
    def evaluated_shape(self) -> tuple[int, int, int]:
        return self.of.evaluated_shape

    @override
    def build_model(self) -> Supernet:
        return Supernet(self.space, self.class_num)

    @override
    def load_pretrained(self, model: nn.Layer, path: str) -> list[str]:
        """Start from a PP-LCNet of any scale: its channels are the first ones of the supernet's."""
        assert isinstance(model, Supernet)
        weights = read_weights(path)
        found = model.start_from(weights, LCNetSpec().network())
        if not found:
            raise UserError(f"weights {path}: {describe(weights)}, from which no supernet can start; give a PP-LCNet's")
        return [f"{found} tensors of the supernet start from {path}, as far as its channels go"]

    @override
    def step(self, model: nn.Layer, batch: Sequence[paddle.Tensor]) -> Step:
        """See `Task`; the loss is the sum over the networks, and `stats` has those of the largest.

        Of a mean over four networks, what one learns alone in a step would take four.
        """
        assert isinstance(model, Supernet)
        # Paddle's generator has just been set by seed and step. It is asked before anything is built, which draws from
        # it as well: a resumed run then trains the networks that it would have trained.
        rng = random.Random(paddle.randint(0, LARGEST_DRAW, [1]).item())
        largest, smallest = self._ends_of(model)
        heard = _Heard(largest.network)
        first = self.of.step(heard, batch)  # type: ignore[arg-type]
        goal = functional.softmax(heard.logits, axis=-1).detach()
        loss = first.losses["loss"]
        # A teacher would have to look at every image again for each of the other networks.
        trust = 1.0 if self.config.get("Distill") is not None else trust_in(float(loss), self.class_num)
        for subnet in (smallest, *(self.cut(model, self.space.sample(rng)) for _ in range(self.networks))):
            heard = _Heard(subnet.network)
            if trust < 1:
                of_labels = self.of.step(heard, batch).losses["loss"]  # type: ignore[arg-type]
                loss = loss + (1 - trust) * of_labels
            else:
                heard(batch[0])
            loss = loss + trust * functional.cross_entropy(heard.logits, goal, soft_label=True)
        return Step({"loss": loss, "largest": first.losses["loss"]}, first.stats, first.images, first.weight)

    def cut(self, model: Supernet, spec: Any) -> Subnet:
        """A network of the supernet that trains, with fast kernels where they apply."""
        subnet = model.cut(spec)
        self.of.made_fast(subnet.network)
        subnet.network.train()
        return subnet

    def _ends_of(self, model: Supernet) -> tuple[Subnet, Subnet]:
        if self._ends is None:
            self._ends = self.cut(model, self.space.largest()), self.cut(model, self.space.smallest())
        for subnet in self._ends:
            model.lend(subnet)
            subnet.network.train()
        return self._ends

    @override
    def evaluate(self, model: nn.Layer, advance: Callable[[int], None], folder: Path | None) -> dict[str, float]:
        """Metrics of the largest network; of the smallest, with `smallest_` before their names, those that matter."""
        assert isinstance(model, Supernet)
        largest, smallest = (self._judge.quality(subnet.network) for subnet in self._ends_of(model))
        return {self.primary: largest.top1, f"smallest_{self.primary}": smallest.top1}

    # As the task has it

    @override
    def set_length(self, epochs: int, eval_interval: int, save_interval: int) -> None:
        self.of.set_length(epochs, eval_interval, save_interval)
        self.global_section = self.of.global_section

    @override
    def train_loader(self) -> Loader:
        return self.of.train_loader()

    @override
    def prepare(self) -> None:
        self.of.prepare()

    @override
    def fingerprint(self) -> dict[str, Any]:
        return {**self.of.fingerprint(), "space": repr(self.space), "networks": self.networks}

    @override
    def resolved(self) -> Config:
        return self.of.resolved()

    @override
    def notes(self) -> list[str]:
        return self.of.notes()

    @override
    def check_data(self) -> DataReport:
        return self.of.check_data()

    @override
    def deployment(self, model: nn.Layer) -> Deployment:
        return self.of.deployment(model)

    @override
    def exported(self, model: ExportedModel) -> nn.Layer:
        return self.of.exported(model)


class _Heard:
    """A network that keeps what it gives, for a task that keeps it to itself."""

    def __init__(self, network: nn.Layer) -> None:
        self.network = network
        self.logits: paddle.Tensor

    def __call__(self, images: paddle.Tensor) -> paddle.Tensor:
        self.logits = self.network(images)
        return self.logits
