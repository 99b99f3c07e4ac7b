"""The training loop of every task: progress, run folder, checkpoints, exact resume, clean stop."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import paddle
import pydantic
from paddle import nn

from ppcls_ext.core import distributed
from ppcls_ext.core.config import LATEST_STATE, Config, Section, parse
from ppcls_ext.core.device import set_device
from ppcls_ext.core.display import Bar, bar, say, values_text
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.expect import verify
from ppcls_ext.core.images import check_images
from ppcls_ext.core.run_folder import RunFolder
from ppcls_ext.core.seeding import STEP, seed_all, seed_paddle
from ppcls_ext.core.step import Step
from ppcls_ext.models.weights import Weights, load_into, numpy_state, save_weights
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.tasks.task import Task
from ppcls_ext.training.freezing import freeze
from ppcls_ext.training.optimizers import Schedule, build_optimizer, build_schedule, lr_of
from ppcls_ext.training.precision import AMP, Precision
from ppcls_ext.training.state import load_optimizer_state, optimizer_state, read_state, save_state
from ppcls_ext.upstream.paddle import restore_state


class EMA(Section):
    """The `EMA` section: an exponential moving average of the weights, which is what gets evaluated and saved."""

    decay: float = pydantic.Field(default=0.9998, gt=0, lt=1)
    warmup: bool = True  # early on, decay is at most (1 + step) / (10 + step)


class Average:
    """Moving average of a model's parameters and buffers."""

    def __init__(self, settings: EMA, model: nn.Layer) -> None:
        self.settings = settings
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def update(self, model: nn.Layer, step: int) -> None:
        decay = min(self.settings.decay, (1 + step) / (10 + step)) if self.settings.warmup else self.settings.decay
        with paddle.no_grad():
            for name, tensor in model.state_dict().items():
                mean = self.tensors[name]
                if mean.dtype in (paddle.float32, paddle.float64):
                    mean.scale_(decay).add_(tensor.detach() * (1 - decay))
                else:
                    mean.set_value(tensor)

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        for name, tensor in self.tensors.items():
            tensor.set_value(weights[name])


@dataclass
class Position:
    """How far a run has come, and its best result: all that resuming needs beside tensors."""

    epoch: int = 0  # whole epochs done
    step: int = 0  # steps done in the epoch that is under way
    total_steps: int = 0
    best: float | None = None
    best_epoch: int | None = None
    stale: int = 0  # evaluations since the best one
    stopped: bool = False  # by Global.early_stop
    sums: dict[str, float] = field(default_factory=dict)  # of losses and stats over the epoch's images
    images: int = 0  # in `sums`


class Interrupt:
    """Turns Ctrl-C or SIGTERM into a request that the loop reads between steps; a second Ctrl-C is immediate.

    A second SIGTERM is not: Paddle's launcher sends several, and who sends them can kill.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = number
            say("stopping after this step, to save the latest state (Ctrl-C again: at once)")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class Stopped(Exception):
    """Training was interrupted; the latest state is saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.exit_status = 128 + signal_number


