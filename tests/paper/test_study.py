"""`ppcls_ext.paper.study`: the table's numbers, and runs that are skipped, resumed, and never mistaken for others."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from ppcls_ext.cli.main import main
from ppcls_ext.cls.task import Classification
from ppcls_ext.core.config import STUDIES, load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.run_folder import RunFolder
from ppcls_ext.models.spec import SPECS
from ppcls_ext.paper.paired import Answers
from ppcls_ext.paper.study import Study
from ppcls_ext.paper.study_plan import StudyPlan
from ppcls_ext.paper.study_report import result_of, write_report
from ppcls_ext.paper.tables import table
from ppcls_ext.training.optimizers import LR_NUMBERS
from ppcls_ext.training.trainer import Stopped
from tests.helpers.configs import config_of, write_config
from tests.helpers.processes import ROOT
from tests.helpers.runs import assert_same_run, log_of

Fails = Callable[..., str]
FILES = sorted((ROOT / "configs" / STUDIES).glob("*.yaml"))


def test_mean_spread_and_significance_are_those_of_paired_runs() -> None:
    ours, reference = {0: 60.0, 1: 63.0, 2: 62.0}, {2: 61.0, 1: 61.5, 0: 59.5}
    row = result_of("ours", ours, reference, 62.5, 63.14)
    values, others = np.array([60.0, 63.0, 62.0]), np.array([59.5, 61.5, 61.0])
    assert row.mean == pytest.approx(values.mean())
    assert row.spread == pytest.approx(values.std(ddof=1))
    assert row.difference == pytest.approx(1.0)
    assert row.p == pytest.approx(stats.ttest_rel(values, others).pvalue)
    assert row.paper_difference == pytest.approx(-0.64)


def test_what_too_few_runs_cannot_say_is_left_out() -> None:
    assert result_of("a", {}, {0: 1.0}).mean is None
    one = result_of("a", {0: 3.0}, {0: 1.0})
    assert (one.mean, one.spread, one.difference, one.p) == (3.0, None, 2.0, None)
    assert result_of("a", {0: 3.0, 1: 4.0}, {0: 1.0, 1: 2.0}).p is None  # differences without any spread
    assert result_of("a", {0: 3.0}, {1: 1.0}).difference is None  # no seed in common
    own = {0: 3.0, 1: 4.0}
    assert (result_of("a", own, own, 1.0, 1.0).difference, result_of("a", own, own, 1.0, 1.0).paper_difference) == (
        None,
    ) * 2


@pytest.mark.parametrize("value", ["0.5", True, None, float("nan"), [0.5]])
def test_a_result_that_is_no_number_is_one_line(tmp_path: Path, value: Any) -> None:
    plan: Any = SimpleNamespace(run_folder=lambda *run: tmp_path, metric="top1", seeds=[0])
    events = [{"event": "eval", "epoch": 1, "step": 1, "top1": 0.5}, {"event": "end", "epoch": 1, "step": 1}]
    file = tmp_path / "log.jsonl"
    file.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    assert Study(plan).values("a") == {0: 50.0}
    events[0]["top1"] = value
    file.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    with pytest.raises(UserError, match=r"top1 of the last evaluation in .* expected a number"):
        Study(plan).values("a")


@pytest.mark.slow
def test_a_damaged_evaluation_is_one_line(data: Path, tmp_path: Path) -> None:
    """Slow: the report asks the machine."""
    plan = StudyPlan(str(study_file(tmp_path / "s.yaml", data)), output=tmp_path / "out")
    file = plan.run_folder("with SE", 0) / "eval" / "metrics.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"images": 50000')
    with pytest.raises(UserError, match=r"metrics.json: cannot be read .* run pplcnet eval again"):
        write_report(plan, [])
    file.write_text('{"images": 50000}')
    write_report(plan, [])
    assert json.loads((plan.output / "study.json").read_text())["note"] is None


def study_file(path: Path, data: Path, **changes: Any) -> Path:
    """Two variants of two seeds, of two epochs at 32 px each."""
    config = config_of(data, path.parent / "unused")
    config["Global"] |= {"epochs": 2, "image_shape": [3, 32, 32]}
    config["Expect"] = {"top1": {"value": 2.0, "tolerance": 0.1}}  # the base alone has this
    content = {
        "title": "An ablation",
        "config": str(write_config(path.parent / "base.yaml", config)),
        "variants": {
            "with SE": [],
            "no SE!": ["Arch={name: PPLCNet, scale: 0.25, se: '0000000000000', class_num: auto}"],
        },
        "reference": "with SE",
        "seeds": [0, 1],
        **changes,
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study's file and its folder, run to the end."""
    folder = tmp_path_factory.mktemp("study")
    path = study_file(folder / "ablation.yaml", data)
    assert main(["study", "-c", str(path), "--output", str(folder / "out"), "-o", "Global.print_batch_step=6"]) == 0
    return path, folder / "out"


