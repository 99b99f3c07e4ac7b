"""Timing calls of an engine, and comparing two of them: what the choice of an engine and the benchmark share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000  # draws of the bootstrap: the ends of a 95 % interval are then stable to a few percent of its width
CONFIDENCE = 0.95

Runner = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def make_inputs(inputs: Sequence[Mapping[str, Any]], seed: int) -> list[np.ndarray]:
    """Images as networks see them, of the given `shape` and `dtype`: standard normal numbers, or any pixels."""
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 256, spec["shape"], np.uint8)
        if spec["dtype"] == "uint8"
        else rng.standard_normal(spec["shape"]).astype(spec["dtype"])
        for spec in inputs
    ]


def timed(run: Runner, inputs: Sequence[np.ndarray], calls: int) -> list[int]:
    """Nanoseconds of each call, from arrays in to arrays out."""
    clock = time.perf_counter_ns
    taken = []
    for _ in range(calls):
        start = clock()
        run(inputs)
        taken.append(clock() - start)
    return taken


def ratio_interval(
    samples: np.ndarray, first: np.ndarray, seed: int, shares: Sequence[int] | None = None
) -> dict[str, float]:
    """How many times as long as the first a subject takes, with a bootstrap interval over processes and their rounds.

    The geometric mean over rounds of the ratio of the two medians of the round. A shared machine has fast and slow
    states; the two medians of a round are of the same state mostly, those of a whole run may be of different ones.

    Args:
        samples, first: milliseconds [rounds, calls]; the same rounds, calls may differ.
        shares: rounds of each process, in order; default: one process.
    """
    logs = np.log(np.median(samples, 1) / np.median(first, 1))
    rng = np.random.default_rng(seed)
    if shares is None or len(shares) < 2:
        means = rng.choice(logs, (RESAMPLES, len(logs))).mean(1)  # the draws of the loop below, a hundred times as fast
    else:
        means = np.empty(RESAMPLES)
        processes = np.split(logs, np.cumsum(shares)[:-1])
        for number in range(RESAMPLES):
            drawn = (processes[k] for k in rng.integers(0, len(processes), len(processes)))
            means[number] = np.concatenate([rng.choice(process, len(process)) for process in drawn]).mean()
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"ratio": float(np.exp(logs.mean())), "low": float(np.exp(low)), "high": float(np.exp(high))}


def undisturbed_ratio(fastest: np.ndarray, first: np.ndarray, share: float, seed: int) -> dict[str, float]:
    """How many times as long as the first a subject takes while nothing disturbs them, with a bootstrap interval.

    What else a shared machine does costs small networks other shares of their time than large ones. So how long it was
    in which state shows in `ratio_interval`, and less in the fastest rounds of each.

    Args:
        fastest, first: milliseconds of the fastest call in each round, [rounds].
        share: of the rounds that are taken for undisturbed, the fastest of each subject.
    """
    kept = max(1, round(share * len(fastest)))

    def level(rounds: np.ndarray) -> np.ndarray:
        return np.sort(rounds, -1)[..., :kept].mean(-1)

    drawn = np.random.default_rng(seed).integers(0, len(fastest), (RESAMPLES, len(fastest)))
    ratios = level(fastest[drawn]) / level(first[drawn])
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"ratio": float(level(fastest) / level(first)), "low": float(low), "high": float(high)}
