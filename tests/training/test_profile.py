"""A profile of steps names what they do, knows what kernels have to do, and leaves nothing behind."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from paddle.profiler import TracerEventType

from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.kernels.loops.dense import dense
from ppcls_ext.models.kernels.loops.norms import normalise
from ppcls_ext.models.kernels.work import KernelWork, work_of
from ppcls_ext.training.profile import (
    PARTS,
    REST,
    Cost,
    Profile,
    check_profilable,
    operator_name,
    profile,
    tables,
)
from tests.helpers.configs import config_of, write_config


def event(name: str, milliseconds: float, *inner: Any, operator: bool = True) -> Any:
    kind = TracerEventType.Operator if operator else TracerEventType.UserDefined
    end = int(milliseconds * 1e6)
    return SimpleNamespace(name=name, type=kind, start_ns=0, end_ns=end, children_node=list(inner))


def test_time_counts_once_where_it_was_spent() -> None:
    found = Profile(steps=1, threads=1, gflops=10, gbps=1)
    works = {"dense 2x3": KernelWork("dense 2x3", bytes=10**6, flops=10**7)}
    gradient = event("Global_GradNodePyLayer_Norm_backward", 5, event("dense 2x3", 4, operator=False))
    part = event("gradients", 8, gradient, event("Global_Pool2dGradNode", 1), operator=False)
    found.read(event("ProfileStep#0", 10, event("data", 1, operator=False), part, operator=False), works)
    spent = {name: round(cost.seconds * 1e3, 6) for name, cost in found.operators.items()}
    assert spent == {"Norm_backward": 1, "dense": 4, "Pool2d, gradient": 1, "waiting for data": 1, REST: 3}
    assert sum(spent.values()) == 10
    assert found.parts["gradients"].seconds == pytest.approx(0.008)
    # A copy of 1 MB takes 1 ms of this machine, 10 million operations likewise; it took 4.
    assert found.of_limit(found.problems["dense 2x3"]) == pytest.approx(0.25)
    assert math.isnan(found.of_limit(Cost(1, 0.5)))


@pytest.mark.parametrize(
    ("event_name", "name"),
    [
        ("conv2d dygraph", "conv2d"),
        ("Global_Conv2dGradNodeFinal", "Conv2d, gradient"),
        ("Global_GradNodePyLayer_ConvolutionNorm_backward", "ConvolutionNorm_backward"),
        ("Global_GradNodeAccumulation", "sum of gradients"),
    ],
)
def test_operators_have_short_names(event_name: str, name: str) -> None:
    assert operator_name(event_name) == name


def test_the_work_of_a_kernel_follows_from_its_arrays() -> None:
    x, weight, y = np.zeros((2, 3, 10), np.float32), np.zeros((4, 3), np.float32), np.zeros((2, 4, 10), np.float32)
    work = work_of(dense, (x, weight, y, np.empty((0, 2), np.float32), (3,), False))
    assert work == KernelWork("dense 2x3x10 4x3", bytes=4 * (60 + 12 + 80), flops=2 * 80 * 3)
    same = work_of(normalise, (y, y))
    assert (same.bytes, same.flops) == (4 * 80, 0)


def test_a_profile_goes_with_neither_a_resume_nor_several_processes() -> None:
    for processes, resumes in ((2, False), (1, True)):
        with pytest.raises(UserError, match="--profile"):
            check_profilable(processes, resumes)
    check_profilable(1, False)


@pytest.mark.slow
def test_steps_are_profiled_and_nothing_is_saved(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path / "output")
    config["Global"]["image_shape"] = [3, 32, 32]
    found = profile(load_config(write_config(tmp_path / "run.yaml", config)), 2)
    assert set(PARTS[:4]) <= set(found.parts)
    assert {"dense", "dense_backward", "convolve", "cross_entropy_with_softmax"} <= set(found.operators)
    assert sum(cost.seconds for cost in found.operators.values()) == pytest.approx(found.seconds, rel=0.05)
    assert found.images > 0
    shown = [row[0] for _, _, rows in tables(found, most=3) for row in rows]
    assert shown.count("all others") == 2
    assert not (tmp_path / "output").exists()


def test_without_our_kernels_no_table_speaks_of_them() -> None:
    found = Profile(steps=1, threads=1, gflops=10, gbps=1)
    found.seconds = found.images = 1
    shown = tables(found)
    assert len(shown) == 2
    assert not [title for title, _, _ in shown if "kernels" in title]
