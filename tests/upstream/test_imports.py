"""Modules of the suites are repaired as they are imported, and are imported quietly."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext import upstream
from ppcls_ext.upstream.imports import RepairingFinder, quiet_import, repair_on_import
from tests.helpers.processes import python_run


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
    result = python_run(UNUSED)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_importing_the_package_imports_neither_paddle_nor_a_suite() -> None:
    result = python_run("import sys, ppcls_ext\nassert not {'paddle', 'ppcls', 'numpy'} & set(sys.modules)")
    assert result.returncode == 0, result.stderr
