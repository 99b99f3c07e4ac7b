"""`engine="auto"`: what is remembered of a choice, what is reported, and one selection among real engines."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ppcls_ext import Predictor
from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime import auto, contest
from ppcls_ext.runtime.auto import candidates, choose_fastest
from ppcls_ext.runtime.choice import EngineChoice
from ppcls_ext.runtime.contest import Name
from ppcls_ext.runtime.exported import Exported, read_exported, read_parity, sealed
from ppcls_ext.runtime.inference import Inference, build_inference
from ppcls_ext.runtime.remembered import cache_file, recall, remember
from tests.helpers.contenders import Fake

pytestmark = pytest.mark.slow  # an export of a trained network is made for it


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PPLCNET_CACHE", str(tmp_path / "cache"))
    assert cache_file() == tmp_path / "cache" / "engines.json"
    return cache_file()


Chooses = Callable[..., tuple[EngineChoice, int]]


@pytest.fixture
def choose(exported: Path, cache: Path) -> Chooses:
    """Choose with fake timings; gives the choice and how many engines were started for it."""

    def run_once(folder: Path = exported, threads: int = 1, batch: int = 1) -> tuple[EngineChoice, int]:
        model = read_exported(folder)
        expected = {f: [outputs for _, outputs in read_parity(model, f)] for f in model.formats}
        started = itertools.count()

        def start(name: Name) -> Fake:
            next(started)
            fake = Fake(1.0 if name == Name("onednn", "pdmodel") else 2.0)
            fake.outputs = lambda batches: expected[name.model_format]  # type: ignore[method-assign]
            return fake

        shapes = model.shapes(batch)
        assert shapes is not None
        return choose_fastest(model, inference_of(model), shapes, threads, start), next(started)

    return run_once


def inference_of(model: Exported) -> Inference:
    return build_inference(model.task, model.recipe, {})


def test_a_choice_is_remembered_for_the_model_the_threads_and_the_shape(
    choose: Chooses, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, started = choose()
    assert (first.engine, first.model_format, first.remembered) == ("onednn", "pdmodel", False)
    assert started == len(candidates(read_exported(exported)))
    again, started = choose()
    assert (again.engine, again.model_format, again.remembered, started) == ("onednn", "pdmodel", True, 0)
    assert again.candidates == first.candidates
    assert choose(threads=2)[1] > 0
    assert choose(batch=3)[1] > 0
    other = tmp_path / "other"
    shutil.copytree(exported, other)
    recipe = (other / "inference.yml").read_text().rsplit("recipe_sha256", 1)[0]
    (other / "inference.yml").write_text(sealed(recipe + "note: another\n"))
    assert choose(other)[1] > 0
    with monkeypatch.context() as patch:
        patch.setattr(auto, "cpuid", lambda: "another processor of that name")
        assert choose()[1] > 0
    assert choose()[1] == 0  # the others have not displaced it


def test_a_choice_made_beside_other_work_is_remembered_for_an_hour_only(
    choose: Chooses, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "DISTURBING_CORES", -1.0)  # any machine is busier than that
    first, _ = choose()
    assert "others took" in first.reason
    assert choose()[1] == 0
    content = json.loads(cache.read_text())
    for entry in content["entries"].values():
        assert 0 < entry["until"] - time.time() <= 3600
        entry["until"] -= 3601
    cache.write_text(json.dumps(content))
    assert choose()[1] > 0


def test_a_sole_engine_is_remembered_for_good_however_busy_the_machine_is(
    choose: Chooses, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "DISTURBING_CORES", -1.0)
    monkeypatch.setattr(auto, "candidates", lambda exported: [Name("onednn", "pdmodel")])
    sole, _ = choose()
    assert sole.reason == "no other engine is left"
    (entry,) = json.loads(cache.read_text())["entries"].values()
    assert entry["until"] is None


def test_another_version_of_an_engine_is_measured_again(choose: Chooses, monkeypatch: pytest.MonkeyPatch) -> None:
    choose()
    monkeypatch.setattr(auto, "version", lambda package: "99")
    assert choose()[1] > 0


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"format": 1, "entries": 3}', '{"format": 99, "entries": {}}'],
    ids=["empty", "cut off", "a list", "no entries", "a later format"],
)
def test_a_damaged_memory_is_measured_again_and_replaced(choose: Chooses, cache: Path, damage: str) -> None:
    choose()
    cache.write_text(damage)
    assert choose()[1] > 0
    assert choose()[1] == 0


@pytest.mark.parametrize("key", ["engine", "model_format", "candidates", "shapes"])
def test_a_damaged_entry_is_measured_again(choose: Chooses, cache: Path, key: str) -> None:
    choose()
    content = json.loads(cache.read_text())
    for entry in content["entries"].values():
        entry["value"][key] = [{"what": 1}]
    cache.write_text(json.dumps(content))
    assert choose()[1] > 0


def test_a_memory_that_cannot_be_written_is_one_line_and_no_failure(
    choose: Chooses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PPLCNET_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "pplcnet"):
        assert choose()[0].engine == "onednn"
    (message,) = caplog.messages
    assert "PPLCNET_CACHE" in message
    assert "\n" not in message


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPLCNET_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_file() == Path("/somewhere/pplcnet/engines.json")


def test_a_report_is_data_and_text(choose: Chooses) -> None:
    choice, _ = choose()
    text = str(choice).splitlines()
    assert text[0].startswith("engine onednn on pdmodel: it is the fastest")
    assert len(text) == 1 + len(choice.candidates)
    measured = {(c.engine, c.model_format): c for c in choice.candidates}
    assert measured["onednn", "pdmodel"].ms == 1.0
    assert measured["onednn", "pdmodel"].ratio == pytest.approx(0.5)  # half of the preferred engine's time
    assert json.loads(json.dumps(choice.to_dict()))["candidates"][0]["difference"] == 0


def test_an_export_without_outputs_is_refused(exported: Path, tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "inference"
    shutil.copytree(exported, folder)
    (folder / "parity.npz").unlink()
    with pytest.raises(UserError, match=r"no parity\.npz"):
        Predictor(folder, "auto")


def test_outputs_that_are_not_those_of_the_export_are_refused(exported: Path, tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "inference"
    shutil.copytree(exported, folder)
    (folder / "parity.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="is not the file that export wrote"):
        Predictor(folder, "auto")


def test_a_named_engine_is_reported_without_measuring(exported: Path, cache: Path) -> None:
    with Predictor(exported, "onednn") as predict:
        assert str(predict.report()) == "engine onednn on json: it was asked for"
        assert predict.chosen is None
    assert not cache.exists()


def test_real_engines_are_compared_and_one_is_taken(
    exported: Path, cache: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten seconds: it starts every engine that is installed with every format, each in a process."""
    monkeypatch.setattr(contest, "SECONDS", 0.1)
    with Predictor(exported, "auto", threads=1) as predict:
        report = predict.report()
        result = predict(next(data.rglob("*.png")))
    names = [(c.engine, c.model_format) for c in report.candidates]
    assert names[:2] == [("onednn", "json"), ("onednn", "pdmodel")]
    assert {("native", "json"), ("openvino", "pdmodel")} <= set(names)
    taken = report.candidates[names.index((report.engine, report.model_format))]
    assert not taken.refused
    assert taken.difference is not None
    assert taken.difference < 1e-3
    assert result.engine == predict.engine == report.engine
    with Predictor(exported, "auto", threads=1) as again:
        assert again.report().remembered


def test_a_memory_that_is_no_file_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PPLCNET_CACHE", str(tmp_path))
    cache_file().mkdir(parents=True)
    remember({"a": 1}, 2)
    assert "cannot be remembered there" in caplog.text
    assert recall({"a": 1}) is None
