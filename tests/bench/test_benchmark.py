"""The benchmark measures what it says, fails by row, and adds nothing to what it measures."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_ext.bench.benchmark import (
    difference,
    output_warnings,
    ratio_interval,
    run_benchmark,
    summary,
)
from ppcls_ext.bench.changes import compare_reports, read_report
from ppcls_ext.bench.command import check_exports, name_of, subjects_from
from ppcls_ext.bench.session import Session, Subject, input_shapes
from ppcls_ext.bench.settings import Settings
from ppcls_ext.cli.main import main
from ppcls_ext.core.cpu import Busy
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.system import usable_cpus
from ppcls_ext.runtime.process import EngineFailed

QUICK = Settings(rounds=4, processes=2, iterations=12, warmup=3)
Fails = Callable[..., str]


@pytest.fixture(scope="module")
def report(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    broken = tmp_path_factory.mktemp("broken")
    shutil.copytree(exported, broken, dirs_exist_ok=True)
    weights = broken / "inference.pdiparams"
    weights.write_bytes(weights.read_bytes()[:1000])
    subjects = [
        Subject(exported, "native"),
        Subject(exported, "onednn", label="ours", batch=2),
        Subject(exported, "openvino", streams=2),
        Subject(broken, "onednn", label="broken"),
    ]
    return run_benchmark(subjects, QUICK)


@pytest.mark.slow
def test_every_subject_has_its_row_and_a_failed_one_its_reason(report: dict[str, Any]) -> None:
    native, onednn, openvino, broken = report["results"]
    assert [native["engine"], onednn["label"], onednn["batch"], openvino["streams"]] == ["native", "ours", 2, 2]
    assert broken["failure"]
    assert "\n" not in broken["failure"]
    assert "ms" not in broken
    for row in (native, onednn, openvino):
        assert row["failure"] is None
        assert row["n"] == 12 * row["streams"]
        assert [r["process"] for r in row["rounds"]] == [0, 0, 1, 1]
        ms = row["ms"]
        assert 0 < ms["min"] <= ms["median"] <= ms["p90"] <= ms["p95"] <= ms["p99"]
        assert row["parity"] <= 1e-3
        assert row["load_ms"] > 0
        assert row["first_run_ms"] > 0
        assert 0 < row["rss_before_mb"] < row["rss_after_mb"]
        assert row["ratio_to_first"]["low"] <= row["ratio_to_first"]["high"]
    assert native["ratio_to_first"]["ratio"] == 1
    assert (native["format"], openvino["format"]) == ("json", "pdmodel")


@pytest.mark.slow
def test_a_report_says_where_and_how_it_was_measured(report: dict[str, Any]) -> None:
    assert report["machine"]["cpu"]
    assert report["machine"]["usable_cores"] >= 1
    assert {"paddlepaddle", "numpy", "python"} <= set(report["versions"])
    assert report["settings"]["rounds"] == 4
    assert report["command"]
    assert report["harness_overhead_us"] > 0
    json.dumps(report)


@pytest.mark.slow
def test_more_threads_than_cores_is_warned_of(exported: Path) -> None:
    core = usable_cpus()[0]
    settings = Settings(rounds=2, processes=1, iterations=2, warmup=1, pin=(core,))
    found = run_benchmark([Subject(exported, threads=2)], settings, with_native=False)
    assert any("2 threads on 1 usable cores" in warning for warning in found["warnings"])


@pytest.mark.slow
def test_calls_that_are_discarded_are_not_other_processes(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor time that counts as ours is that of all calls: with a hundred times as many it is more.

    Slow: two benchmarks, each with its processes.
    """
    used: list[float] = []
    monkeypatch.setattr("ppcls_ext.core.cpu.Watch.busy", lambda _, ours: used.append(ours) or Busy(0, 0))
    for discarded in (0, 200):
        monkeypatch.setattr("ppcls_ext.bench.turns.DISCARDED", discarded)
        settings = Settings(rounds=2, processes=1, iterations=2, warmup=1)
        run_benchmark([Subject(exported, "native")], settings, with_native=False)
    assert used[1] > 3 * used[0]


