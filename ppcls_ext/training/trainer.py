"""The training loop of every task: progress, run folder, checkpoints, exact resume, clean stop."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import paddle

from ppcls_ext.core import distributed
from ppcls_ext.core.config import Config
from ppcls_ext.core.device import set_device
from ppcls_ext.core.display import Bar, bar, say, values_text
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.expect import verify
from ppcls_ext.core.images import check_images
from ppcls_ext.core.run_folder import RunFolder
from ppcls_ext.data.loader import Loader
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.tasks.task import Task
from ppcls_ext.training.checkpoint import Checkpoint
from ppcls_ext.training.evaluations import Evaluations
from ppcls_ext.training.interrupts import Interrupt, Stopped
from ppcls_ext.training.learner import Learner
from ppcls_ext.training.length import Forecast, length_of
from ppcls_ext.training.optimizers import build_schedule, lr_of
from ppcls_ext.training.position import Position
from ppcls_ext.training.progress import Progress
from ppcls_ext.training.scratch import from_scratch
from ppcls_ext.training.state import find_state


class Trainer:
    """One run, from the config to the last checkpoint. Knows nothing of the task but `ppcls_ext.tasks.task.Task`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.global_section = task.global_section
        self.device = set_device(self.global_section.device)
        distributed.start(self.device)
        self.loader = task.train_loader()
        self.loader.check_shares()
        self.evaluations = Evaluations(task)
        self.folder = RunFolder.of(task.config)
        if self.global_section.early_stop and self.evaluations.loader is None:
            raise UserError("Global.early_stop: it needs evaluation; -o Global.eval_during_train=true")
        self.length = length_of(self.global_section, len(self.loader))
        if not self.global_section.iters:
            task.set_length(self.length.epochs, self.length.eval_interval, self.length.save_interval)
            self.global_section = task.global_section
        batch = self.loader.batch_size * self.global_section.update_freq
        lr = lr_of(task.config.get("Optimizer"))
        schedule = build_schedule(lr, self.length.epochs, self.length.steps, batch, self.global_section.iters)
        self.forecast = Forecast(self.last_step)
        self.learner = Learner(task, schedule, self.device)
        self.position = Position()
        self.progress = Progress(self.global_section, self.loader, self.length)
        self.checkpoint = Checkpoint(
            self.learner, self.length.steps, partial(_fingerprint, task, self.loader, self.learner)
        )

    @property
    def last_step(self) -> int:
        """The step at which the run ends."""
        return self.length.last_step

    # Starting and resuming

    def start(self) -> None:
        """Check the data, load weights or state, and make the run folder.

        Raises:
            UserError: wrong data, weights of another network, a state of another run.
        """
        if not self.global_section.checkpoints:
            self.folder.check_unused()  # before what takes long; `start` looks again, when no other can write there
        _check_images(self.task, (["Eval"] if self.evaluations.loader is not None else []) + ["Train"])
        processes = distributed.world()
        if processes > 1:
            say(f"{processes} processes, a batch of {self.loader.batch_size} in all")
        advice = from_scratch(self.task, len(self.loader.dataset))
        for note in filter(None, [*self.task.notes(), self.learner.schedule.note, self.length.note, advice]):
            say(note)
        self.task.prepare()
        if self.global_section.checkpoints:
            self._resume(find_state(self.global_section.checkpoints))
        elif self.global_section.pretrained_model:
            self.learner.load_pretrained(self.global_section.pretrained_model)
        resolved = self.task.resolved()
        resolved["Global"]["checkpoints"] = None
        self.folder.start(resolved, self.task.labels(), resuming=bool(self.global_section.checkpoints))

    def _resume(self, path: Path) -> None:
        self.folder = RunFolder(path.parent)
        self.folder.lock()
        self.position = self.checkpoint.load(path)
        if not self.finished:
            self.position.reopen_epoch(self.length.steps)
        say(f"resuming {path.parent} after epoch {self.position.epoch}, step {self.position.step}")
        self.folder.log("resume", {"epoch": self.position.epoch, "step": self.position.total_steps})

    def save_latest(self) -> None:
        """Write everything that an exact resume needs."""
        self.progress.flush(self.position)
        if distributed.is_main():
            self.checkpoint.save(self.folder.latest, self.position)

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
        with Interrupt() as interrupt, bar(self.last_step, "train", self.position.total_steps) as shown:
            try:
                while not self.finished:
                    self._epoch(shown, interrupt)
                    metrics = self._after_epoch() or metrics
            except UserError:
                self.save_latest()
                raise
            except Stopped:
                self.save_latest()
                self.folder.log("stop", {"epoch": self.position.epoch, "step": self.position.total_steps})
                raise
            finally:
                self.loader.close()
                if self.evaluations.loader is not None:
                    self.evaluations.loader.close()
                self.folder.close()
        if self.position.stopped:
            say(f"stopped early: {self.position.stale} evaluations without a better {self.task.primary}")
        say(f"waiting for data took {self.progress.waiting:.1%} of the time of the steps")
        self.log_end()
        return metrics

    def log_end(self) -> None:
        """Say in the log that nothing is left to do."""
        self.folder.log("end", {"step": self.position.total_steps, "best": self.position.best})

    def _epoch(self, shown: Bar, interrupt: Interrupt) -> None:
        at = self.position
        self.learner.train_mode()
        self.progress.begin_epoch()
        skip, ahead = at.step * self.global_section.update_freq, at.epoch + 1 < self.length.epochs
        with contextlib.closing(self.loader.epoch(at.epoch, skip, ahead)) as batches:
            self._steps(batches, shown, interrupt)
        self.progress.end_epoch(at)

    def _steps(self, batches: Iterable[Sequence[paddle.Tensor]], shown: Bar, interrupt: Interrupt) -> None:
        at = self.position
        if at.total_steps >= self.last_step:  # stopped at the last step: what comes after it is left to do
            return
        batches = distributed.in_step(batches)
        while group := list(itertools.islice(batches, self.global_section.update_freq)):
            self.progress.add(self.learner.step(group, at.total_steps))
            at.step += 1
            at.total_steps += 1
            values = ""
            if at.total_steps % self.global_section.print_batch_step == 0 or at.total_steps == self.last_step:
                values = self.progress.report(at, self.learner, self.folder)
            shown.advance(1, values)
            forecast = self.forecast.step(at.total_steps, sum(len(batch[0]) for batch in group) * distributed.world())
            if forecast is not None:
                say(forecast)
            requested = distributed.largest(interrupt.requested or 0)
            if requested:
                raise Stopped(requested)
            if at.total_steps == self.last_step:
                break

    def _after_epoch(self) -> dict[str, float]:
        at = self.position
        # Weights without a state, left by a kill, could be neither resumed nor begun anew. And of several processes the
        # one that saves may not learn that another could not read an image to evaluate on.
        if not self.folder.latest.exists() or distributed.world() > 1:
            self.save_latest()
        means, before = at.means(), replace(at)
        at.end_epoch()
        finished = at.total_steps >= self.last_step
        try:
            metrics = self.evaluations.after_epoch(at, self.learner, self.folder, finished)
        except UserError:
            self.position = before  # what follows the last step of the epoch is left to do
            raise
        if at.total_steps == at.epoch * self.length.steps:  # else the epoch may yet go on, in a longer run
            self.learner.end_epoch()
        line = f"epoch {at.epoch}/{self.length.epochs}: {values_text({'loss': means['loss']})}"
        line += f"  eval {values_text(metrics)}" if metrics else ""
        line += "  (best so far)" if metrics and at.best_epoch == at.epoch else ""
        say(line)
        if at.epoch % self.global_section.save_interval == 0 or finished or at.stopped:
            self.save_latest()
        return metrics


