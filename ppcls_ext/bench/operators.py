"""Where the time of a model goes: each operator, how fast it runs, and how far that is from what the machine can do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ppcls_ext.bench.counters import PRINTING
from ppcls_ext.bench.session import Session, Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.bench.worker import CALL_MARK
from ppcls_ext.runtime.process import EngineFailed

CALLS = 30


def problem_flops(kind: str, problem: str) -> int | None:
    """Floating-point operations of a oneDNN problem, two for a multiply-add; None for kinds without a rule here.

    `mb1_g16ic16oc16_ih112oh112kh3...` is a convolution, `mb1ic1280oc1000` an inner product, `1x64:64x10` a matmul.
    """
    if kind == "matmul":
        a, b = ([int(n) for n in part.split("x")] for part in problem.split(":")[:2])
        return 2 * int(np.prod(a)) * b[-1]
    if kind not in ("convolution", "inner_product"):
        return None
    sizes = {name: int(value) for name, value in re.findall(r"([a-z]+)(\d+)", problem)}
    out = sizes["mb"] * sizes["oc"] * sizes.get("od", 1) * sizes.get("oh", 1) * sizes.get("ow", 1)
    kernel = sizes.get("kd", 1) * sizes.get("kh", 1) * sizes.get("kw", 1)
    if kind == "inner_product":  # the kernel of a fully connected layer is the whole input
        kernel = sizes.get("id", 1) * sizes.get("ih", 1) * sizes.get("iw", 1)
        out = sizes["mb"] * sizes["oc"]
    return 2 * out * sizes["ic"] // sizes.get("g", 1) * kernel


def read_verbose(log: str) -> list[list[dict[str, Any]]]:
    """Operators of each call in a log of oneDNN (versions 2 and 3), which `CALL_MARK` divides."""
    calls: list[list[dict[str, Any]]] = []
    for line in log.splitlines():
        if line == CALL_MARK.decode().strip():
            calls.append([])
        elif calls and line.startswith("onednn_verbose") and ",exec," in line:
            kind, kernel, *rest = line.split(",exec,", 1)[1].split(",")[1:]
            problem, milliseconds = rest[-2:]
            calls[-1].append(
                {
                    "kind": kind,
                    "kernel": kernel,
                    "detail": problem,
                    "ms": float(milliseconds),
                    "flops": problem_flops(kind, problem),
                }
            )
    return calls


def operators(calls: Sequence[Sequence[Mapping[str, Any]]], peak: float) -> list[dict[str, Any]]:
    """Each operator once, with the median of its time over calls, in the order in which they run.

    Calls of another length than the last are left out: the first also prepares weights.
    """
    alike = [call for call in calls if len(call) == len(calls[-1])]
    medians = [float(np.median([call[k]["ms"] for call in alike])) for k in range(len(alike[-1]))]
    total = sum(medians)  # not the median of the calls' sums: shares are then parts of one whole
    rows = []
    for op, milliseconds in zip(alike[-1], medians, strict=True):
        flops = op.get("flops")
        gflops = flops / milliseconds / 1e6 if flops and milliseconds else None
        rows.append(
            {
                "kind": op["kind"],
                "kernel": op["kernel"],
                "detail": op["detail"],
                "ms": milliseconds,
                "share": milliseconds / total if total else 0.0,
                "gflops": gflops,
                "of_peak": gflops / peak if gflops else None,
            }
        )
    return rows


def profile(subject: Subject, settings: Settings) -> dict[str, Any]:
    """Operator times of one predictor of a subject, with the median latency beside them.

    `covered` is the share of the latency that the operators account for; the rest is the engine around them.
    Raises:
        EngineFailed: the engine has no counters, or does not run.
    """
    subject = replace(subject, streams=1)  # operators of several would be timed while they wait for each other
    prints = subject.engine in PRINTING
    session = Session(subject, settings.pin, verbose=prints)
    try:
        session.open(settings.seed)
        latency = float(np.median(session("turn", calls=CALLS, discarded=settings.warmup)["ns"]) / 1e6)
        if prints:
            session("marked", calls=CALLS)
            calls = read_verbose(session.output())
        else:
            calls = session(
                "counters", folder=str(subject.model), engine=subject.engine, threads=subject.threads, calls=CALLS
            )
        peak = session("peak", threads=subject.threads)
    finally:
        session.close()
    if not calls or not calls[-1]:
        raise EngineFailed(f"engine {subject.engine} told no operator times")
    rows = operators(calls, peak)
    return {
        "label": subject.name,
        "engine": subject.engine,
        "threads": subject.threads,
        "batch": subject.batch,
        "streams": subject.streams,
        "calls": CALLS,
        "latency_ms": latency,
        "covered": sum(row["ms"] for row in rows) / latency,
        "peak_gflops": peak,
        "operators": rows,
    }
