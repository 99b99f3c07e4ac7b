"""PaddleClas is found, kept single, kept quiet, and builds our networks."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest

from ppcls_ext.upstream.imports import quiet_import
from ppcls_ext.upstream.paddleclas import give_ppcls_a_logger, parameter_names_may_repeat, ppcls
from tests.helpers.processes import python_run

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


@pytest.mark.slow
def test_paddleclas_builds_ours_in_every_import_order() -> None:
    done = python_run(IN_COPIES, given=json.dumps([order + REPORT for order in ORDERS.values()]))
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
    code = "import ppcls_ext, ppcls.arch, ppcls.data, ppcls.loss, ppcls.optimizer, ppcls.metric"
    result = python_run(code, "-W", "error")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


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
