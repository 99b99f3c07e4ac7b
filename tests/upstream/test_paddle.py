"""Workarounds for PaddlePaddle do what they are for."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.runtime.engines import open_engine
from ppcls_ext.runtime.exported import read_exported
from ppcls_ext.upstream.paddle import let_mkl_use_avx2, methods_converted_once, tensor_of
from tests.helpers.exports import classifier
from tests.helpers.processes import python_run

CALLS = 20
TERMINATED = """
import importlib, signal, sys, threading
import ppcls_ext
signal.signal(signal.SIGTERM, lambda *_: sys.exit("Python's handler"))
if sys.argv[1] == "thread":  # as an engine's owner does, here of a shell's background job, which has no SIGINT
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    thread = threading.Thread(target=importlib.import_module, args=("paddle",))
    thread.start()
    thread.join()
else:
    import paddle
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["main", "thread"])
def test_paddle_leaves_sigterm_to_python(where: str) -> None:
    """Slow: imports Paddle anew."""
    done = python_run(TERMINATED, given=where)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Python's handler\n")


def wakes_of_other_threads() -> int:
    """How often other threads of this process have gone to sleep so far."""
    found = 0
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != threading.get_native_id():
            try:
                lines = (task / "status").read_text().splitlines()
            except OSError:  # it has ended since
                continue
            found += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not count the switches of threads")
def test_a_call_does_not_wake_a_thread_for_each_tensor_that_it_frees(data: Path, tmp_path: Path) -> None:
    """Slow: exports a network. It has 41 primitives; without the workaround there are 32 wakes a call."""
    folder = classifier(tmp_path / "exported", data)
    engine = open_engine("onednn", folder, 1)
    inputs = [
        np.zeros([abs(side) for side in shape], np.float32) for shape in read_exported(folder).shapes(1, None) or []
    ]
    for _ in range(3):
        engine(inputs)
    before = wakes_of_other_threads()
    for _ in range(CALLS):
        engine(inputs)
    assert wakes_of_other_threads() - before < 5 * CALLS


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6, dtype=np.float16).reshape(2, 3)[:, ::2],
        np.arange(4, dtype=np.uint8),
        np.arange(4),
        np.array([True, False]),
        np.float32(2.5).reshape(()),
        np.zeros((0, 3), np.float32),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_a_tensor_has_the_values_of_its_array(array: np.ndarray) -> None:
    tensor = tensor_of(array)
    assert tensor.stop_gradient
    assert tensor.place.is_cpu_place()
    assert tensor.numpy().dtype == array.dtype
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_a_tensor_leaves_nothing_behind() -> None:
    array = np.zeros(4, np.float32)
    tensor_of(array)

    def lists() -> int:
        gc.collect()
        return sum(type(one) is list for one in gc.get_objects())

    before = lists()
    for _ in range(200):
        tensor_of(array)
    assert lists() < before + 100  # paddle.to_tensor leaves one each time


@pytest.mark.slow
def test_paddle_warnings_that_tell_users_nothing_are_silent() -> None:
    # ShuffleNetV2 splits tensors in its forward, and every batch norm tracks statistics in training mode.
    """Slow: a fresh process imports Paddle."""
    code = "import ppcls_ext, paddle; from ppcls_ext.models.factory import build_arch; "
    code += "build_arch({'name': 'ShuffleNetV2_x0_33'})(paddle.zeros([2, 3, 32, 32]))"
    result = python_run(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_method_of_many_layers_is_rewritten_once_for_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import paddle
    from paddle.jit.dy2static.program_translator import FunctionCache

    class Half(paddle.nn.Layer):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return x * 0.5

    rewritten: list[str] = []
    rewrite = FunctionCache._convert
    monkeypatch.setattr(
        FunctionCache,
        "_convert",
        lambda self, method: (rewritten.append(method.__qualname__), rewrite(self, method))[1],
    )
    network = paddle.nn.Sequential(Half(), Half(), Half())
    with methods_converted_once():
        graph = paddle.jit.to_static(
            network, input_spec=[paddle.static.InputSpec([1], "float32", "x")], full_graph=True
        )
        paddle.jit.save(graph, str(tmp_path / "eighth"))
    assert [name for name in rewritten if name.endswith("Half.forward")] == [Half.forward.__qualname__]
    assert float(paddle.jit.load(str(tmp_path / "eighth"))(paddle.ones([1]))) == 0.125


@pytest.mark.parametrize(
    ("cpu", "given", "expected"),
    [
        ("AuthenticAMD\nflags: fma avx2 bmi2", None, "5"),
        ("HygonGenuine\nflags: fma avx2 bmi2", None, "5"),
        ("AuthenticAMD\nflags: fma avx2 bmi2", "4", "4"),
        ("AuthenticAMD\nflags: fma sse4a", None, None),
        ("GenuineIntel\nflags: fma avx2 bmi2", None, None),
    ],
    ids=["AMD", "Hygon", "said otherwise", "without AVX2", "Intel"],
)
def test_mkl_is_told_of_avx2_where_it_does_not_see_it(
    cpu: str, given: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: cpu)
    monkeypatch.delenv("MKL_DEBUG_CPU_TYPE", raising=False)
    if given:
        monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", given)
    let_mkl_use_avx2()
    assert os.environ.get("MKL_DEBUG_CPU_TYPE") == expected
