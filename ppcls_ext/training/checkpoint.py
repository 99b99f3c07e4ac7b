"""Everything of a run that has a state, saved and put back as one: what an exact resume needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppcls_ext.core.errors import UserError
from ppcls_ext.models.weights import Weights, load_into, numpy_state
from ppcls_ext.training.learner import Learner
from ppcls_ext.training.position import Position
from ppcls_ext.training.state import load_optimizer_state, optimizer_state, read_state, save_state
from ppcls_ext.upstream.paddle import restore_state


@dataclass
class Checkpoint:
    """Saves what changes while a run trains, and puts it back.

    Attributes:
        fingerprint: gives JSON-able values that have to be the same for a resume to be exact.
    """

    learner: Learner
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
            UserError: a damaged file, weights alone, or a state of another run.
        """
        tensors, info = read_state(path)
        if not {"run", "schedule", "position"} <= set(info):
            raise UserError(
                f"training state {path}: it holds weights, but not how far a run has come; it cannot be resumed"
            )
        fingerprint = self.fingerprint()
        for key in {**info["run"], **fingerprint}:
            was, now = info["run"].get(key), fingerprint.get(key)
            if was != now:
                raise UserError(
                    f"training state {path}: saved with {key} {was}, this config has {now}; "
                    "an exact resume needs the same (or start anew from its weights: -o Global.pretrained_model=FILE)"
                )
        learner = self.learner
        load_into(learner.model, _part(tensors, "model/"), path)
        load_optimizer_state(learner.model, learner.optimizer, _part(tensors, "optimizer/"))
        if learner.average is not None:
            learner.average.load(_part(tensors, "ema/"))
        learner.precision.load(info.get("precision", {}))
        restore_state(learner.schedule.lr, info["schedule"])
        return Position(**info["position"])


def _part(tensors: Weights, prefix: str) -> Weights:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