@pytest.mark.slow
def test_a_crash_is_a_failure_with_the_signal(exported: Path) -> None:
    session = Session(Subject(exported))
    session.open(0)
    os.kill(session.pid, signal.SIGKILL)
    with pytest.raises(EngineFailed, match="crashed with SIGKILL"):
        session("turn", calls=1)
    session.close()


def test_statistics_on_known_numbers() -> None:
    samples = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 100.0]])
    found = summary(samples)
    assert (found["min"], found["median"]) == (1, 3.5)
    rng = np.random.default_rng(0)
    drift = rng.uniform(1, 3, (30, 1))  # a machine whose speed changes from round to round
    first = drift * rng.uniform(0.99, 1.01, (30, 5))
    second = 1.5 * drift * rng.uniform(0.99, 1.01, (30, 9))
    ratio = ratio_interval(second, first, seed=0)
    assert ratio["low"] <= 1.5 <= ratio["high"]
    assert ratio["ratio"] == pytest.approx(1.5, rel=0.01)


def test_a_ratio_is_of_what_ran_in_the_same_state_of_the_machine() -> None:
    """Half of the rounds are slow; a median over all of them would be of one state here and of the other there."""
    state = np.repeat([1.0, 1.6], [15, 15])[:, None]
    first, second = np.repeat(state, 5, 1), 2 * np.repeat(state, 5, 1)
    second[14] *= 1.6
    found = ratio_interval(second, first, seed=0)
    assert found["ratio"] == pytest.approx(2 * 1.6 ** (1 / 30))


def test_what_a_process_is_born_with_counts_as_chance() -> None:
    rng = np.random.default_rng(0)
    born = np.repeat([1.0, 1.1, 0.95, 1.05], 5)[:, None]  # each process is faster or slower for life
    samples = born * rng.uniform(0.999, 1.001, (20, 5))
    first = rng.uniform(0.999, 1.001, (20, 5))
    blind, aware = ratio_interval(samples, first, 0), ratio_interval(samples, first, 0, [5, 5, 5, 5])
    assert blind["ratio"] == aware["ratio"]
    assert aware["high"] - aware["low"] > 1.2 * (blind["high"] - blind["low"])


def test_rounds_are_shared_out_to_processes() -> None:
    assert Settings().shares() == [15, 15, 15, 15]
    assert Settings(rounds=7, processes=3).shares() == [3, 2, 2]
    assert Settings(rounds=2).shares() == [1, 1]


def test_parity_is_relative_to_the_largest_value() -> None:
    a = np.float32([[1000, 1]])
    assert difference([a + np.float32([0, 1])], [a]) == pytest.approx(1e-3)
    assert difference([np.array([1, 2, 3, 4])], [np.array([1, 2, 3, 5])]) == 0.25
    assert difference([a], [a[:, :1]]) is None


def test_outputs_that_falsify_timings_are_named() -> None:
    a, b = np.float32([1, 2]), np.float32([1, 3])
    assert output_warnings([a], [b]) == []
    assert "same output" in output_warnings([a], [a])[0]
    assert "denormal" in output_warnings([np.float32([1e-40, 1])], [b])[0]
    with pytest.raises(EngineFailed, match="not finite"):
        output_warnings([np.float32([np.nan, 1])], [b])


@pytest.mark.slow
def test_shapes_come_from_the_folder(exported: Path, tmp_path: Path) -> None:
    """Slow: a folder for each case is measured in processes of its own."""
    assert input_shapes(Subject(exported, batch=3)) == [{"shape": [3, 3, 48, 48], "dtype": "float32"}]
    with pytest.raises(UserError, match="its input is fixed at"):
        input_shapes(Subject(exported, size=(64, 64)))
    shutil.copy(exported / "legacy" / "inference.pdmodel", tmp_path)
    shutil.copy(exported / "legacy" / "inference.pdiparams", tmp_path)
    with pytest.raises(UserError, match="give --size"):
        input_shapes(Subject(tmp_path))
    settings = Settings(rounds=2, processes=1, iterations=2, warmup=1)
    foreign = run_benchmark([Subject(tmp_path, "onednn", size=(48, 48))], settings)
    assert foreign["results"][0]["failure"] is None  # a folder of another exporter runs too


