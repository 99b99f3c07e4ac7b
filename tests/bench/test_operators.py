"""Operator times are read right, and their floating-point operations counted right."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_ext.bench.counters import operator_flops
from ppcls_ext.bench.operators import operators, problem_flops, profile, read_verbose
from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.runtime.process import EngineFailed


@pytest.mark.parametrize(
    ("kind", "problem", "flops"),
    [
        ("convolution", "mb1_ic3oc16_ih224oh112kh3sh2dh0ph1_iw224ow112kw3sw2dw0pw1", 2 * 112 * 112 * 16 * 3 * 9),
        ("convolution", "g32mb2_ic32oc32_ih56oh56kh5sh1dh0ph2_iw56ow56kw5sw1dw0pw2", 2 * 2 * 56 * 56 * 32 * 25),
        ("inner_product", "mb1ic1280oc1000", 2 * 1280 * 1000),
        ("inner_product", "mb4ic8ih7iw7oc10", 2 * 4 * 8 * 49 * 10),
        ("matmul", "2x64:64x10", 2 * 2 * 64 * 10),
        ("reorder", "1x3x224x224", None),
    ],
)
def test_operations_of_a_problem(kind: str, problem: str, flops: int | None) -> None:
    assert problem_flops(kind, problem) == flops


@pytest.mark.parametrize(
    ("kind", "inputs", "output", "flops"),
    [
        ("Conv", [[2, 3, 224, 224], [8, 3, 3, 3], [8]], [2, 8, 112, 112], 2 * 2 * 8 * 112 * 112 * 27),
        ("Conv", [[1, 16, 56, 56], [16, 1, 5, 5]], [1, 16, 56, 56], 2 * 16 * 56 * 56 * 25),
        ("GroupConvolution", [[1, 16, 56, 56], [16, 1, 1, 5, 5]], [1, 16, 56, 56], 2 * 16 * 56 * 56 * 25),
        ("Gemm", [[4, 1280], [1280, 10], [10]], [4, 10], 2 * 4 * 1280 * 10),
        ("Softmax", [[1, 10]], [1, 10], None),
    ],
)
def test_operations_by_shapes(kind: str, inputs: list[list[int]], output: list[int], flops: int | None) -> None:
    assert operator_flops(kind, inputs, output) == flops


LOG = """onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:1
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32 dst:f32,,,8,0.5
#call
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32 dst:f32,,,8,0.5
onednn_verbose,v1,primitive,exec,cpu,inner_product,brgemm,forward_inference,src,,,mb1ic10oc5,3
#call
onednn_verbose,v1,primitive,exec,cpu,inner_product,brgemm,forward_inference,src,,,mb1ic10oc5,1
#call
onednn_verbose,primitive,exec,cpu,inner_product,brgemm,forward_inference,src,,,mb1ic10oc5,2
"""


def test_a_verbose_log_is_divided_into_calls_and_the_first_odd_one_is_left_out() -> None:
    calls = read_verbose(LOG)
    assert [len(call) for call in calls] == [2, 1, 1]
    (row,) = operators(calls, peak=0.001)
    assert (row["kind"], row["ms"], row["share"]) == ("inner_product", 1.5, 1.0)
    assert row["gflops"] == pytest.approx(100 / 1.5e-3 / 1e9)
    assert row["of_peak"] == pytest.approx(row["gflops"] / 0.001)


def test_shares_are_parts_of_one_whole_also_where_calls_differ() -> None:
    def call(a: float, b: float) -> list[dict[str, object]]:
        return [{"kind": k, "kernel": "", "detail": "", "ms": ms} for k, ms in (("a", a), ("b", b))]

    rows = operators([call(1, 9), call(1, 1), call(9, 1)], peak=1)  # each median is 1, that of the sums is 10
    assert [row["share"] for row in rows] == [0.5, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onednn", "openvino"])
def test_a_profile_accounts_for_the_network(exported: Path, engine: str) -> None:
    found = profile(Subject(exported, engine), Settings(warmup=2))
    convolutions = [op for op in found["operators"] if op["kind"] == "convolution"]
    assert len(convolutions) >= 1 + 2 * 13  # the stem, and two in each of the 13 blocks
    assert sum(op["share"] for op in found["operators"]) == pytest.approx(1)
    assert all(op["gflops"] > 0 for op in convolutions if op["ms"] > 0)
    assert found["latency_ms"] > 0


@pytest.mark.slow
def test_an_engine_without_counters_says_so(exported: Path) -> None:
    with pytest.raises(EngineFailed, match="does not tell the time of its operators"):
        profile(Subject(exported, "native"), Settings(warmup=2))
