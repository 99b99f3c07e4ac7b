"""The front of a search as it is measured, on an engine that is made up."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.cli.main import build_parser
from ppcls_ext.core.config import load_config, merge, run_folder_path
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.yaml_files import parse_yaml, read_yaml
from ppcls_ext.search import front as fronts
from ppcls_ext.search.calibrate import Benchmark
from ppcls_ext.search.evolution import SearchedNetwork
from ppcls_ext.search.folder import SearchFolder
from ppcls_ext.search.front import (
    MOST_MEASURED,
    Front,
    Measuring,
    gains,
    measured_front,
    missed,
    misses,
    thinned,
    write_front,
)
from tests.helpers.spaces import latency, tiny_space

SPECS = tiny_space().samples(4, seed=3)
JUDGED = [SearchedNetwork(spec.text, latency(spec), 0.5 + latency(spec) / 10, 0.5, 0) for spec in SPECS]
SCALE = tiny_space().largest()  # stands for a scale of PP-LCNet


@pytest.fixture(autouse=True)
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "build", lambda network, work, formats: None)


def engine(pace: float = 1.0, slow: str = "", dies: str = "") -> Benchmark:
    """An engine that takes `pace` times as long as predicted, and for one network half as long again."""
    known = {spec.name: latency(spec) for spec in SPECS} | {"scale": latency(SCALE)}

    def run(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
        ms = [pace * known[s.name] * (1.5 if s.name == slow else 1.0) for s in subjects]
        rows = [
            {
                "failure": "crashed with SIGSEGV" if subject.name == dies else None,
                "ms": {"median": value},
                "ratio_to_first": {"ratio": value / ms[0], "low": value / ms[0], "high": value / ms[0]},
            }
            for subject, value in zip(subjects, ms, strict=True)
        ]
        return {"results": rows, "warnings": []}

    return run


def found(benchmark: Benchmark, bound: float = 10.0, like: str | None = None) -> Front:
    measuring = Measuring("onednn", 1, 3, Path("nowhere"), benchmark)
    return measured_front(JUDGED, {"scale": SCALE}, latency, bound, measuring, ["made up"], like)


def test_the_best_network_within_the_bound_is_chosen() -> None:
    slowest = max(latency(spec) for spec in SPECS)
    assert found(engine()).chosen.measured == pytest.approx(slowest)
    assert found(engine(), bound=0.9 * slowest).chosen.measured < 0.92 * slowest
    none = found(engine(), bound=0.01)
    assert none.chosen == min(none.rows, key=lambda row: row.measured)
    assert [row.name for row in none.others] == ["scale"]


def test_a_machine_that_is_slow_for_all_is_said_once_and_taken_out() -> None:
    slow = max(SPECS, key=latency).name
    front = found(engine(pace=2.0, slow=slow))
    assert front.pace == pytest.approx(2.0)
    general, *of_networks = misses(front)
    assert general.startswith("all took 2.00 times as long as predicted")
    assert [line.partition(":")[0] for line in of_networks] == [slow]
    assert "(-33%)" in of_networks[0]
    assert misses(found(engine())) == []


def test_a_bound_that_is_a_network_s_holds_at_any_pace() -> None:
    predicted = latency(SCALE)
    for pace in (1.0, 3.0):
        front = found(engine(pace), bound=predicted, like="scale")
        assert front.bound == pytest.approx(pace * predicted)
        assert front.chosen.arch == max(JUDGED, key=lambda c: c.ms).arch


def test_a_network_that_does_not_run_is_one_line() -> None:
    with pytest.raises(UserError, match=f"engine onednn does not run {SPECS[0].name}: crashed with SIGSEGV"):
        found(engine(dies=SPECS[0].name))


def test_what_else_ran_while_the_front_was_measured_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def busy(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
        return {**engine()(subjects, settings), "warnings": ["other processes used 0.9 cores meanwhile"]}

    doubt = "warning: other processes used 0.9 cores meanwhile"
    assert list(found(busy).conditions) == ["made up", doubt]  # which the page lists
    assert doubt in capsys.readouterr().err


def test_a_long_front_is_thinned_to_its_ends_and_some_between() -> None:
    front = [SearchedNetwork(str(k), k, k, k, 0) for k in range(50)]
    kept = thinned(front)
    assert len(kept) == MOST_MEASURED
    assert (kept[0], kept[-1]) == (front[0], front[-1])


def test_the_page_names_the_chosen_network_and_what_was_not_judged(tmp_path: Path) -> None:
    config = {"Global": {}, "Arch": {"name": "PPLCNet_x0_5", "class_num": 3}}
    front = found(engine(pace=2.0), bound=0.01)
    folder = SearchFolder(tmp_path)
    write_front(front, JUDGED, config, folder)
    page = folder.front_page.read_text()
    assert f"| **{front.chosen.name}** |" in page
    assert "| scale |" in page
    assert "not judged" in page
    assert f"Warning: {missed(front)}." in page
    assert missed(front).startswith("no network of the front was measured within 0.01 ms; the fastest is chosen")
    assert missed(found(engine())) == ""
    assert read_yaml(folder.chosen_config)["Arch"]["arch"] == front.chosen.arch
    assert config["Arch"]["name"] == "PPLCNet_x0_5"  # the user's config stays what it is


def with_judged_scale(expected: float, slow: str = "", by_score: bool = False, learned: bool = True) -> Front:
    judged = [*JUDGED, SearchedNetwork(SCALE.text, latency(SCALE), expected, 0.5, 0)]
    measuring = Measuring("onednn", 1, 3, Path("nowhere"), engine(slow=slow))
    return measured_front(
        judged, {"scale": SCALE}, latency, 10.0, measuring, ["made up"], by_score=by_score, learned=learned
    )


def test_the_page_says_what_is_as_good_as_a_scale_and_faster(tmp_path: Path) -> None:
    by_latency = sorted(JUDGED, key=lambda one: one.ms)
    assert latency(SCALE) > by_latency[-1].ms
    between = (by_latency[1].expected + by_latency[2].expected) / 2
    front = with_judged_scale(between)
    ((scale, network),) = front.as_good()
    assert scale.name == "scale"
    assert network.arch == by_latency[2].arch  # the fastest are judged worse
    folder = SearchFolder(tmp_path)
    config = load_config("my_images")
    config["Arch"]["class_num"] = 3
    write_front(front, JUDGED, config, folder)
    ratio = by_latency[2].ms / latency(SCALE)
    page = folder.front_page.read_text()
    assert f"- {network.name} ({network.expected:.2%}) takes {ratio:.2f} times as long as scale" in page
    (train,) = (shlex.split(line)[1:] for line in page.splitlines() if "Arch.arch=" in line)
    assert build_parser().parse_args(train).override == train[4::2]
    config = load_config(train[2], train[4::2])
    assert config["Arch"]["arch"] == network.arch
    assert run_folder_path(config) not in (run_folder_path(load_config(train[2])), folder.path)


def test_a_scale_that_is_the_best_or_was_not_judged_has_nothing_beside_it() -> None:
    assert with_judged_scale(0.9999).as_good() == []
    assert found(engine()).as_good() == []


def test_what_is_as_good_but_no_faster_as_measured_is_no_gain() -> None:
    slowest = max(JUDGED, key=lambda one: one.ms)
    assert latency(SCALE) < 1.5 * slowest.ms  # so it is slower, as measured
    only_it_is_as_good = slowest.expected - 1e-6
    assert gains(with_judged_scale(only_it_is_as_good)) != []
    assert gains(with_judged_scale(only_it_is_as_good, slow=slowest.spec.name)) == []


def test_an_order_that_no_training_gave_is_no_gain() -> None:
    assert gains(with_judged_scale(0.5)) != []
    assert gains(with_judged_scale(0.5, by_score=True)) == []
    assert gains(with_judged_scale(0.5, learned=False)) == []


def written(folder: SearchFolder, share: bool) -> tuple[list[list[str]], dict[str, Any]]:
    """The commands in a page, and its lines for a backbone."""
    if share:
        folder.path.mkdir()
        folder.chosen_weights.touch()
    config = load_config("my_images")
    config["Arch"]["class_num"] = 3
    write_front(found(engine()), JUDGED, config, folder)
    page = folder.front_page.read_text()
    commands = [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("pplcnet ")]
    return commands, parse_yaml(page.partition("```yaml\n")[2].partition("```")[0])


def test_the_page_has_the_commands_and_lines_that_use_what_was_chosen(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path / "a search #1")
    (train, export, from_share), lines = written(folder, share=True)
    for command in (train, export, from_share):
        build_parser().parse_args(command)
    assert (train[:2], export[:2]) == (["train", "-c"], ["export", "-c"])
    assert run_folder_path(load_config(train[2])) == Path(export[2]) == folder.chosen_run
    assert load_config(from_share[2], from_share[4:]).global_section.pretrained_model == str(folder.chosen_weights)
    backbone = merge(load_config("det/my_coco"), lines)["Arch"]["backbone"]
    assert backbone == {"name": "LCNetSearched", "arch": found(engine()).chosen.arch}
    without, _ = written(SearchFolder(tmp_path / "short"), share=False)
    assert [command[0] for command in without] == ["train", "export"]


def test_networks_of_two_searches_are_trained_in_two_folders(tmp_path: Path) -> None:
    commands = [written(SearchFolder(tmp_path / name), share=True)[0] for name in ("one", "other")]
    assert len({run_folder_path(load_config(train[2])) for train, *_ in commands}) == 2
