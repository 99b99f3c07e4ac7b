"""The `AMP` section: automatic mixed precision (level O1), where the device has it."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import numpy as np
import paddle
import pydantic

from ppcls_ext.core.config import Section
from ppcls_ext.core.errors import UserError


class AMP(Section):
    """The `AMP` section, in PaddleClas's schema. There, a section that does not say `use_amp` asks for it too."""

    use_amp: bool = True
    level: Literal["O1"] = "O1"  # float16 for the operators that are safe in it; weights stay float32
    # The factor at the start; it keeps small gradients above float16's zero.
    scale_loss: float = pydantic.Field(default=128.0, gt=0)
    use_dynamic_loss_scaling: bool = True
    use_fp16_test: Literal[False] = False  # evaluation is in float32
    use_promote: Literal[False] = False


class Precision:
    """How a step is computed: in float32, or in mixed precision with a scaled loss."""

    def __init__(self, settings: AMP | None, device: str) -> None:
        """`device` is the full name, such as `cpu` or `gpu:0`. Raises UserError where it has no mixed precision."""
        self._scaler: Any = None
        if settings is None or not settings.use_amp:
            return
        if not device.startswith("gpu"):  # Paddle would silently compute in float32
            raise UserError(
                f"AMP: mixed precision needs a GPU, this is {device}; -o AMP.use_amp=false trains in float32"
            )
        self._scaler = paddle.amp.GradScaler(
            init_loss_scaling=settings.scale_loss, use_dynamic_loss_scaling=settings.use_dynamic_loss_scaling
        )

    def forward(self) -> contextlib.AbstractContextManager[Any]:
        """What the forward pass and the losses run in."""
        return contextlib.nullcontext() if self._scaler is None else paddle.amp.auto_cast(level="O1")

    def backward(self, loss: paddle.Tensor) -> None:
        """Add the gradients of `loss`."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def step(self, optimizer: paddle.optimizer.Optimizer) -> None:
        """Update the weights and clear the gradients; a step whose scaled gradients overflow is left out."""
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()
        optimizer.clear_grad()

    def state(self) -> dict[str, Any]:
        """JSON-able; empty in float32."""
        if self._scaler is None:
            return {}
        state = self._scaler.state_dict()
        return {**state, "scale": state["scale"].item()}

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        if self._scaler is not None:
            self._scaler.load_state_dict({**state, "scale": np.array([state["scale"]], np.float32)})
