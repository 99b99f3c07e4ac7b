"""`ppcls_ext.upstream`: PaddleClas is found, kept single, kept quiet, and builds our networks."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_ext import upstream
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.factory import download_weights
from ppcls_ext.upstream.imports import RepairingFinder, quiet_import, repair_on_import
from ppcls_ext.upstream.paddle import let_mkl_use_avx2, methods_converted_once
from ppcls_ext.upstream.paddleclas import give_ppcls_a_logger, parameter_names_may_repeat, ppcls
from tests.helpers.processes import ROOT, SECONDS

# What a process prints last: who builds PPLCNet_x0_25 under each name of PaddleClas's `arch` that it imported.
REPORT = """
import json, sys
import ppcls.arch
config = {"Arch": {"name": "PPLCNet_x0_25", "class_num": 3}, "Global": {}}
names = [name for name in ("ppcls.arch", "paddleclas.ppcls.arch") if name in sys.modules]
owners = {name: type(sys.modules[name].build_model(config)).__mro__[1].__module__ for name in names}
import paddleclas.ppcls.data.preprocess.ops.autoaugment as alias
import ppcls.data.preprocess.ops.autoaugment as real
finders = sum(type(finder).__name__ == "PpclsFinder" for finder in sys.meta_path)
print(json.dumps({"owners": owners, "single": alias is real, "finders": finders}))
"""
PPCLS_ON_PATH = """
import importlib.util, sys
sys.path.append(importlib.util.find_spec("paddleclas").submodule_search_locations[0])
import ppcls.arch
import ppcls_ext
"""
ORDERS = {
    "ours first": "import ppcls_ext, ppcls.arch",
    "ours, then paddleclas": "import ppcls_ext, paddleclas",
    "paddleclas, then ours": "import paddleclas, ppcls_ext",
    "ppcls by sys.path, then ours": PPCLS_ON_PATH,
    "ours, then paddleclas.ppcls": "import ppcls_ext, paddleclas.ppcls.arch",
    "paddleclas.ppcls, then ours": "import paddleclas.ppcls.arch, ppcls_ext",
}


# Runs each program in a copy of a process that knows Paddle and no suite.
IN_COPIES = """
import json, os, sys, traceback
import paddle
for number, program in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if not child:
        status = 1
        try:
            exec(program, {})
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    print(json.dumps([number, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]), flush=True)
"""


def run(code: str, *options: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", code, given]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)


@pytest.mark.slow
def test_paddleclas_builds_ours_in_every_import_order() -> None:
    done = run(IN_COPIES, given=json.dumps([order + REPORT for order in ORDERS.values()]))
    said = done.stdout.splitlines()
    for number, order in enumerate(ORDERS):
        end = said.index(json.dumps([number, 0])) if json.dumps([number, 0]) in said else 0
        assert end, (order, done.stderr)
        report = json.loads(said[end - 1])
        assert set(report["owners"].values()) == {"ppcls_ext.models.lcnet"}, order
        assert report["single"], order
        assert report["finders"] == 1, order


@pytest.mark.slow
def test_imports_are_silent_and_free_of_warnings() -> None:
    """Slow: a fresh process imports Paddle and PaddleClas."""
    result = run("import ppcls_ext, ppcls.arch, ppcls.data, ppcls.loss, ppcls.optimizer, ppcls.metric", "-W", "error")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.slow
def test_paddle_warnings_that_tell_users_nothing_are_silent() -> None:
    # ShuffleNetV2 splits tensors in its forward, and every batch norm tracks statistics in training mode.
    """Slow: a fresh process imports Paddle."""
    code = "import ppcls_ext, paddle; from ppcls_ext.models.factory import build_arch; "
    code += "build_arch({'name': 'ShuffleNetV2_x0_33'})(paddle.zeros([2, 3, 32, 32]))"
    result = run(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


UNUSED = """
import sys
import ppcls_ext, ppcls.arch, ppcls.data, ppcls.loss, ppcls.metric, det.network, paddleseg.models, paddleseg.utils
assert not {"sklearn", "scipy.stats", "matplotlib.pyplot"} & set(sys.modules)

