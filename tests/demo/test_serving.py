"""The demo of the service: it works on a model of three classes as on that of the digits, and says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_ext.core.errors import CheckFailed
from ppcls_ext.demo import serving
from ppcls_ext.runtime.predictor import Predictor


@pytest.mark.slow
def test_the_demo_asks_compares_loads_and_stops(
    exported: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Slow: a process serves a trained model, for seconds."""
    monkeypatch.setattr(serving, "LOADED_S", 0.5)
    serving.run_demo(exported, sorted((data / "val").rglob("*.png"))[:3])
    shown = capfd.readouterr().err
    assert "each answer is what the Predictor gives" in shown
    assert "lost 0" in shown
    assert shown.rstrip().endswith("and is gone")


@pytest.mark.slow
def test_another_answer_is_a_check_that_failed(exported: Path, data: Path) -> None:
    """Slow: the model is trained."""
    file = sorted((data / "val").rglob("*.png"))[0]
    with Predictor(exported, threads=1) as predict:
        result = predict(file)
    answer = result.to_dict()
    serving.check_answer(answer, result, file)
    answer["predictions"][0]["score"] += 0.1
    with pytest.raises(CheckFailed, match="differ"):
        serving.check_answer(answer, result, file)


def test_a_missing_model_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert serving.main() == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "run `make demo` first" in line