def test_a_recipe_without_inputs_needs_a_size_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "inference.yml"
    recipe.write_text("PreProcess: {}")  # other exporters write such a file
    with pytest.raises(UserError, match="give --size"):
        input_shapes(Subject(tmp_path))
    assert input_shapes(Subject(tmp_path, size=(8, 9))) == [{"shape": [1, 3, 8, 9], "dtype": "float32"}]
    for wrong in ("3", "[]", "[{shape: x, dtype: float32}]", "[{shape: [1, 3]}]", "[{shape: [1], dtype: word}]"):
        recipe.write_text(f"inputs: {wrong}")
        with pytest.raises(UserError, match="inputs must be a list"):
            input_shapes(Subject(tmp_path))


def row(label: str, median: float, ratio: tuple[float, float, float]) -> dict[str, Any]:
    identity = {"label": label, "engine": "onednn", "threads": 1, "batch": 1, "size": None, "streams": 1}
    interval = dict(zip(("ratio", "low", "high"), ratio, strict=True))
    return {**identity, "failure": None, "ms": {"median": median}, "ratio_to_first": interval}


def test_comparison_says_what_changed() -> None:
    old = {"machine": {"cpu": "A"}, "versions": {"numpy": "1"}, "settings": {}}
    new = {"machine": {"cpu": "B"}, "versions": {"numpy": "1"}, "settings": {}}
    changes, rows = compare_reports(
        {**old, "results": [row("a", 1, (1, 1, 1)), row("b", 2, (2, 1.9, 2.1)), row("d", 1, (1, 0.9, 1.1))]},
        {**new, "results": [row("a", 1, (1, 1, 1)), row("b", 3, (3, 2.9, 3.1)), row("c", 1, (1, 1, 1))]},
    )
    assert changes == ["machine cpu: A -> B"]
    assert {r.label: r.verdict for r in rows} == {"a": "the first", "b": "slower", "c": "new", "d": "gone"}
    b = next(r for r in rows if r.label == "b")
    assert (b.old_ms, b.new_ms, b.new_over_old, b.old_ratio, b.new_ratio) == (2, 3, 1.5, 2, 3)


def test_ratios_to_different_subjects_are_not_compared() -> None:
    a, b = row("a", 1, (1, 1, 1)), row("b", 2, (2, 1.9, 2.1))
    turned = [row("b", 2, (1, 1, 1)), row("a", 1, (0.5, 0.4, 0.6))]
    _, rows = compare_reports({"results": [a, b]}, {"results": turned})
    assert {r.verdict for r in rows} == {"another first"}


def test_a_model_against_itself_keeps_both_rows() -> None:
    twice = [row("a", 1, (1, 1, 1)), row("a", 2, (2, 1.9, 2.1))]
    _, rows = compare_reports({"results": twice}, {"results": twice})
    assert [(r.old_ms, r.verdict) for r in rows] == [(1, "the first"), (2, "same")]


@pytest.mark.parametrize(
    "change",
    [{"engine": None}, {"threads": "1"}, {"streams": True}, {"failure": 3}, {"ms": {"median": -1.0}},
     {"ms": {"median": float("nan")}}, {"ratio_to_first": {"ratio": 1.0, "low": float("nan"), "high": 1.0}}],
    ids=str,
)  # fmt: skip
def test_a_row_of_an_old_report_with_something_else_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "old.json"
    content = {"machine": {}, "versions": {}, "settings": {}, "results": [row("a", 1, (1, 1, 1))]}
    file.write_text(json.dumps(content))
    assert read_report(file) == content
    content["results"][0] |= change  # type: ignore[index]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="it is not one; give a file that"):
        read_report(file)


