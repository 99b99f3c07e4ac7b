"""A latency model: prices of one machine, engine and number of threads for what networks make it do."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pydantic
from scipy.optimize import nnls
from scipy.stats import spearmanr

from ppcls_ext.core.stored import STORED, Count
from ppcls_ext.models.network_spec import CLASSES, NetworkSpec
from ppcls_ext.search.costs import costs_of

# Prices of costs that always go together share what both cost: without it, any division would do as well, and the
# last bit of a sum would decide. It is far too small to change what is certain.
RIDGE = 1e-3
CLOSE = 0.1  # a prediction within this share of what was measured is a good one


@dataclass(frozen=True)
class Target:
    """What a latency model is of; figures of another target do not hold.

    Attributes:
        cpu: name and instruction sets of the processor.
        versions: of the engine's packages.
        cpuid: which processor of its name it is, see `ppcls_ext.core.cpu.cpuid`; empty: not told, and of any.
    """

    __pydantic_config__ = STORED

    cpu: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    engine: str
    threads: Count
    versions: Mapping[str, str | None]
    cpuid: str = ""

    def differences(self, other: Target) -> list[str]:
        """What differs from `other`, each as `what: this, not that`."""
        known = ("cpuid",) if self.cpuid and other.cpuid else ()
        return [
            f"{what}: {_shown(getattr(self, what))}, not {_shown(getattr(other, what))}"
            for what in ("cpu", *known, "engine", "threads", "versions")
            if getattr(self, what) != getattr(other, what)
        ]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name} {version}" for name, version in value.items())
    return " ".join(value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True)
class Accuracy:
    """How far predictions are from what was measured, of networks that the model has not seen.

    Attributes:
        median: of the relative errors.
        close: share of networks with an error of at most `CLOSE`.
        spearman: rank correlation.
        n: networks.
    """

    __pydantic_config__ = STORED

    median: float
    close: float
    spearman: float
    n: int


def accuracy(predicted: Sequence[float], measured: Sequence[float]) -> Accuracy:
    """See `Accuracy`; needs two networks at least."""
    errors = np.abs(np.array(predicted) / np.array(measured) - 1)
    return Accuracy(
        float(np.median(errors)),
        float((errors <= CLOSE).mean()),
        float(spearmanr(predicted, measured).statistic),
        len(errors),
    )


@dataclass(frozen=True)
class LatencyModel:
    """Milliseconds of a network: the sum of its costs at the prices of a target.

    Attributes:
        prices: milliseconds for a unit of each cost, see `costs_of`; none is negative.
    """

    __pydantic_config__ = STORED

    target: Target
    prices: Mapping[str, Annotated[float, pydantic.Field(ge=0)]]

    def predict(self, spec: NetworkSpec, class_num: int = CLASSES) -> float:
        """Milliseconds of a call with one image of the spec's input size."""
        return sum(self.prices.get(name, 0.0) * value for name, value in costs_of(spec, class_num).items())

    @property
    def fingerprint(self) -> str:
        """A text that another one has where any latency is predicted otherwise."""
        return hashlib.sha256(json.dumps(dict(self.prices), sort_keys=True).encode()).hexdigest()[:16]

    def unknown(self, spec: NetworkSpec) -> list[str]:
        """Kinds of operations of a network that no network of the calibration had."""
        return sorted({name.partition(".")[0] for name in costs_of(spec) if name not in self.prices})


def fit(target: Target, specs: Sequence[NetworkSpec], ms: Sequence[float], weights: Sequence[float]) -> LatencyModel:
    """The prices with the least weighted squares of relative errors; no price is negative.

    Args:
        ms: measured latency of each network.
        weights: of each network's error.
    """
    rows = [costs_of(spec) for spec in specs]
    names = sorted({name for row in rows for name in row})
    matrix = np.array([[row.get(name, 0.0) for name in names] for row in rows])
    scale = np.array([math.sqrt(w) / t for w, t in zip(weights, ms, strict=True)])
    units = np.abs(matrix).max(axis=0)  # columns of like size, which the solver needs
    left = np.vstack([matrix * scale[:, None] / units, RIDGE * np.eye(len(names))])
    found, _ = nnls(left, np.concatenate([np.array(ms) * scale, np.zeros(len(names))]))
    return LatencyModel(target, {name: float(p) for name, p in zip(names, found / units, strict=True)})


# What a latency model has to reach on networks that it has not seen, before anything is decided by it.
MOST_MEDIAN, LEAST_CLOSE, LEAST_SPEARMAN = 0.05, 0.90, 0.97
LEAST_JUDGED = 20  # networks; fewer may be close by chance


def shortfalls(found: Accuracy) -> list[str]:
    """Where a model is less accurate than it has to be, in words; empty where it is accepted."""
    missed = []
    if found.n < LEAST_JUDGED:
        missed.append(f"only {found.n} networks judged it, fewer than {LEAST_JUDGED}")
    if not found.median <= MOST_MEDIAN:
        missed.append(f"its median error is {found.median:.1%}, more than {MOST_MEDIAN:.0%}")
    if not found.close >= LEAST_CLOSE:
        missed.append(f"only {found.close:.0%} of networks are within {CLOSE:.0%}, fewer than {LEAST_CLOSE:.0%}")
    if not found.spearman >= LEAST_SPEARMAN:
        missed.append(f"its rank correlation is {found.spearman:.3f}, below {LEAST_SPEARMAN}")
    return missed