class Trainer:
    """One run, from the config to the last checkpoint. Knows nothing of the task but `ppcls_ext.tasks.task.Task`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.run = task.run
        self.place = set_device(self.run.device)
        distributed.start(self.place)
        self.loader = task.train_loader()
        self.loader.check_shares()
        self.eval_loader = task.eval_loader() if self.run.eval_during_train else None
        self.folder = RunFolder.of(task.config)
        if self.run.early_stop and self.eval_loader is None:
            raise UserError("Global.early_stop: it needs evaluation; -o Global.eval_during_train=true")
        steps = math.ceil(len(self.loader) / self.run.update_freq)  # of the optimizer
        self.epochs = math.ceil(self.run.iters / steps) if self.run.iters else self.run.epochs
        self.last_step = self.run.iters or self.epochs * steps
        batch = self.loader.batch_size * self.run.update_freq
        lr = lr_of(task.config.get("Optimizer"))
        self.schedule: Schedule = build_schedule(lr, self.epochs, steps, batch, self.run.iters)
        seed_all(self.run.seed)
        # Parameter names count up over the whole process: under a guard a run does not depend on earlier ones.
        with paddle.utils.unique_name.guard():
            self.model = distributed.prepare(task.made_fast(task.build_model()), self.place)
        self.frozen_norms = freeze(self.model, self.run.freeze)
        amp = task.config.get("AMP")
        self.precision = Precision(None if amp is None else parse(AMP, amp, "AMP"), self.place)
        self.optimizer = build_optimizer(task.config.get("Optimizer"), self.model, self.schedule)
        ema = task.config.get("EMA")
        self.average = Average(parse(EMA, ema, "EMA"), self.model) if ema is not None else None
        self.position = Position()
        self._clock = (time.monotonic(), 0)  # when the images since the last log line began, and how many
        self._pending: list[Step] = []

    # Starting and resuming

    def start(self) -> None:
        """Check the data, load weights or state, and make the run folder.

        Raises:
            UserError: wrong data, weights of another network, a state of another run.
        """
        splits = ["Eval"] * (self.eval_loader is not None) + ["Train"]
        for split in splits:
            paths = self.task.image_paths(split)
            decoded = check_images(paths, self.run.check_seconds / len(splits), self.run.seed)
            part = "all decoded" if decoded == len(paths) else f"{decoded} of them decoded in the time of check_seconds"
            say(f"{split}: {len(paths)} images, {part}")
        processes = distributed.world()
        if processes > 1:
            say(f"{processes} processes, a batch of {self.loader.batch_size} in all")
        for note in [*self.task.notes(), *([self.schedule.note] if self.schedule.note else [])]:
            say(note)
        self.task.prepare()
        if self.run.checkpoints:
            self._resume(_state_path(self.run.checkpoints))
        elif self.run.pretrained_model:
            for note in self.task.load_pretrained(self.model, self.run.pretrained_model):
                say(note)
            if self.average is not None:
                self.average.load(numpy_state(self.model))
        resolved = self.task.resolved()
        resolved["Global"]["checkpoints"] = None
        self.folder.start(resolved, self.task.labels(), resuming=bool(self.run.checkpoints))

    def _resume(self, path: Path) -> None:
        tensors, info = read_state(path)
        if not {"run", "schedule", "position"} <= set(info):
            raise UserError(
                f"training state {path}: it holds weights, but not how far a run has come; it cannot be resumed"
            )
        fingerprint = self._fingerprint()
        for key in {**info["run"], **fingerprint}:
            was, now = info["run"].get(key), fingerprint.get(key)
            if was != now:
                raise UserError(
                    f"training state {path}: saved with {key} {was}, this config has {now}; "
                    "an exact resume needs the same (or start anew from its weights: -o Global.pretrained_model=FILE)"
                )
        load_into(self.model, _part(tensors, "model/"), path)
        load_optimizer_state(self.model, self.optimizer, _part(tensors, "optimizer/"))
        if self.average is not None:
            self.average.load(_part(tensors, "ema/"))
        self.precision.load(info.get("precision", {}))
        restore_state(self.schedule.lr, info["schedule"])
        self.position = Position(**info["position"])
        self.folder = RunFolder(path.parent)
        say(f"resuming {path.parent} after epoch {self.position.epoch}, step {self.position.step}")
        self.folder.log("resume", {"epoch": self.position.epoch, "step": self.position.total_steps})

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "optimizer": dict(self.task.config["Optimizer"]).get("name"),
            "seed": self.run.seed,
            "images": len(self.loader.dataset),
            "batch_size": self.loader.batch_size,
            "ema": self.average is not None,
            **({"update_freq": self.run.update_freq} if self.run.update_freq > 1 else {}),
            **({"freeze": list(self.run.freeze)} if self.run.freeze else {}),
            **({"amp": True} if self.precision.state() else {}),
            **self.task.fingerprint(),
        }

    def save_latest(self) -> None:
        """Write everything that an exact resume needs."""
        self._flush()
        if not distributed.is_main():
            return
        tensors = {f"model/{n}": t for n, t in numpy_state(self.model).items()}
        tensors |= {f"optimizer/{n}": t for n, t in optimizer_state(self.model, self.optimizer).items()}
        if self.average is not None:
            tensors |= {f"ema/{n}": t.numpy() for n, t in self.average.tensors.items()}
        info = {"position": vars(self.position), "schedule": self.schedule.lr.state_dict(), "run": self._fingerprint()}
        info["precision"] = self.precision.state()
        save_state(self.folder.latest, tensors, info)

    # Training

    @property
    def finished(self) -> bool:
        """All steps are done, and what follows the last epoch too; or nothing got better any more."""
        return self.position.stopped or (self.position.total_steps >= self.last_step and self.position.step == 0)

    def fit(self) -> dict[str, float]:
        """Train to the end; gives the metrics of the last evaluation (empty without evaluation).

        Raises:
            Stopped: Ctrl-C or SIGTERM; the latest state is saved.
            UserError: a sample that cannot be read; the latest state is saved.
            CheckFailed: the loss is not a number.
        """
        metrics: dict[str, float] = {}
        with Interrupt() as interrupt, bar(self.last_step, "train", self.position.total_steps) as progress:
            try:
                while not self.finished:
                    self._epoch(progress, interrupt)
                    metrics = self._after_epoch() or metrics
            except UserError:
                self.save_latest()
                raise
            except Stopped:
                self.save_latest()
                self.folder.log("stop", {"epoch": self.position.epoch, "step": self.position.total_steps})
                raise
            finally:
                self.folder.close()
        if self.position.stopped:
            say(f"stopped early: {self.position.stale} evaluations without a better {self.task.primary}")
        self.folder.log("end", {"step": self.position.total_steps, "best": self.position.best})
        return metrics

    def _epoch(self, progress: Bar, interrupt: Interrupt) -> None:
        at = self.position
        self._train_mode()
        self._clock = (time.monotonic(), 0)
        with contextlib.closing(self.loader.epoch(at.epoch, skip=at.step * self.run.update_freq)) as batches:
            self._steps(batches, progress, interrupt)
        if self.schedule.by_epoch:
            self.schedule.lr.step()
        self._flush()

    def _train_mode(self) -> None:
        self.model.train()
        for norm in self.frozen_norms:
            norm.eval()

    def _backward(self, batches: Sequence[Sequence[paddle.Tensor]]) -> None:
        """Add the gradients of the mean loss over all images of the batches."""
        counts = distributed.sums([len(batch[0]) for batch in batches])
        own = (distributed.rank(),) if distributed.world() > 1 else ()  # each process drops out units of its own
        for place, batch in enumerate(batches):
            seed_paddle(self.run.seed, STEP, self.position.total_steps, place, *own)
            with self.precision.forward():
                loss, step = distributed.over_all(self.task.step(self.model, batch))
            self.precision.backward(loss * (counts[place] / sum(counts)))
            self._pending.append(step)

    def _steps(self, batches: Iterable[Sequence[paddle.Tensor]], progress: Bar, interrupt: Interrupt) -> None:
        at = self.position
        if at.total_steps >= self.last_step:  # stopped at the last step: what comes after it is left to do
            return
        batches = distributed.in_step(batches)
        while group := list(itertools.islice(batches, self.run.update_freq)):
            self._backward(group)
            distributed.synchronise(self.model)
            self.precision.step(self.optimizer)
            if not self.schedule.by_epoch:
                self.schedule.lr.step()
            at.step += 1
            at.total_steps += 1
            if self.average is not None:
                self.average.update(self.model, at.total_steps)
            values = ""
            if at.total_steps % self.run.print_batch_step == 0 or at.total_steps == self.last_step:
                values = self._report()
            progress.advance(1, values)
            requested = distributed.largest(interrupt.requested or 0)
            if requested:
                raise Stopped(requested)
            if at.total_steps == self.last_step:
                break

    def _flush(self) -> None:
        """Bring losses and stats of past steps from the device into the sums of the epoch."""
        at = self.position
        for step in self._pending:
            for name, value in {**step.losses, **step.stats}.items():
                number = float(value)
                if not math.isfinite(number):
                    raise CheckFailed(
                        f"{name} is {number} near step {at.total_steps} (epoch {at.epoch + 1}): training diverged; "
                        "lower Optimizer.lr.learning_rate or start from pretrained weights"
                    )
                at.sums[name] = at.sums.get(name, 0.0) + number * step.images
            at.images += step.images
            start, images = self._clock
            self._clock = (start, images + step.images)
        self._pending.clear()

    def _report(self) -> str:
        self._flush()
        at = self.position
        start, images = self._clock
        speed = images / max(time.monotonic() - start, 1e-9)
        self._clock = (time.monotonic(), 0)
        means = {name: total / at.images for name, total in at.sums.items()}
        shown = {k: v for k, v in means.items() if k == "loss" or k not in self._loss_names()}
        lr = float(self.optimizer.get_lr())
        event = {"epoch": at.epoch + 1, "step": at.total_steps, **means, "lr": lr, "images_per_s": round(speed, 1)}
        self.folder.log("train", event)
        if self.run.use_visualdl:
            self.folder.scalars({**{f"train/{k}": v for k, v in means.items()}, "train/lr": lr}, at.total_steps)
        return f"epoch {at.epoch + 1}/{self.epochs}  {values_text(shown)}  {speed:.1f} images/s "

    def _loss_names(self) -> set[str]:
        return {name for name in self.position.sums if name.lower().endswith("loss") and name != "loss"}

    def _after_epoch(self) -> dict[str, float]:
        at = self.position
        means = {name: total / at.images for name, total in at.sums.items() if at.images}
        at.epoch, at.step = at.epoch + 1, 0
        at.sums, at.images = {}, 0
        finished = at.total_steps >= self.last_step
        metrics: dict[str, float] = {}
        if self.eval_loader is not None and (at.epoch % self.run.eval_interval == 0 or finished):
            metrics = self._evaluate(finished)
        line = f"epoch {at.epoch}/{self.epochs}: {values_text({'loss': means['loss']})}"
        line += f"  eval {values_text(metrics)}" if metrics else ""
        line += "  (best so far)" if metrics and at.best_epoch == at.epoch else ""
        say(line)
        if at.epoch % self.run.save_interval == 0 or finished or at.stopped:
            self.save_latest()
        return metrics

    def _evaluate(self, finished: bool) -> dict[str, float]:
        at = self.position
        assert self.eval_loader is not None
        own = numpy_state(self.model) if self.average is not None else None
        if self.average is not None:
            self.model.set_state_dict({n: t.clone() for n, t in self.average.tensors.items()})
        main = distributed.is_main()
        last = finished or (self.run.early_stop is not None and at.stale + 1 >= self.run.early_stop)  # it may be
        metrics = self.task.evaluate(self.model, lambda _: None, self.folder.eval if last and main else None)
        weights = numpy_state(self.model)
        if own is not None:
            self.model.set_state_dict(own)
        self._train_mode()
        if main:
            save_weights(self.folder.last, weights)
        value = metrics[self.task.primary]
        if at.best is None or value > at.best:
            at.best, at.best_epoch, at.stale = value, at.epoch, 0
            if main:
                save_weights(self.folder.best, weights)
        else:
            at.stale += 1
            at.stopped = self.run.early_stop is not None and at.stale >= self.run.early_stop
        self.folder.log("eval", {"epoch": at.epoch, "step": at.total_steps, **metrics})
        if self.run.use_visualdl:
            self.folder.scalars({f"eval/{k}": v for k, v in metrics.items()}, at.total_steps)
        return metrics


def _state_path(path: str) -> Path:
    given = Path(path)
    if given.is_dir():
        given = given / LATEST_STATE
    if given.suffix != ".safetensors":
        given = Path(f"{given}.safetensors")
    if not given.is_file():
        raise UserError(f"Global.checkpoints {path}: no training state there (expected {given})")
    return given


def _part(tensors: Weights, prefix: str) -> Weights:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def train(config: Config) -> RunFolder:
    """Train what `config` describes, from its start or from `Global.checkpoints`; gives the run folder.

    Raises:
        UserError: bad config or data. CheckFailed: divergence, or a result other than `Expect` states.
        Stopped: interrupted; the latest state is saved.
    """
    trainer = Trainer(make_task(config))
    trainer.start()
    if trainer.finished:
        how = "stopped early" if trainer.position.stopped else f"is already trained to its {trainer.epochs} epochs"
        say(f"{trainer.folder.path} {how}")
        return trainer.folder
    metrics = trainer.fit()
    best = trainer.position
    if best.best is not None:
        say(f"best {trainer.task.primary} {best.best:.4f} after epoch {best.best_epoch}")
    say(f"run folder: {trainer.folder.path}")
    if metrics and trainer.eval_loader is not None:
        for line in verify(config.get("Expect"), metrics, len(trainer.eval_loader.dataset)):
            say(line)
    return trainer.folder