def test_folders_of_one_name_are_told_apart_and_sweeps_in_sentences(tmp_path: Path) -> None:
    models = [tmp_path / "one" / "m", tmp_path / "two" / "m", tmp_path / "n"]
    subjects = subjects_from(models, ["native"], [1, 2], [1], None, 1)
    assert [s.name for s in subjects[::2]] == [str(models[0]), str(models[1]), "n"]
    found = {"label": "n", "engine": "native", "threads": 2, "batch": 4, "streams": 1}
    assert name_of(found) == "n on native, 2 threads, batch 4"


@pytest.mark.slow
def test_the_command_writes_json_and_compares(exported: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "report.json"
    few = ["--rounds", "2", "--processes", "1", "--iterations", "4", "--warmup", "1"]
    command = ["benchmark", "-m", str(exported), *few, "--engine"]
    assert main([*command, "onednn", "openvino", "--json", str(file)]) == 0
    assert main([*command, "onednn", "--compare", str(file)]) == 0
    shown = capsys.readouterr()
    assert "compared with the old report" in shown.out
    assert {r["engine"] for r in json.loads(file.read_text())["results"]} == {"onednn", "openvino"}


@pytest.mark.slow
def test_wrong_input_is_one_line(exported: Path, tmp_path: Path, fails: Fails) -> None:
    assert "did you mean 'onednn'?" in fails("benchmark", "-m", exported, "--engine", "onedn")
    assert "no such folder" in fails("benchmark", "-m", tmp_path / "nowhere")
    assert "either --iterations or --seconds" in fails("benchmark", "-m", exported, "--iterations", 3, "--seconds", 1)
    assert "may not use that core" in fails("benchmark", "-m", exported, "--pin", 4095)
    assert "benchmark.seconds" in fails("benchmark", "-m", exported, "--seconds", -1)
    without = shutil.copytree(exported, tmp_path / "without", ignore=shutil.ignore_patterns("onnx"))
    needs = fails("benchmark", "-m", without, "--engine", "onnxruntime", "--rounds", 2, status=1, lines=None)
    assert "export again with pplcnet export --formats onnx" in needs


@pytest.mark.slow
def test_an_export_that_was_changed_is_not_measured(
    exported: Path, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an engine makes of it would be said to be the model's latency."""
    monkeypatch.setattr("ppcls_ext.bench.command.run_benchmark", lambda *_: pytest.fail("it measures"))
    copy = shutil.copytree(exported, tmp_path / "copy")
    weights = copy / "inference.pdiparams"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert "inference.pdiparams is not the file that export wrote" in fails("benchmark", "-m", copy)


def test_a_folder_of_another_tool_is_left_to_the_engines(tmp_path: Path) -> None:
    """PaddleX, too, writes a file that is called `inference.yml`."""
    check_exports([Subject(tmp_path)])
    (tmp_path / "inference.yml").write_text("Global: {model_name: PP-LCNet_x1_0}\nPreProcess: {}\n")
    check_exports([Subject(tmp_path)])
    with pytest.raises(UserError, match="engine 'onedn' is unknown"):
        check_exports([Subject(tmp_path, "onedn")])


@pytest.mark.slow
def test_flags_are_checked_before_anything_is_measured(
    exported: Path, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppcls_ext.bench.command.run_benchmark", lambda *_: pytest.fail("it measures"))
    assert "give at least 1000" in fails("benchmark", "-m", exported, "--soak", 5)
    assert "this is a folder" in fails("benchmark", "-m", exported, "--json", tmp_path)
    (tmp_path / "file").write_text("")
    assert "cannot be made" in fails("benchmark", "-m", exported, "--json", tmp_path / "file" / "now.json")
    os.mkfifo(tmp_path / "fifo")
    assert "fifo" in fails("benchmark", "-m", exported, "--json", tmp_path / "fifo")
    old = tmp_path / "old.json"
    conditions = {"machine": {}, "versions": {}, "settings": {}}
    for content in ({}, [], {**conditions, "results": 3}, {**conditions, "results": [{}]}):
        old.write_text(json.dumps(content))
        assert "it is not one" in fails("benchmark", "-m", exported, "--compare", old)
    old.write_text("{")
    assert "cannot be read" in fails("benchmark", "-m", exported, "--compare", old)
