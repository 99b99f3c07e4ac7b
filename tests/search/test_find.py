"""A search from its config to the network that it chooses, on an engine whose speed is made up."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.cli.main import main
from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.text import command_line
from ppcls_ext.models.network_spec import NetworkSpec, parse_spec
from ppcls_ext.models.weights import load_into, read_weights
from ppcls_ext.search import front as fronts
from ppcls_ext.search.find import Search
from ppcls_ext.search.judge import Judge, Quality
from ppcls_ext.search.latency import Accuracy, LatencyModel
from ppcls_ext.search.measurements import Calibration
from ppcls_ext.search.scores import Scorer
from ppcls_ext.search.wish import Wish
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.training.interrupts import Stopped


@pytest.fixture(autouse=True)
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "build", lambda network, work, formats: None)


def benchmark(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
    """Every network takes a millisecond, but for the first."""
    ratio = {"ratio": 0.5, "low": 0.4, "high": 0.6}
    rows = [{"failure": None, "ms": {"median": 2.0}, "ratio_to_first": {**ratio, "ratio": 0.5 + 0.5 * (k == 0)}}
            for k, _ in enumerate(subjects)]  # fmt: skip
    return {"results": rows, "warnings": []}


def fast_benchmark(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
    """Every network takes a hundredth of that, which is within the bound."""
    report = benchmark(subjects, settings)
    return {**report, "results": [{**row, "ms": {"median": 0.02}} for row in report["results"]]}


@pytest.mark.slow
def test_a_search_leaves_a_front_and_a_config_that_trains(wish: Wish, capsys: pytest.CaptureFixture[str]) -> None:
    """Trains a supernet of small networks for two epochs, and the chosen one for one."""
    front = Search(wish, benchmark).run()
    out = wish.out
    assert {"front.json", "front.md", "front.svg", "chosen.yaml", "chosen.pdparams"} <= {f.name for f in out.iterdir()}
    content = json.loads((out / "front.json").read_text())
    assert content["chosen"]["arch"] == front.chosen.arch
    assert all(row["predicted"] <= (wish.latency or 0) for row in content["rows"])
    page = (out / "front.md").read_text()
    assert str(out / "chosen.pdparams") in page  # the command that trains from its share
    assert f"**{front.chosen.name}**" in page
    assert "rank correlation with what the judge says" in page
    assert "Where the latency model was off" in page  # the made-up engine takes a millisecond for everything
    config = load_config(out / "chosen.yaml")
    task = make_task(config)
    assert task.class_num == 3
    weights = read_weights(out / "chosen.pdparams")
    assert load_into(task.build_model(), weights, "chosen") == []
    run = ["train", "-c", str(out / "chosen.yaml"), "-o", "Global.epochs=1"]
    assert main([*run, "-o", f"Global.pretrained_model={out / 'chosen.pdparams'}"]) == 0
    assert (out / "chosen" / "best.pdparams").is_file()

    # Another latency on the same supernet trains nothing.
    again = replace(wish, latency=0.95 * (wish.latency or 0), supernet=out, out=out.parent / "again")
    capsys.readouterr()
    Search(again, benchmark).run()
    assert "epoch 1/" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_that_was_stopped_finds_the_same_front(wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains two supernets of small networks for two epochs."""
    whole = Search(wish, benchmark).run()
    judge, calls = Judge.quality, list[int]()

    def stops(self: Judge, network: Any, own_statistics: bool = False) -> Quality:
        calls.append(1)
        if len(calls) in (2, 9):  # while the supernet trains, and while networks are judged
            os.kill(os.getpid(), signal.SIGTERM)
        return judge(self, network, own_statistics)

    monkeypatch.setattr(Judge, "quality", stops)
    again = replace(wish, out=wish.out.parent / "stopped")
    for place in ("training", "judging"):
        with pytest.raises(Stopped):
            Search(again, benchmark).run()
        if place == "training":  # the evaluation after the first epoch has written weights, of half a training
            assert (again.out / "supernet" / "last.pdparams").is_file()
            with pytest.raises(UserError, match="no supernet was trained to its end there; go on with the search"):
                Search(replace(again, supernet=again.out, out=again.out.parent / "third"), benchmark)
    assert Search(again, benchmark).run() == whole


@pytest.mark.slow
def test_short_trainings_judge_each_network_by_itself(wish: Wish) -> None:
    """Trains four small networks for an epoch; what else the config asks of its training is not in their way."""
    overrides = (*wish.overrides, "Global.early_stop=5")
    front = Search(replace(wish, overrides=overrides, accuracy="short", candidates=4, epochs=1), fast_benchmark).run()
    content = json.loads((wish.out / "candidates.json").read_text())
    assert len(content["candidates"]) == 4
    for candidate in content["candidates"]:
        assert (wish.out / "short" / parse_spec(candidate["arch"]).name / "last.pdparams").is_file()
    assert front.chosen.expected == max(candidate["expected"] for candidate in content["candidates"])


