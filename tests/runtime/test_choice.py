"""Which engine runs an export: the preferred one, the one that is named, never reduced precision unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime import choice
from ppcls_ext.runtime.auto import candidates
from ppcls_ext.runtime.choice import Candidate, EngineChoice, choose_engine
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.engines.base import FLOAT, FLOAT_FORMATS, FORMATS, HOW_TO_EXPORT, Engine
from ppcls_ext.runtime.exported import Exported, ExportedInput

REDUCED = [name for name in ENGINES if engine_class(name).precision != FLOAT]


@pytest.fixture(autouse=True)
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "installed", classmethod(lambda cls: True))


def exported(*formats: str, accepted: tuple[str, ...] = ()) -> Exported:
    inputs = (ExportedInput("x", (-1, 3, 8, 8), "float32"),)
    return Exported(Path("out"), {}, "classification", formats, inputs, ("a",), accepted, {})


def chosen(exported: Exported, engine: str | None) -> tuple[str, str]:
    choice = choose_engine(exported, engine)
    return choice.engine, choice.model_format


def test_the_engines_of_reduced_precision() -> None:
    assert set(REDUCED) == {"onednn-bf16", "openvino-bf16", "openvino-int8"}
    assert set(HOW_TO_EXPORT) == set(FORMATS) == {*FLOAT_FORMATS, "int8"}


@pytest.mark.parametrize("engine", REDUCED)
def test_reduced_precision_runs_where_it_was_accepted(engine: str) -> None:
    accepted = exported(*FORMATS, accepted=(engine,))
    assert chosen(accepted, engine) == (engine, engine_class(engine).formats[0])


@pytest.mark.parametrize("engine", REDUCED)
def test_reduced_precision_that_was_not_accepted_is_one_line_with_both_ways_out(engine: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_engine(exported(*FORMATS), engine)
    text = str(caught.value)
    precision = engine_class(engine).precision
    assert text.startswith(f"exported model out: engine {engine} computes in {precision}, which this export has not")
    assert f"-o Export.{precision}=true" in text
    assert "--allow-reduced" in text
    assert "\n" not in text
    assert choose_engine(exported(*FORMATS), engine, allow_reduced=True).engine == engine


def test_an_int8_file_that_is_not_there_says_how_to_get_it() -> None:
    says = r"runs int8, and the folder has json, onnx; export again with pplcnet export -o Export\.int8=true"
    with pytest.raises(UserError, match=says):
        choose_engine(exported("json", "onnx"), "openvino-int8", allow_reduced=True)


def test_reduced_precision_is_not_chosen_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if someone puts it among the preferred ones."""
    assert not set(choice.PREFERRED) & set(REDUCED)
    monkeypatch.setattr(choice, "PREFERRED", (*REDUCED, "onnxruntime"))
    assert chosen(exported(*FORMATS), None) == ("onnxruntime", "onnx")
    assert chosen(exported(*FORMATS, accepted=("openvino-int8",)), None) == ("openvino-int8", "int8")


def test_auto_takes_engines_of_float32_only() -> None:
    """Accepted ones too are left out: auto takes what gives the outputs that the export stores."""
    tried = {name.engine for name in candidates(exported(*FORMATS, accepted=tuple(REDUCED)))}
    assert tried == set(ENGINES) - set(REDUCED)


MEASURED = EngineChoice(
    "onednn", "json", "why", (Candidate("onednn", "json", 0.0, 1.0, 3, 1.0, 0.9, 1.1),), 1, ((1, 3),)
)


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": [[float("inf")]]},
        {"shapes": [["1"]]},
        {"threads": "1"},
        {"reason": None},
        {"candidates": []},
        *({"candidates": [{name: "x"}]} for name in ("ms", "ratio", "difference", "rounds")),
        *({"candidates": [{name: float("nan")}]} for name in ("ms", "low")),
        {"candidates": [{"refused": None}]},
        {"candidates": [{"low": None}]},
    ],
    ids=str,
)
def test_a_remembered_choice_that_is_damaged_is_none(change: dict[str, Any]) -> None:
    whole = json.loads(json.dumps(MEASURED.to_dict()))
    assert EngineChoice.from_dict(whole).candidates == MEASURED.candidates
    changed = [{**whole["candidates"][0], **one} for one in change.get("candidates", whole["candidates"])]
    with pytest.raises((TypeError, ValueError)):
        EngineChoice.from_dict({**whole, **change, "candidates": changed})
