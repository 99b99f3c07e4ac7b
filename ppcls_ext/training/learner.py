"""What changes while a run trains: the network, its optimizer, and the averages of its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import paddle
from paddle.profiler import RecordEvent

from ppcls_ext.core import distributed
from ppcls_ext.core.config import parse
from ppcls_ext.core.display import say
from ppcls_ext.core.seeding import STEP, seed_all, seed_paddle
from ppcls_ext.models.weights import Weights, numpy_state
from ppcls_ext.tasks.step import Step
from ppcls_ext.tasks.task import Task
from ppcls_ext.training.averaging import EMA, Average
from ppcls_ext.training.freezing import freeze
from ppcls_ext.training.optimizers import Schedule, build_optimizer
from ppcls_ext.training.parallel import over_all, prepare, synchronise
from ppcls_ext.training.precision import AMP, Precision


class Learner:
    """A network and all that updates it, as the sections `Arch`, `Optimizer`, `AMP` and `EMA` say.

    The parts of a step have names that Paddle's profiler shows, and `ppcls_ext.training.profile`.

    Args:
        schedule: of the learning rate.
        device: full name, such as `cpu` or `gpu:0`.
    Attributes:
        average: None without an `EMA` section.
        rate: the learning rate of the last step.
    Raises:
        UserError: a wrong section.
    """

    def __init__(self, task: Task, schedule: Schedule, device: str) -> None:
        self._task, self.schedule = task, schedule
        self._has_stepped = False
        self.rate = 0.0
        self._seed = task.global_section.seed
        seed_all(self._seed)
        # Parameter names count up over the whole process: under a guard a run does not depend on earlier ones.
        with paddle.utils.unique_name.guard():
            self.model = prepare(task.made_fast(task.build_model()), device)
        self._frozen_norms = freeze(self.model, task.global_section.freeze)
        amp = task.config.get("AMP")
        self.precision = Precision(None if amp is None else parse(AMP, amp, "AMP"), device)
        self.optimizer = build_optimizer(task.config.get("Optimizer"), self.model, schedule)
        ema = task.config.get("EMA")
        self.average = Average(parse(EMA, ema, "EMA"), self.model) if ema is not None else None

    def load_pretrained(self, file: str) -> None:
        """Start from the weights of a file, as far as they fit. Raises UserError: weights of another network."""
        for note in self._task.load_pretrained(self.model, file):
            say(note)
        if self.average is not None:
            self.average.load(numpy_state(self.model))

    def train_mode(self) -> None:
        """Have the network train, but for batch norms that are frozen."""
        self.model.train()
        for norm in self._frozen_norms:
            norm.eval()

    def step(self, batches: Sequence[Sequence[paddle.Tensor]], number: int) -> list[Step]:
        """Update the weights once, by the gradients of the mean loss over all images of the batches.

        Args:
            number: steps done before.
        Returns:
            the losses of each batch.
        """
        self.rate = float(self.optimizer.get_lr())
        steps = self._backward(batches, number)
        synchronise(self.model)
        with RecordEvent("optimizer"):
            self.precision.step(self.optimizer)
        if not self._has_stepped:
            self._has_stepped = True
            self._task.keep_memory()
        if not self.schedule.by_epoch:
            self.schedule.advance()
        if self.average is not None:
            with RecordEvent("average"):
                self.average.update(self.model, number + 1)
        return steps

    def _backward(self, batches: Sequence[Sequence[paddle.Tensor]], number: int) -> list[Step]:
        counts = distributed.sums([len(batch[0]) for batch in batches])
        own = (distributed.rank(),) if distributed.world() > 1 else ()  # each process drops out units of its own
        steps = []
        for index, batch in enumerate(batches):
            seed_paddle(self._seed, STEP, number, index, *own)
            with RecordEvent("forward and loss"), self.precision.forward():
                loss, step = over_all(self._task.step(self.model, batch))
            with RecordEvent("gradients"):
                self.precision.backward(loss * (counts[index] / sum(counts)))
            steps.append(step)
        return steps

    def end_epoch(self) -> None:
        """Step a schedule that goes by epochs."""
        if self.schedule.by_epoch:
            self.schedule.advance()

    def weights(self) -> Weights:
        """The weights that a run is for: the averages, where the config asks for them."""
        if self.average is None:
            return numpy_state(self.model)
        return {name: tensor.numpy() for name, tensor in self.average.tensors.items()}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """While this lasts the network has the weights that a run is for; then it has its own and trains again."""
        own = numpy_state(self.model) if self.average is not None else None
        if self.average is not None:
            self.model.set_state_dict({n: t.clone() for n, t in self.average.tensors.items()})
        try:
            yield
        finally:
            if own is not None:
                self.model.set_state_dict(own)
            self.train_mode()