@pytest.mark.slow
def test_scores_alone_need_no_training_and_say_so(wish: Wish) -> None:
    front = Search(replace(wish, accuracy="scores", candidates=6), benchmark).run()
    assert front.conditions[0] == f"`{command_line()}`"
    assert any("Zen score alone, which ranks networks badly" in line for line in front.conditions)
    page = (wish.out / "front.md").read_text()
    assert "Zen score | params" in page
    assert "top-1" not in page  # nothing was judged by images


@pytest.mark.slow
def test_a_calibration_made_in_between_predicts_anew_and_keeps_what_was_judged(
    wish: Wish, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_scores = replace(wish, accuracy="scores", candidates=6)
    Search(by_scores, benchmark).run()
    earlier = {c["arch"]: c for c in json.loads((wish.out / "candidates.json").read_text())["candidates"]}
    scored: list[str] = []
    score = Scorer.__call__

    def seen(self: Scorer, spec: NetworkSpec, name: str = "zen") -> float:
        scored.append(spec.text)
        return score(self, spec, name)

    monkeypatch.setattr(Scorer, "__call__", seen)
    assert calibration.model is not None
    prices = {name: 0.98 * price for name, price in calibration.model.prices.items()}
    faster = replace(calibration, model=LatencyModel(calibration.target, prices))
    faster.save(tmp_path / "cache" / "latency" / "onednn-1-tiny.json")
    Search(by_scores, benchmark).run()
    assert faster.model is not None
    for candidate in json.loads((wish.out / "candidates.json").read_text())["candidates"]:
        assert candidate["ms"] == faster.model.predict(parse_spec(candidate["arch"]), 3)
        if candidate["arch"] in earlier:
            assert candidate["expected"] == earlier[candidate["arch"]]["expected"]
    assert not set(scored) & set(earlier)


def test_a_calibration_that_was_not_accepted_is_said_in_the_log_and_in_the_front(
    wish: Wish, calibration: Calibration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cache" / "latency" / "onednn-1-tiny.json"
    replace(calibration, accuracy={"model": Accuracy(0.071, 0.95, 0.98, 50)}).save(file)
    doubt = "warning: the calibration of onednn with 1 thread was not accepted: its median error is 7.1%, more than 5%"
    by_scores = replace(wish, accuracy="scores", candidates=6)
    front = Search(by_scores, benchmark).run()
    assert capsys.readouterr().err.splitlines().count(doubt) == 1
    assert doubt in front.conditions
    assert doubt in json.loads((wish.out / "front.json").read_text())["conditions"]
    assert f"- {doubt}\n" in (wish.out / "front.md").read_text()
    calibration.save(file)
    assert not any("warning" in line for line in Search(by_scores, benchmark).run().conditions)


def test_a_second_search_leaves_the_folder_of_a_running_one_alone(wish: Wish) -> None:
    by_scores = replace(wish, accuracy="scores", candidates=6)
    other = Search(replace(by_scores, overrides=(*wish.overrides, "Global.seed=7")), benchmark)
    Search(by_scores, benchmark).run()
    before = {file.name: file.read_bytes() for file in wish.out.iterdir() if file.is_file()}
    with FolderLock(wish.out, "search folder", "search.lock"), pytest.raises(UserError, match="is still writing there"):
        other.run()
    with pytest.raises(UserError, match="it is of a search with other settings"):  # it was begun after `other` looked
        other.run()
    del before["search.lock"]
    assert before.items() <= {file.name: file.read_bytes() for file in wish.out.iterdir() if file.is_file()}.items()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "say what to do: --calibrate measures networks"),
        (["-c", "my_images"], "give either --latency MS or --like NETWORK"),
        (["-c", "my_images", "--latency", "1", "--like", "PPLCNet_x0_5"], "give either --latency MS or --like NETWORK"),
        (["--calibrate", "--latency", "1"], "leave --latency out"),
        (["--calibrate", "-o", "Global.seed=1"], "leave --override out"),
        (["--calibrate", "--candidates", "9"], "leave --candidates out"),
        (["-c", "my_images", "--latency", "1", "--quick"], "only --calibrate has a use for it: leave --quick out"),
        (["-c", "my_images", "--latency", "1", "--work", "x"], "only --calibrate has a use for it: leave --work out"),
        (
            ["-c", "my_images", "--latency", "1", "--accuracy", "scores", "--epochs", "9"],
            "trains nothing: leave --epochs",
        ),
        (["-c", "my_images", "--latency", "1", "--accuracy", "short", "--supernet", "x"], "leave --supernet out"),
        (
            ["-c", "my_images", "--latency", "1", "--supernet", "x", "--epochs", "9"],
            "trained already: leave --epochs out",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *flags]) == 2
    assert message in capsys.readouterr().err
