"""Everything of a run that has a state, saved and put back as one: what an exact resume needs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.models.weights import Weights, load_into, numpy_state
from ppcls_ext.training.learner import Learner
from ppcls_ext.training.position import Position
from ppcls_ext.training.state import (
    check_optimizer_state,
    load_optimizer_state,
    optimizer_state,
    read_state,
    save_state,
)
from ppcls_ext.upstream.paddle import accumulator_names

ADDED = ("network", "image_shape")  # what states of earlier versions do not say
HINTS = {"batch_size": ": it is that of all processes, DataLoader.Train.sampler.batch_size times --nproc"}


@dataclass
class Checkpoint:
    """Saves what changes while a run trains, and puts it back.

    Attributes:
        steps: of the optimizer in an epoch.
        fingerprint: gives JSON-able values that have to be the same for a resume to be exact.
    """

    learner: Learner
    steps: int
    fingerprint: Callable[[], dict[str, Any]]

    def save(self, path: Path, position: Position) -> None:
        """Write all of it to one file, atomically."""
        learner = self.learner
        tensors = {f"model/{n}": t for n, t in numpy_state(learner.model).items()}
        tensors |= {f"optimizer/{n}": t for n, t in optimizer_state(learner.model, learner.optimizer).items()}
        if learner.average is not None:
            tensors |= {f"ema/{n}": t.numpy() for n, t in learner.average.tensors.items()}
        info = {"position": vars(position), "schedule": learner.schedule.lr.state_dict(), "run": self.fingerprint()}
        info["precision"] = learner.precision.state()
        save_state(path, tensors, info)

    def load(self, path: Path) -> Position:
        """Put back what `save` wrote; gives how far the run had come.

        Raises:
            UserError: a damaged file, weights alone, or a state of another run. Nothing is changed then.
        """
        tensors, info = read_state(path)
        if not {"run", "schedule", "position"} <= set(info):
            raise UserError(
                f"training state {path}: it holds weights, but not how far a run has come; it cannot be resumed"
            )
        self._check_run(path, info["run"])
        try:
            position = Position.read(info["position"], self.steps)
            self._check(tensors, info, position)
        except UserError as error:
            raise UserError(f"training state {path}: {error}; it is damaged, or not a state of this run") from error
        learner = self.learner
        load_into(learner.model, _part(tensors, "model/"), path)
        load_optimizer_state(learner.model, learner.optimizer, _part(tensors, "optimizer/"))
        if learner.average is not None:
            learner.average.load(_part(tensors, "ema/"))
        learner.precision.load(info.get("precision", {}))
        learner.schedule.restore(info["schedule"])
        return position

    def _check_run(self, path: Path, run: Any) -> None:
        """Raise UserError for the state of a run with other settings."""
        if not isinstance(run, Mapping):
            raise UserError(f"training state {path}: damaged (it does not say which run it is of)")
        fingerprint = self.fingerprint()
        for key in {**run, **fingerprint}:
            was, now = run.get(key), fingerprint.get(key)
            if _as_json(was) != _as_json(now) and not (key in ADDED and key not in run):
                raise UserError(
                    f"training state {path}: saved with {str(key)[:40]} {str(was)[:100]}, this config has {now}; "
                    f"an exact resume needs the same{HINTS.get(key, '')} (or start anew from its weights: "
                    "-o Global.pretrained_model=FILE)"
                )

    def _check(self, tensors: Weights, info: Mapping[str, Any], position: Position) -> None:
        """Raise UserError where a part of the state could not be put back."""
        learner = self.learner
        if not _alike(learner.schedule.lr.state_dict(), info["schedule"]):
            raise UserError("its schedule has other values than this run's")
        if not _alike(learner.precision.state(), info.get("precision", {})):
            raise UserError("its AMP section has other values than this run's")
        optimizer = _part(tensors, "optimizer/")
        if not optimizer and position.total_steps and accumulator_names(learner.optimizer):
            raise UserError("the values of its optimizer are missing")
        check_optimizer_state(learner.model, learner.optimizer, optimizer)
        average = _part(tensors, "ema/")
        for name, tensor in (learner.average.tensors if learner.average else {}).items():
            found = average.get(name)
            if found is None or found.shape != tuple(tensor.shape) or found.dtype != np.float32:
                raise UserError(f"its average of '{name}' is missing or of another shape")


def _as_json(value: Any) -> str:
    """A value as text, in which 1, 1.0 and true differ."""
    return json.dumps(value, sort_keys=True)


def _alike(own: Any, found: Any) -> bool:
    """Whether a value read from JSON is of the kind of ours; numbers must be finite."""
    if isinstance(own, Mapping):
        return isinstance(found, Mapping) and set(own) == set(found) and all(_alike(own[k], found[k]) for k in own)
    if isinstance(own, (list, tuple)):
        return isinstance(found, list) and len(own) == len(found) and all(map(_alike, own, found))
    if isinstance(own, bool) or isinstance(found, bool) or not isinstance(own, (int, float)):
        return type(own) is type(found)
    return isinstance(found, int if isinstance(own, int) else (int, float)) and math.isfinite(found)


def _part(tensors: Weights, prefix: str) -> Weights:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