def _fingerprint(task: Task, loader: Loader, learner: Learner) -> dict[str, Any]:
    """What has to be the same for a resume to be exact, JSON-able."""
    section = task.global_section
    return {
        "task": task.name,
        "network": str(dict(task.config["Arch"]).get("name")),
        "image_shape": list(section.image_shape),
        "optimizer": dict(task.config["Optimizer"]).get("name"),
        "seed": section.seed,
        "images": len(loader.dataset),
        "batch_size": loader.batch_size,
        "ema": learner.average is not None,
        **({"update_freq": section.update_freq} if section.update_freq > 1 else {}),
        **({"freeze": list(section.freeze)} if section.freeze else {}),
        **({"amp": True} if learner.precision.state() else {}),
        **task.fingerprint(),
    }


def _check_images(task: Task, splits: Sequence[str]) -> None:
    """Look for every image of the splits, and decode what `Global.check_seconds` allows. Raises UserError."""
    for split in splits:
        paths = task.image_paths(split)
        decoded = check_images(paths, task.global_section.check_seconds / len(splits), task.global_section.seed)
        part = "all decoded" if decoded == len(paths) else f"{decoded} of them decoded in the time of check_seconds"
        say(f"{split}: {len(paths)} images, {part}")


def train(config: Config) -> RunFolder:
    """Train what `config` describes, from its start or from `Global.checkpoints`; gives the run folder.

    Raises:
        UserError: bad config or data. CheckFailed: divergence, or a result other than `Expect` states.
        Stopped: interrupted; the latest state is saved.
    """
    return train_task(make_task(config))


def train_task(task: Task) -> RunFolder:
    """`train` for a task that is not the one its config names, but one made of it."""
    trainer = Trainer(task)
    try:
        return _run(trainer, task.config)
    finally:
        trainer.folder.unlock()


def _run(trainer: Trainer, config: Config) -> RunFolder:
    trainer.start()
    if trainer.finished:
        how = (
            "stopped early" if trainer.position.stopped else f"is already trained to its {trainer.length.epochs} epochs"
        )
        say(f"{trainer.folder.path} {how}")
        trainer.log_end()  # a kill may have come between the last state and this line
        return trainer.folder
    metrics = trainer.fit()
    best = trainer.position
    if best.best is not None:
        say(f"best {trainer.task.primary} {best.best:.4f} after epoch {best.best_epoch}")
    say(f"run folder: {trainer.folder.path}")
    if metrics and trainer.evaluations.loader is not None:
        for line in verify(config.get("Expect"), metrics, len(trainer.evaluations.loader.dataset)):
            say(line)
    return trainer.folder
