"""`ppcls_ext.paper.today`: later networks beside PP-LCNet; what is measured is kept and added to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ppcls_ext.paper.today as module
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.folding import fold_branches
from ppcls_ext.paper.reproduce import ReproductionPlan, own_folders
from ppcls_ext.paper.today import MARKERS, comparison, front_of, latencies_of, reproduce_today

import paddle  # isort: skip  (after ppcls_ext, which silences its warnings)

from ppcls_ext.models.counting import count  # isort: skip
from ppcls_ext.models.factory import build_arch  # isort: skip
from tests.helpers.families import mostly_slow

ROWS = comparison().rows
# Published values count biases of convolutions, pools and learned factors as well, which `counting.RULE` leaves out.
FLOPS_TOLERANCE = 0.015
# Of a network without published counts: files of inference models, by the model list of PaddleX.
STORED_MB = {"PPLCNetV2_small": 14.6, "PPLCNetV2_base": 23.7}


@pytest.mark.parametrize("entry", mostly_slow(ROWS), ids=lambda entry: entry.arch)
def test_counts_are_those_that_are_published(entry: Any) -> None:
    model = build_arch({"name": entry.arch}, 1000)
    model.eval()
    x = paddle.randn([1, 3, 224, 224])
    with paddle.no_grad():
        before = model(x)
        fold_branches(model)
        assert float((model(x) - before).abs().max()) < 1e-4 * float(before.abs().max())
    counted = count(model, x)
    if entry.params_m is None:
        assert entry.flops_m is None
        base = build_arch({"name": "PPLCNetV2_base"}, 1000)
        fold_branches(base)
        share = STORED_MB["PPLCNetV2_small"] / STORED_MB["PPLCNetV2_base"]
        assert counted.params / count(base, x).params == pytest.approx(share, rel=0.01)
        return
    digits = len(f"{entry.params_m:g}".partition(".")[2])
    assert round(counted.params / 1e6, digits) == entry.params_m
    assert counted.flops / 1e6 == pytest.approx(entry.flops_m, rel=FLOPS_TOLERANCE)


def test_every_accuracy_has_a_known_recipe_and_source() -> None:
    assert sum(entry.reference for entry in ROWS) == 1
    for entry in ROWS:
        assert entry.published
        for value in entry.published:
            assert value.recipe in MARKERS
            assert value.source in comparison().sources


def fake_benchmark(subjects: Any, settings: Any) -> dict[str, Any]:
    names = [subject.name for subject in subjects]
    engine, threads = subjects[0].engine, subjects[0].threads
    results = [
        {
            "label": name,
            "failure": None,
            "warnings": [],
            "ms": {"median": 1.0 + k / threads, "spread": 0.1},
            "ratio_to_first": {"ratio": 1.0 + k / threads, "low": 1.0, "high": 1.25 + k},
        }
        for k, name in enumerate(names)
    ]
    results[-1] |= {"failure": "it crashed", "ms": None, "ratio_to_first": None}
    machine = {"cpu": "a CPU", "usable_cores": 2, "flags": ["avx2"], "platform": "Linux"}
    times = {"created": "then", "command": f"pplcnet --engines {engine}", "versions": {"numpy": "2"}}
    return {**times, "machine": machine, "results": results, "warnings": ["busy"]}


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReproductionPlan:
    monkeypatch.setattr(module, "built_entry", lambda network, work, formats: {"params": 2_000_000, "flops": 10**8})
    machine = {"cpu": "a CPU", "usable_cores": 2, "packages": {"numpy": "2"}}
    monkeypatch.setattr(module, "environment", lambda: dict(machine))  # the real one asks the system in a process
    return ReproductionPlan((), ("onednn",), 1, tmp_path / "out", tmp_path / "work")


@pytest.mark.slow
def test_parts_are_kept_and_added_to(plan: ReproductionPlan) -> None:
    asked: list[tuple[str, int]] = []

    def benchmark(subjects: Any, settings: Any) -> dict[str, Any]:
        asked.append((subjects[0].engine, subjects[0].threads))
        return fake_benchmark(subjects, settings)

    reproduce_today(plan, benchmark)
    reproduce_today(ReproductionPlan((), ("onednn", "native"), 1, plan.out, plan.work), benchmark)
    reproduce_today(ReproductionPlan((), ("onednn",), 2, plan.out, plan.work), benchmark)
    assert asked == [("onednn", 1), ("native", 1), ("onednn", 2)]
    document = json.loads((plan.out / "today.json").read_text())
    assert [(part["engine"], part["threads"]) for part in document["parts"]] == asked
    table = (plan.out / "today.md").read_text()
    assert "| onednn, 1 thread | native, 1 thread | onednn, 2 threads |" in table
    assert "| PP-LCNet-1x | plain | 71.32 | 2.0 | 100.0 | **1.00** (10%) |" in table  # the reference comes first
    assert table.count("fails") == 3
    second = table[table.index("Times the latency of PP-LCNet-1x") :]
    assert "PP-LCNet-1x |" not in second
    assert "| PP-LCNet-0.35x | 2.00 [1.00, 2.25] | 2.00 [1.00, 2.25] | 1.50 [1.00, 2.25] |" in second
    assert second.count("not compared") == 3
    assert "--quick" not in table
    figure = (plan.out / "today.svg").read_text()
    assert figure.count("onednn, ") == 2
    assert "MobileNetV4-conv-small" in figure


def test_nothing_is_compared_with_a_reference_that_could_not_be_built(
    plan: ReproductionPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(network: Any, work: Path, formats: Any) -> dict[str, Any]:
        return {"failure": "no space"} if "PPLCNet_x1_0" in network.name else {"params": 1, "flops": 1}

    monkeypatch.setattr(module, "built_entry", built)
    monkeypatch.setattr(module, "figure_of", lambda document: "")
    reproduce_today(plan, fake_benchmark)
    table = (plan.out / "today.md").read_text()
    assert "| PP-LCNet-0.35x | plain | 58.09 | 0.0 | 0.0 | **1.00** (10%) |" in table
    assert "| PP-LCNet-0.35x | not compared |" in table


def test_two_do_not_write_one_report(plan: ReproductionPlan) -> None:
    with own_folders(plan), pytest.raises(UserError, match=r"report folder .*: process \d+ on .* is still writing"):
        reproduce_today(plan, fake_benchmark)


def test_a_file_in_place_of_a_folder_is_one_line(plan: ReproductionPlan) -> None:
    plan.work.touch()
    with pytest.raises(UserError, match=r"--work .*: this folder cannot be made \(File exists\); give another"):
        reproduce_today(plan, fake_benchmark)


def test_a_benchmark_that_fails_is_a_line_and_is_tried_again(plan: ReproductionPlan) -> None:
    def broken(subjects: Any, settings: Any) -> dict[str, Any]:
        raise RuntimeError("no such luck")

    document = reproduce_today(plan, broken)
    assert document["parts"] == [{"engine": "onednn", "threads": 1, "failure": "RuntimeError: no such luck"}]
    assert "onednn, 1 thread: RuntimeError: no such luck." in (plan.out / "today.md").read_text()
    assert "report" in reproduce_today(plan, fake_benchmark)["parts"][0]


@pytest.mark.slow
def test_a_quick_run_is_marked_and_not_taken_for_a_full_one(plan: ReproductionPlan) -> None:
    quick = ReproductionPlan((), ("onednn",), 1, plan.out, plan.work, quick=True)
    reproduce_today(quick, fake_benchmark)
    assert "--quick" in (plan.out / "today.md").read_text()
    assert len(reproduce_today(plan, fake_benchmark)["parts"]) == 1
    assert "--quick" not in (plan.out / "today.md").read_text()


def test_values_of_another_machine_are_not_mixed_in(plan: ReproductionPlan) -> None:
    reproduce_today(plan, fake_benchmark)
    file = plan.out / "today.json"
    document = json.loads(file.read_text())
    document["environment"]["cpu"] = "another"
    file.write_text(json.dumps(document))
    with pytest.raises(
        UserError, match="it was measured on another machine or with other versions; give another --out"
    ):
        reproduce_today(plan, fake_benchmark)
    file.write_text("[]")
    with pytest.raises(UserError, match=r"not a file that reproduce --today wrote \(.*\); give another --out"):
        reproduce_today(plan, fake_benchmark)


FIRST = ("parts", 0, "report", "results", 0)
DAMAGE = [
    (("parts", 0), {}),
    (("parts", 0, "report"), {}),
    ((*FIRST, "label"), ["a"]),
    ((*FIRST, "ms"), None),
    ((*FIRST, "ms", "median"), "1.0"),
    ((*FIRST, "ms", "median"), -1),
    ((*FIRST, "ms", "spread"), float("nan")),
    ((*FIRST, "ratio_to_first"), {"ratio": 1.0}),
    ((*FIRST, "warnings"), None),
    (("parts", 0, "report", "warnings"), None),
    (("parts", 0, "report", "machine", "flags"), [1]),
    (("parts", 0, "report", "created"), "\ud800"),
    (("parts", 0, "threads"), "1"),
    (("networks",), {"a": {"params": "1", "flops": 1}}),
    (("parts", 0, "engine"), "$\\frac{a$"),
    (("environment",), []),
    (("quick",), "no"),
]


@pytest.mark.parametrize(("where", "value"), DAMAGE, ids=[f"{where[-1]}-{value!r}" for where, value in DAMAGE])
def test_a_damaged_part_is_refused_in_one_line_and_nothing_is_written(
    plan: ReproductionPlan, monkeypatch: pytest.MonkeyPatch, where: tuple[str | int, ...], value: Any
) -> None:
    monkeypatch.setattr(module, "figure_of", lambda document: "")
    reproduce_today(plan, fake_benchmark)
    file = plan.out / "today.json"
    document = json.loads(file.read_text())
    part = document
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    file.write_text(json.dumps(document))
    before = file.read_bytes()
    with pytest.raises(
        UserError, match=r"not a file that reproduce --today wrote \(.*\); give another --out"
    ) as raised:
        reproduce_today(plan, fake_benchmark)
    assert "\n" not in str(raised.value)
    assert file.read_bytes() == before


def test_the_front_compares_within_a_recipe() -> None:
    names = {entry.arch: entry.network.name for entry in ROWS}
    ms = {"PPLCNet_x1_0": 2.0, "MobileNetV3_large_x1_0": 2.5, "PPLCNet_x1_5": 3.0, "PPHGNetV2_B0": 9.0}
    results = [
        # Beside the reference; the medians are of other moments, and the other way round.
        {"label": names[a], "failure": None, "ms": {"median": 4.0 - v / 4}, "ratio_to_first": {"ratio": v / 3.5}}
        for a, v in ms.items()
    ]
    part = {"report": {"results": results}}
    assert latencies_of(part) == pytest.approx(ms)
    assert front_of(part, "plain") == {"PP-LCNet-1x", "MobileNetV3-large-1x"}
    assert front_of(part, "ssld") == {"PP-LCNet-1x", "PP-HGNetV2-B0"}
