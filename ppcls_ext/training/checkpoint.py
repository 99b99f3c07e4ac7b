"""Everything of a run that has a state, saved and put back as one: what an exact resume needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from ppcls_ext.core.errors import UserError
from ppcls_ext.models.weights import Weights, load_into, numpy_state
from ppcls_ext.training.averaging import Average
from ppcls_ext.training.optimizers import Schedule
from ppcls_ext.training.position import Position
from ppcls_ext.training.precision import Precision
from ppcls_ext.training.state import load_optimizer_state, optimizer_state, read_state, save_state
from ppcls_ext.upstream.paddle import restore_state


@dataclass
class Checkpoint:
    """The parts of a run that change while it trains.

    Attributes:
        average: None without an `EMA` section.
        fingerprint: gives JSON-able values that have to be the same for a resume to be exact.
    """

    model: nn.Layer
    optimizer: paddle.optimizer.Optimizer
    schedule: Schedule
    precision: Precision
    average: Average | None
    fingerprint: Callable[[], dict[str, Any]]

    def save(self, path: Path, position: Position) -> None:
        """Write all of it to one file, atomically."""
        tensors = {f"model/{n}": t for n, t in numpy_state(self.model).items()}
        tensors |= {f"optimizer/{n}": t for n, t in optimizer_state(self.model, self.optimizer).items()}
        if self.average is not None:
            tensors |= {f"ema/{n}": t.numpy() for n, t in self.average.tensors.items()}
        info = {"position": vars(position), "schedule": self.schedule.lr.state_dict(), "run": self.fingerprint()}
        info["precision"] = self.precision.state()
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
        load_into(self.model, _part(tensors, "model/"), path)
        load_optimizer_state(self.model, self.optimizer, _part(tensors, "optimizer/"))
        if self.average is not None:
            self.average.load(_part(tensors, "ema/"))
        self.precision.load(info.get("precision", {}))
        restore_state(self.schedule.lr, info["schedule"])
        return Position(**info["position"])


def _part(tensors: Weights, prefix: str) -> Weights:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