def again(finished: tuple[Path, Path], output: Path, *overrides: str) -> Study:
    return Study(StudyPlan(str(finished[0]), None, ["Global.print_batch_step=6", *overrides], None, output))


@pytest.mark.slow
def test_every_variant_and_seed_is_a_run_and_the_table_has_them(finished: tuple[Path, Path]) -> None:
    path, out = finished
    runs = {f"{v}/seed{s}": out / v / f"seed{s}" / "base" for v in ("with_se", "no_se") for s in (0, 1)}
    top1 = {name: 100 * log_of(run, "eval")[-1]["top1"] for name, run in runs.items()}
    content = json.loads((out / "study.json").read_text())
    assert [row["variant"] for row in content["rows"]] == ["with SE", "no SE!"]
    for row, slug in zip(content["rows"], ("with_se", "no_se"), strict=True):
        values = [top1[f"{slug}/seed{s}"] for s in (0, 1)]
        assert list(row["values"].values()) == pytest.approx(values)
        assert row["mean"] == pytest.approx(np.mean(values))
    networks = [yaml.safe_load((run / "config.yaml").read_text())["Arch"] for run in runs.values()]
    assert [n["name"] for n in networks] == ["PPLCNet_x0_25"] * 2 + ["PPLCNet"] * 2
    text = (out / "study.md").read_text()
    assert text.startswith("# An ablation\n\nA proxy at small scale, not the paper's numbers.\n")
    assert f"| with SE | 2 | {content['rows'][0]['mean']:.2f} ± " in text
    assert str(path.parent) not in text + json.dumps(content)  # no paths of this machine
    assert "seeds 0, 1" in text


