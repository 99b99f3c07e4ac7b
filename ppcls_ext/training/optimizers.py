"""The `Optimizer` section, in PaddleClas's schema: optimizer, schedule, decay, clipping of gradients (`clip_norm` of
each tensor, `clip_norm_global` of all together).

Schedules are PaddleClas's. Its optimizer wrappers are not used: 2.4.2 calls `inspect.getargspec`, gone since
Python 3.11; here each name stands for Paddle's optimizer with the keys that PaddleClas gives it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn, optimizer

from ppcls_ext.core.bounds import MOST, MOST_EPOCHS, mapping, number
from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.registry import Registry, call_checked
from ppcls_ext.core.text import shown
from ppcls_ext.upstream.paddle import restore_state, step_schedule
from ppcls_ext.upstream.paddleclas import ppcls

OPTIMIZERS = Registry("optimizer")

Decay = Any  # float or a paddle.regularizer, whose classes are not typed


def _momentum(
    common: Mapping[str, Any],
    weight_decay: Decay = None,
    momentum: float = 0.9,
    use_nesterov: bool = False,
    multi_precision: bool = False,
) -> optimizer.Optimizer:
    return optimizer.Momentum(
        **common,
        weight_decay=weight_decay,
        momentum=momentum,
        use_nesterov=use_nesterov,
        multi_precision=multi_precision,
    )


def _sgd(common: Mapping[str, Any], weight_decay: Decay = None, multi_precision: bool = False) -> optimizer.Optimizer:
    return optimizer.SGD(**common, weight_decay=weight_decay, multi_precision=multi_precision)


def _adam(
    common: Mapping[str, Any],
    weight_decay: Decay = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    multi_precision: bool = False,
) -> optimizer.Optimizer:
    return optimizer.Adam(
        **common, weight_decay=weight_decay, beta1=beta1, beta2=beta2, epsilon=epsilon, multi_precision=multi_precision
    )


def _adamw(
    common: Mapping[str, Any],
    weight_decay: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    one_dim_param_no_weight_decay: bool = True,
    multi_precision: bool = False,
) -> optimizer.Optimizer:
    one_dim = {p.name for p in common["parameters"] if len(p.shape) == 1}
    return optimizer.AdamW(
        **common,
        weight_decay=weight_decay,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        multi_precision=multi_precision,
        apply_decay_param_fun=(lambda name: name not in one_dim) if one_dim_param_no_weight_decay else None,
    )


def _rmsprop(
    common: Mapping[str, Any],
    weight_decay: Decay = None,
    momentum: float = 0.0,
    rho: float = 0.95,
    epsilon: float = 1e-6,
) -> optimizer.Optimizer:
    return optimizer.RMSProp(**common, weight_decay=weight_decay, momentum=momentum, rho=rho, epsilon=epsilon)


OPTIMIZERS.register("Momentum", _momentum)
OPTIMIZERS.register("SGD", _sgd)
OPTIMIZERS.register("Adam", _adam)
OPTIMIZERS.register("AdamW", _adamw)
OPTIMIZERS.register("RMSProp", _rmsprop)


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule, and when it moves on."""

    lr: optimizer.lr.LRScheduler
    by_epoch: bool  # after each epoch instead of each step
    note: str | None  # how the learning rate follows from the batch size

    def advance(self) -> None:
        """Go on by a step, or an epoch."""
        step_schedule(self.lr, self.lr.last_epoch + 1)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to where a state was saved; the rate is this schedule's own, whatever it was then."""
        restore_state(self.lr, dict(state))
        step_schedule(self.lr, self.lr.last_epoch)