import copy
import paddleseg.utils.metrics
import ppcls.data.preprocess.ops.fmix
import ppcls.utils.metrics
assert copy.copy(ppcls.utils.metrics.accuracy_metric)([1], [1]) == 1
assert ppcls.utils.metrics.accuracy_metric([1, 0], [1, 1]) == 0.5
assert 0 < ppcls.data.preprocess.ops.fmix.beta.rvs(2, 2) < 1
assert paddleseg.utils.metrics.skmetrics.roc_auc_score([0, 1], [0.1, 0.2]) == 1
try:
    ppcls.utils.metrics.hamming_loss()
except TypeError:
    pass  # it is scikit-learn's, which wants arguments
else:
    sys.exit(1)

import matplotlib.pyplot, scipy.stats, sklearn.metrics  # the real ones
assert sklearn.metrics.accuracy_score([1], [1]) == 1 and scipy.stats.norm.cdf(0) == 0.5 and matplotlib.pyplot.figure()
"""


@pytest.mark.slow
def test_libraries_that_a_suite_imports_for_other_tasks_are_loaded_once_they_are_used() -> None:
    """Slow: a fresh process imports Paddle and the three suites."""
    result = run(UNUSED)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_importing_the_package_imports_neither_paddle_nor_a_suite() -> None:
    result = run("import sys, ppcls_ext\nassert not {'paddle', 'ppcls', 'numpy'} & set(sys.modules)")
    assert result.returncode == 0, result.stderr


def test_install_is_repeatable() -> None:
    upstream.install({})
    upstream.install({})
    assert sum(isinstance(finder, RepairingFinder) for finder in sys.meta_path) == 1


def test_what_is_installed_later_is_repaired_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "late_suite.py").write_text("import late_suite_part\nrepaired = 0\n")
    (tmp_path / "late_suite_part.py").write_text("raise RuntimeError('loaded')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    finder = next(f for f in sys.meta_path if isinstance(f, RepairingFinder))
    monkeypatch.setattr(finder, "repairs", dict(finder.repairs))
    monkeypatch.setattr(finder, "later", dict(finder.later))

    def repair(module: Any) -> None:
        module.repaired += 1

    repair_on_import({"late_suite": repair}, {"late_suite": ["late_suite_part"]})
    module = importlib.import_module("late_suite")
    try:
        assert module.repaired == 1
        repair_on_import({"late_suite": repair})
        assert module.repaired == 1
        assert importlib.reload(module).repaired == 1  # it was 0 again
    finally:
        del sys.modules["late_suite"]


def test_the_finder_leaves_other_modules_alone() -> None:
    finder = next(f for f in sys.meta_path if isinstance(f, RepairingFinder))
    assert finder.find_spec("json") is None
    assert finder.find_spec("ppcls_other") is None
    assert finder.find_spec("paddleclas.ppcls_other") is None
    with pytest.raises(ModuleNotFoundError):
        __import__("ppcls.no_such_module")
    with pytest.raises(ModuleNotFoundError):
        __import__("paddleclas.ppcls.no_such_module")


def test_paddleclas_modules_have_one_identity() -> None:
    for name in ("utils.logger", "data.preprocess", "arch.backbone.legendary_models.pp_lcnet"):
        with quiet_import():
            alias = __import__(f"paddleclas.ppcls.{name}", fromlist=["x"])
        assert alias is ppcls(name)
        assert alias.__spec__.name == f"ppcls.{name}"
    # Nor does looking a submodule up under the alias make a copy.
    assert sys.modules["paddleclas.ppcls.arch.backbone"] is sys.modules["ppcls.arch.backbone"]


def test_autoaugment_works_on_current_numpy() -> None:
    auto_augment = ppcls("data.preprocess").AutoAugment()
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    results = [auto_augment(image) for _ in range(40)]
    assert {(r.shape, r.dtype) for r in results} == {((32, 32, 3), np.dtype("uint8"))}
    assert any((r != image).any() for r in results)
    assert not hasattr(np, "int")  # only that module sees it


def test_ppcls_logger_works_without_setup(caplog: pytest.LogCaptureFixture) -> None:
    ppcls("utils.logger").warning("something is odd")
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [("ppcls", "WARNING", "something is odd")]


def test_a_logger_that_ppcls_has_set_up_is_kept() -> None:
    class Module:
        _logger = object()

    before = Module._logger
    give_ppcls_a_logger(Module)
    assert Module._logger is before


def test_quiet_import_hides_prints_and_warnings_but_not_errors(capsys: pytest.CaptureFixture[str]) -> None:
    def speak() -> None:
        print("banner")
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet_import():
            speak()
        assert (seen, capsys.readouterr().out) == ([], "")
        speak()  # only inside
    assert [str(warning.message) for warning in seen] == ["old"]
    assert capsys.readouterr().out == "banner\n"
    with pytest.raises(ZeroDivisionError), quiet_import():
        1 / 0  # noqa: B018


def test_repeated_parameter_names_are_allowed_only_inside() -> None:
    import paddle

    def build() -> Any:
        return paddle.nn.Linear(1, 1, weight_attr=paddle.ParamAttr(name="test_upstream_w"))

    build()
    with parameter_names_may_repeat():
        inside = build()
        with pytest.raises(ValueError, match="test_upstream_w"):
            build()  # still unique within one network
    assert inside.weight.name == "test_upstream_w"
    with pytest.raises(ValueError, match="test_upstream_w"):
        build()


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


def test_weights_are_fetched_but_not_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def fetch(url: str) -> str:
        asked.append(url)
        return str(tmp_path / "file.pdparams")

    monkeypatch.setattr(ppcls("utils.download"), "get_weights_path_from_url", fetch)
    names = ("PPLCNet_x1_0", "MobileNetV1", "MobileNetV3_small_x0_35")
    for name in names:
        assert download_weights(name) == tmp_path / "file.pdparams"
    assert [url.rsplit("/", 1)[1] for url in asked] == [f"{name}_pretrained.pdparams" for name in names]


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str) -> str:
        raise RuntimeError("no network")

    monkeypatch.setattr(ppcls("utils.download"), "get_weights_path_from_url", fail)
    with pytest.raises(
        UserError, match=r"cannot download https://\S+PPLCNet_x1_0_pretrained\.pdparams \(RuntimeError\)"
    ):
        download_weights("PPLCNet_x1_0")
    with pytest.raises(UserError, match="no public weights are known for PPLCNet_x0_5_no_se"):
        download_weights("PPLCNet_x0_5_no_se")


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


PAGE_FAULTS = """
import resource, sys
import {module}
from ppcls_ext.upstream.glibc import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        {call}
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{setup}
faults()
fresh = faults()
keep_freed_memory(2**28)
# The heap grows to what is needed, and again where something small that stays was put into what was free.
print(fresh, min(faults() for _ in range(10)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "setup", "call"),
    [
        ("paddle", "x = paddle.ones([64, 1024, 1024 // 4])", "paddle.nn.functional.relu(x)"),
        (
            "cv2, numpy",
            "x = cv2.imencode('.jpg', numpy.zeros((3000, 4000, 3), numpy.uint8))[1]",
            "cv2.imdecode(x, cv2.IMREAD_COLOR)",
        ),
    ],
    ids=["Paddle", "OpenCV"],
)
def test_freed_memory_is_used_again(module: str, setup: str, call: str) -> None:
    """Starts a process, whose C library is set up for good."""
    program = PAGE_FAULTS.format(module=module, setup=setup, call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    fresh, kept = map(int, done.stdout.split())
    assert kept < 0.01 * fresh


HEAP_FAULTS = """
import resource
from ppcls_ext.upstream.glibc import keep_freed_memory

for most in {asked}:
    keep_freed_memory(most)
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 2**26
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 2**26)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ([2**20], False),
        ([2**27], True),
        ([None, 2**20], True),
        ([2**20, None], True),
        ([2**27, 2**20], True),
        ([2**20, 2**27], True),
    ],
)
def test_who_asks_to_keep_most_is_served_in_any_order(asked: list[int | None], kept: bool) -> None:
    """Starts a process, whose C library is set up for good."""
    program = HEAP_FAULTS.format(asked=asked)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (float(done.stdout) < 0.01) == kept
