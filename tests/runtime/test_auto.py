"""The choice of an engine: who takes part, who is taken, and what is remembered of it."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext import Predictor
from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime import auto, contest
from ppcls_ext.runtime.auto import candidates, choose_fastest
from ppcls_ext.runtime.choice import EngineChoice
from ppcls_ext.runtime.contest import Entry, Name, compete, decide
from ppcls_ext.runtime.exported import Exported, read_exported, read_parity, sealed
from ppcls_ext.runtime.inference import Inference, build_inference
from ppcls_ext.runtime.memory import cache_file
from ppcls_ext.runtime.process import EngineFailed

ONEDNN, ORT, OPENVINO = Name("onednn", "json"), Name("onnxruntime", "onnx"), Name("openvino", "pdmodel")
BATCHES = [[np.zeros((1, 2), np.float32)]]


class Fake:
    """A contender that takes so many milliseconds, with some noise, and gives one number."""

    def __init__(self, ms: float, noise: float = 0.0, output: float = 0.0, dies_after: int | None = None) -> None:
        self.ms, self.noise, self.output, self.dies_after = ms, noise, output, dies_after
        self.turns = 0
        self.closed = False
        self._rng = np.random.default_rng(round(1000 * ms))

    def outputs(self, batches: contest.Batches) -> list[list[np.ndarray]]:
        return [[np.array([self.output])] for _ in batches]

    def turn(self, calls: int, discarded: int) -> list[float]:
        self.turns += 1
        if self.dies_after is not None and self.turns > self.dies_after:
            raise EngineFailed("crashed with SIGSEGV")
        return list(self.ms * np.exp(self._rng.normal(0, self.noise, calls)))

    def close(self) -> None:
        self.closed = True


def run(fakes: Mapping[Name, Fake | EngineFailed], seconds: float = 1.0) -> tuple[list[Entry], contest.Decision | None]:
    def start(name: Name) -> Fake:
        fake = fakes[name]
        if isinstance(fake, EngineFailed):
            raise fake
        return fake

    found = compete(list(fakes), start, lambda _, outputs: float(outputs[0][0][0]), BATCHES, 1e-3, seconds)
    assert all(fake.closed for fake in fakes.values() if isinstance(fake, Fake))
    return found


def test_the_fastest_is_taken() -> None:
    _, decision = run({ONEDNN: Fake(2.0, 0.02), ORT: Fake(1.5, 0.02), OPENVINO: Fake(1.8, 0.02)})
    assert decision is not None
    assert decision.winner.name == ORT
    assert "fastest" in decision.reason


def test_the_fastest_is_not_taken_where_its_outputs_differ() -> None:
    entries, decision = run({ONEDNN: Fake(2.0), ORT: Fake(1.0, output=0.5), OPENVINO: Fake(1.5, output=float("nan"))})
    assert decision is not None
    assert decision.winner.name == ONEDNN
    assert "differ" in entries[1].refused
    assert entries[2].refused  # no number is no agreement
    assert not entries[1].rounds


def test_the_preferred_engine_is_taken_where_the_lead_is_within_the_noise() -> None:
    _, decision = run({ONEDNN: Fake(1.001, 0.3), ORT: Fake(1.0, 0.3)}, seconds=0.02)
    assert decision is not None
    assert decision.winner.name == ONEDNN


def rounds(ms: Sequence[float]) -> list[list[float]]:
    return [[value] for value in ms]


def test_a_decision_follows_the_ratios_within_rounds_and_not_the_medians_of_all() -> None:
    speed = [1.0, 1.3, 0.8, 2.0, 1.1, 0.9, 1.7, 1.0]  # of the machine, which changes
    onednn = Entry(ONEDNN, rounds=rounds([2.0 * s for s in speed]))
    faster = Entry(ORT, rounds=rounds([1.9 * s * e for s, e in zip(speed, [1, 1.01] * 4, strict=True)]))
    decision = decide([onednn, faster])
    assert decision.winner is faster
    assert decision.settled


def test_a_lead_that_may_be_none_is_not_settled() -> None:
    onednn = Entry(ONEDNN, rounds=rounds([1.0] * 8))
    other = Entry(ORT, rounds=rounds([0.7, 1.2] * 4))
    decision = decide([onednn, other])
    assert decision.winner is onednn
    assert "within the noise" in decision.reason
    assert not decision.settled  # more rounds could show that the other one is more than 3 % faster


def test_an_engine_that_crashes_is_refused_whenever_it_does() -> None:
    entries, decision = run({ONEDNN: Fake(2.0), ORT: EngineFailed("cannot open it"), OPENVINO: Fake(1.0, dies_after=5)})
    assert decision is not None
    assert decision.winner.name == ONEDNN
    assert [entry.refused for entry in entries] == ["", "cannot open it", "crashed with SIGSEGV"]


def test_a_hopeless_engine_is_not_timed_for_long() -> None:
    slow = Fake(20.0)
    entries, decision = run({ONEDNN: Fake(1.0), OPENVINO: slow})
    assert decision is not None
    assert slow.turns == 2  # to warm up
    assert "20.0 times" in entries[1].note


def test_an_engine_that_is_surely_slower_leaves_early() -> None:
    entries, _ = run({ONEDNN: Fake(1.0, 0.01), ORT: Fake(1.005, 0.2), OPENVINO: Fake(1.5, 0.01)}, seconds=0.3)
    assert len(entries[2].rounds) == contest.LEAST_ROUNDS


def test_no_engine_agrees() -> None:
    _, decision = run({ONEDNN: Fake(1.0, output=1.0), ORT: EngineFailed("no")})
    assert decision is None


def test_the_only_one_that_agrees_is_taken_without_timing() -> None:
    only = Fake(1.0)
    _, decision = run({ONEDNN: Fake(1.0, output=1.0), ORT: only})
    assert decision is not None
    assert decision.winner.name == ORT
    assert only.turns == 0


# With an exported folder


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
    return build_inference(model.task, model.recipe, {}, "{}")


def test_a_choice_is_remembered_for_the_model_the_threads_and_the_shape(
    choose: Chooses, exported: Path, tmp_path: Path
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
    assert choose()[1] == 0  # the others have not displaced it


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
    assert measured["onednn", "pdmodel"].ratio == pytest.approx(0.5)  # of the preferred engine's time
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