def build_schedule(
    lr: Mapping[str, Any] | float, epochs: int, steps_per_epoch: int, batch_size: int, last_step: int | None = None
) -> Schedule:
    """Build `Optimizer.lr`.

    `base_batch_size` in it is ours: the learning rate is for that batch and is scaled linearly to `batch_size`
    (all processes together).
    Args:
        last_step: where training ends within the last epoch (`Global.iters`); Linear and Cosine decay to exactly there.
    Raises:
        UserError: an unknown schedule or key.
    """
    if isinstance(lr, (int, float)):
        lr = {"name": "Constant", "learning_rate": lr}
    if not isinstance(lr, Mapping):
        raise UserError(f"Optimizer.lr: expected a number or {{name: Cosine, learning_rate: ...}}, got {shown(lr)}")
    settings = dict(lr)
    _check_numbers(settings, "Optimizer.lr", LR_NUMBERS)
    known = ppcls("optimizer.learning_rate")
    names = {n: f for n, f in vars(known).items() if isinstance(f, type) and f.__module__ == known.__name__}
    name = settings.pop("name", "Constant")
    if not isinstance(name, str) or name not in names:
        raise UserError(f"Optimizer.lr.name: no schedule '{name}'; {nearest(str(name), names)}")
    base_batch = settings.pop("base_batch_size", None)
    note = None
    if base_batch is not None:
        key = "learning_rate"
        if not isinstance(settings.get(key), (int, float)) or not isinstance(base_batch, int) or base_batch < 1:
            raise UserError("Optimizer.lr.base_batch_size: needs a whole number, and learning_rate beside it")
        scaled = settings[key] * batch_size / base_batch
        note = f"learning rate {scaled:.4g}: {settings[key]:g} for a batch of {base_batch}, scaled to {batch_size}"
        settings[key] = number(scaled, "Optimizer.lr.learning_rate, scaled to the batch", *_RATE, above=True)
    warmup = settings.get("warmup_epoch", 0)
    if warmup and warmup >= epochs:
        length_by = f" that Global.iters={last_step} makes" if last_step else ""
        raise UserError(
            f"Optimizer.lr.warmup_epoch: {warmup} is not less than the run's {epochs} epochs{length_by}; "
            "-o Optimizer.lr.warmup_epoch=0 trains without warm-up"
        )
    length = {"epochs": epochs, "step_each_epoch": steps_per_epoch}
    if name in ("Linear", "Cosine"):
        # Counted in steps: Paddle wants a whole number of them, also where the warm-up is a part of an epoch.
        length = {"epochs": last_step or epochs * steps_per_epoch, "step_each_epoch": 1}
        settings["warmup_epoch"] = round((warmup or 0) * steps_per_epoch)
    built = call_checked(names[name], settings, "Optimizer.lr", length)
    if not isinstance(built, optimizer.lr.LRScheduler):
        try:
            built = built()
        except (TypeError, ValueError, AssertionError, ArithmeticError, LookupError) as error:
            raise UserError(f"Optimizer.lr: {' '.join(str(error).split()) or type(error).__name__}") from error
    return Schedule(built, bool(getattr(built, "by_epoch", False)), note)


def build_optimizer(section: Mapping[str, Any] | None, model: nn.Layer, schedule: Schedule) -> optimizer.Optimizer:
    """Build the optimizer of an `Optimizer` section over the trainable parameters of `model`.

    Raises:
        UserError: an unknown optimizer, regularizer or key.
    """
    settings = _section(section)
    settings.pop("lr", None)
    _check_numbers(settings, "Optimizer", NUMBERS)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in OPTIMIZERS:
        raise UserError(f"Optimizer.name: no optimizer '{name}'; {nearest(str(name), OPTIMIZERS)}")
    regularizer = settings.pop("regularizer", None)
    if regularizer is not None:
        if settings.get("weight_decay") is not None:
            raise UserError("Optimizer: give either regularizer or weight_decay, not both")
        kinds = {"L1": paddle.regularizer.L1Decay, "L2": paddle.regularizer.L2Decay}
        if (
            not isinstance(regularizer, Mapping)
            or set(regularizer) != {"name", "coeff"}
            or regularizer["name"] not in list(kinds)
        ):
            raise UserError(f"Optimizer.regularizer: expected {{name: L2, coeff: number}}, got {shown(regularizer)}")
        settings["weight_decay"] = kinds[regularizer["name"]](
            number(regularizer["coeff"], "Optimizer.regularizer.coeff", 0, 10)
        )
    each, whole = settings.pop("clip_norm", None), settings.pop("clip_norm_global", None)
    if each is not None and whole is not None:
        raise UserError("Optimizer: give either clip_norm (of each tensor) or clip_norm_global (of all), not both")
    for key, norm in (("clip_norm", each), ("clip_norm_global", whole)):
        if norm is not None and not norm > 0:  # Paddle turns the gradient around for a negative one of all
            raise UserError(f"Optimizer.{key}: expected a number above 0, got {norm}; leave it out for no clipping")
    clip = None
    if each is not None or whole is not None:
        clip = nn.ClipGradByNorm(each) if whole is None else nn.ClipGradByGlobalNorm(whole)
    common = {
        "learning_rate": schedule.lr,
        "parameters": [p for p in model.parameters() if not p.stop_gradient],
        "grad_clip": clip,
    }
    return call_checked(OPTIMIZERS[name], settings, "Optimizer", {"common": common})