@pytest.mark.slow
def test_finished_runs_are_not_trained_again(finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppcls_ext.paper.study.train", lambda _: pytest.fail("trained"))
    assert len(again(finished, finished[1]).run()) == 2


@pytest.mark.slow
def test_a_study_that_was_stopped_goes_on_where_it_was(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, take = 0, Classification.step

    def stop_in(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 24 + 16:  # that is in the second run
            os.kill(os.getpid(), signal.SIGTERM)
        return take(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Classification, "step", stop_in)
        with pytest.raises(Stopped):
            again(finished, tmp_path).run()
    assert json.loads((tmp_path / "study.json").read_text())["rows"][0]["values"].keys() == {"0"}
    taken = 0
    monkeypatch.setattr(Classification, "step", stop_in)
    for variant in ("with_se", "no_se"):
        shutil.copytree(finished[1] / variant / "seed1", tmp_path / variant / "seed1")
    again(finished, tmp_path).run()
    assert taken == 8  # what was left of that run
    assert_same_run(tmp_path / "no_se" / "seed0" / "base", finished[1] / "no_se" / "seed0" / "base")
    assert (
        json.loads((tmp_path / "study.json").read_text())["rows"]
        == json.loads((finished[1] / "study.json").read_text())["rows"]
    )


@pytest.mark.slow
def test_a_run_with_other_settings_is_not_taken(finished: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"with SE, seed 0 was run with Global.epochs=2, now it is 3; give another"):
        again(finished, finished[1], "Global.epochs=3").run()


@pytest.mark.slow
def test_a_run_that_diverges_is_left_out(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LR_NUMBERS, "learning_rate", (0, 1e31))  # no config may have such a rate
    variants = {"sane": [], "wild": ["Optimizer.lr.learning_rate=1.0e+30"]}
    path = study_file(tmp_path / "s.yaml", data, variants=variants, reference="sane", seeds=[0])
    sane, wild = Study(StudyPlan(str(path), output=tmp_path / "out")).run()
    assert sane.mean is not None
    assert (wild.values, wild.mean) == ({}, None)


@pytest.mark.slow
def test_same_images_needs_one_evaluation_set(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    """Runs are not trained here: each leaves a log, and its answers are made up. Slow: the report asks the machine."""
    images, names = {"with_se": 15, "no_se": 14}, {"with_se": "a", "no_se": "b"}

    def train(config: Any) -> None:
        run = RunFolder.of(config).path
        run.mkdir(parents=True)
        events = [{"event": "eval", "epoch": 1, "step": 1, "top1": 0.5}, {"event": "end", "epoch": 1, "step": 1}]
        (run / "log.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))

    def answers(run: Path) -> Answers:
        variant = run.parent.parent.name
        return Answers(np.ones(images[variant], bool), f"{images[variant]} {names[variant]}")

    monkeypatch.setattr("ppcls_ext.paper.study.train", train)
    monkeypatch.setattr("ppcls_ext.paper.study.right_answers", answers)
    path = study_file(tmp_path / "s.yaml", data, same_images=True)
    command = ("study", "-c", path, "--output", tmp_path / "out")
    message = fails(*command, lines=None)
    assert "no SE!, seed 0 is evaluated on 14 images and with SE, seed 0 on 15; give all variants the same" in message
    images["no_se"] = 15
    message = fails(*command, lines=None)
    assert "no SE!, seed 0 is evaluated on other images, or in another order, than with SE, seed 0; give all" in message
    names["no_se"] = "a"
    assert main([str(part) for part in command]) == 0


@pytest.mark.parametrize(
    ("changes", "clue"),
    [
        ({"reference": "without SE"}, "reference 'without SE' is no variant; did you mean 'with SE'"),
        ({"seedz": [1]}, "seedz: unknown key; did you mean 'seeds'"),
        ({"variants": {"a b": [], "a_b": []}, "reference": "a b"}, "must differ in letters or digits"),
        ({"paper": 6}, "give either variants, or as paper"),
        ({"paper": 3, "variants": {}}, "give either variants, or as paper"),
        ({"variants": {"x": ["Global.epoch=3"]}, "reference": "x"}, "Global.epoch: unknown key"),
        ({"config": "my_image"}, "did you mean 'my_images'"),
        ({"metric": "top2"}, "no metric 'top2'; did you mean 'top5'"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(
    changes: dict[str, Any], clue: str, data: Path, tmp_path: Path, fails: Fails
) -> None:
    path = study_file(tmp_path / "s.yaml", data, **changes)
    assert clue in fails("study", "-c", path, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_do_not_run_one_study(data: Path, tmp_path: Path, fails: Fails) -> None:
    path = study_file(tmp_path / "s.yaml", data)
    (tmp_path / "out").mkdir()
    held = FolderLock(tmp_path / "out", "study folder", "study.lock")
    held.acquire()
    message = fails("study", "-c", path, "--output", tmp_path / "out")
    assert "study folder" in message
    assert "is still writing there" in message
    held.release()


@pytest.mark.parametrize(("key", "instead"), [("Global.seed", "--seeds"), ("Global.output_dir", "--output")])
def test_what_a_study_sets_itself_cannot_be_overridden(key: str, instead: str, data: Path, tmp_path: Path) -> None:
    path = study_file(tmp_path / "s.yaml", data)
    with pytest.raises(UserError, match=f"{key} is set for each run of a study; give {instead}"):
        StudyPlan(str(path), overrides=[f"{key}=1"])


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_shipped_study_is_understood_and_says_its_command(file: Path) -> None:
    study = StudyPlan(f"{STUDIES}/{file.stem}")  # found from any folder
    comment = file.read_text().partition("\ntitle:")[0]
    assert f"tools/study.py -c configs/{STUDIES}/{file.name}" in comment
    assert "Cost:" in comment
    assert "Expected:" in comment
    for config in study.wanted.values():
        Classification(config)


@pytest.mark.parametrize("number", [6, 7, 8, 9])
def test_the_studies_of_the_paper_are_its_tables(number: int) -> None:
    study = StudyPlan(f"{STUDIES}/table{number}")
    rows = table(number).rows
    assert list(study.variants) == [row.label for row in rows]
    assert study.reference == next(row.label for row in rows if row.reference)
    archs = [config["Arch"]["name"] for (_, seed), config in study.wanted.items() if seed == 0]
    assert archs == [row.arch for row in rows]
    assert set(archs) <= set(SPECS)
    assert study.paper == {row.label: row.top1 for row in rows}
    assert load_config(study.base)["Global"]["epochs"] == 360