# The linear rule was found to hold up to batches of 8192, which is a rate of 3.2 where 0.1 is for a batch of 256 (Goyal
# et al., "Accurate, Large Minibatch SGD", 2017); beyond this, training diverges.
LARGEST_RATE = 4.0
_RATE = (0.0, LARGEST_RATE)
_BELOW_1 = (0.0, math.nextafter(1.0, 0.0))
# Paddle takes anything for these. The least and the largest value of each.
LR_NUMBERS: dict[str, tuple[float, float]] = {
    "learning_rate": _RATE,
    "warmup_epoch": (0, MOST_EPOCHS),
    "warmup_start_lr": _RATE,
    "end_lr": _RATE,
    "eta_min": _RATE,
    "power": (0, 100),
    "gamma": (0, 10),
    "step_size": (1, MOST_EPOCHS),
    "last_epoch": (-1, MOST_EPOCHS),
    "base_batch_size": (1, 1_000_000),
}
NUMBERS = {
    "momentum": _BELOW_1,
    "weight_decay": (0, 10),
    "beta1": _BELOW_1,
    "beta2": _BELOW_1,
    "epsilon": (1e-30, 1),  # 0 divides by it where a gradient is 0
    "rho": _BELOW_1,
    "clip_norm": (-MOST, MOST),  # more is said of them where they are used
    "clip_norm_global": (-MOST, MOST),
}
ABOVE = ("learning_rate",)  # more than the least value: 0 would train nothing, while a schedule may start or end there
LISTS = {"decay_epochs": (0, MOST_EPOCHS), "milestones": (0, MOST_EPOCHS), "values": _RATE}
FLAGS = ("use_nesterov", "multi_precision", "one_dim_param_no_weight_decay", "by_epoch")


def _check_numbers(settings: Mapping[str, Any], where: str, bounds: Mapping[str, tuple[float, float]]) -> None:
    for key, value in settings.items():
        here = f"{where}.{key}"
        if key in FLAGS and not isinstance(value, bool):
            raise UserError(f"{here}: expected true or false, got {shown(value)}")
        if key in bounds and value is not None:
            number(value, here, *bounds[key], above=key in ABOVE)
        elif key in LISTS:
            if not isinstance(value, (list, tuple)):
                raise UserError(f"{here}: expected a list of numbers, got {shown(value)}")
            for part in value:
                number(part, here, *LISTS[key])
            if key == "values" and value and not any(value):
                raise UserError(f"{here}: expected a learning rate above 0 among them, got {shown(value)}")


def _section(section: Mapping[str, Any] | Sequence[Any] | None) -> dict[str, Any]:
    if isinstance(section, (list, tuple)):
        raise UserError("Optimizer: several optimizers with scopes (a list) are not supported; give one")
    if not section:
        raise UserError("Optimizer: the section is missing; a config that trains needs it")
    return dict(mapping(section, "Optimizer"))


def lr_of(section: Mapping[str, Any] | Sequence[Any] | None) -> Any:
    """`Optimizer.lr` of a config. Raises UserError if it is missing."""
    settings = _section(section)
    if "lr" not in settings:
        raise UserError("Optimizer.lr is missing: give a number or {name: Cosine, learning_rate: ...}")
    return settings["lr"]
