"""Calibrating on an engine whose speed is made up: what is measured, fitted, judged and kept."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.deploy.untrained import formats_for, network_of_spec
from ppcls_ext.models.network_spec import STAGES, NetworkSpec
from ppcls_ext.models.spec import SCALES, LCNetSpec
from ppcls_ext.search import calibrate as calibrating
from ppcls_ext.search.calibrate import ANCHOR, CalibrationPlan, calibrate, check_accuracy, target_of
from ppcls_ext.search.costs import costs_of
from ppcls_ext.search.figures import block_costs, channel_costs
from ppcls_ext.search.latency import Accuracy, LatencyModel, Target, accuracy, shortfalls
from ppcls_ext.search.measurements import PROBE_SIZE, Calibration, Measured, paper_networks, read_calibration
from ppcls_ext.search.report import write_report
from ppcls_ext.search.space import INPUT_SIZES, Space, space_named, with_width

SPACE = space_named("lcnet")

# Milliseconds for a unit of each cost on the made-up engine; all others are free.
PRICES = {"network.calls": 0.05, "pointwise.work": 0.02, "depthwise5s1.work": 0.2, "depthwise3s1.work": 0.15}
PRICES |= {"gate.calls": 0.02, "stem.work": 0.03, "head.weights": 0.1, "hardswish.traffic": 0.05}


def latency(spec: NetworkSpec) -> float:
    """Milliseconds on the made-up engine."""
    return sum(PRICES.get(name, 0.0) * value for name, value in costs_of(spec).items())


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CalibrationPlan:
    monkeypatch.setattr(calibrating, "build", lambda network, work, formats: None)
    monkeypatch.setattr(calibrating, "machine", lambda: {"usable_cores": 2})  # asking starts a process
    return CalibrationPlan(SPACE, "onednn", 1, tmp_path / "calibration.json", tmp_path / "work")


Benchmark = Callable[[Sequence[Subject], Settings], dict[str, Any]]


def engine(plan: CalibrationPlan, noise: float = 0.0, calls: list[int] | None = None, dies: str = "") -> Benchmark:
    """A benchmark of the made-up engine, with some noise; `dies` fails."""
    by_name = {network_of_spec(spec).name: spec for spec, _ in plan.networks()}
    rng = np.random.default_rng(0)

    def run(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
        if calls is not None:
            calls.append(len(subjects))
        ms = [latency(by_name[s.model.name]) * float(np.exp(rng.normal(0, noise))) for s in subjects]
        rows = [
            {
                "failure": "crashed with SIGSEGV" if subject.model.name == dies else None,
                "ms": {"median": value},
                "rounds": [{"min": value}] * 4,
            }
            for subject, value in zip(subjects, ms, strict=True)
        ]
        return {"results": rows, "warnings": ["other processes used 0.9 cores meanwhile"] if noise else []}

    return run


def test_a_model_of_an_engine_without_noise_predicts_networks_it_has_not_seen(plan: CalibrationPlan) -> None:
    found = calibrate(plan, engine(plan))
    assert found.accuracy is not None
    assert found.accuracy["model"].median < 0.01
    assert found.accuracy["model"].n == calibrating.UNSEEN
    assert found.accuracy["flops"].median > found.accuracy["model"].median
    check_accuracy(found, plan.file)
    assert found.model is not None
    for scale in SCALES:
        spec = LCNetSpec(scale=scale).network()
        assert found.model.predict(spec) == pytest.approx(latency(spec), rel=0.02)


def test_noise_is_found_out_and_refused_but_kept(plan: CalibrationPlan, capsys: pytest.CaptureFixture[str]) -> None:
    found = calibrate(plan, engine(plan, noise=0.5))
    assert "warning: other processes used 0.9 cores meanwhile" in capsys.readouterr().err
    with pytest.raises(CheckFailed, match="is not accurate enough: its median error is"):
        check_accuracy(found, plan.file)
    assert read_calibration(plan.file) == found


def test_a_network_is_measured_at_the_size_that_it_is_predicted_for() -> None:
    for size in INPUT_SIZES:
        config = network_of_spec(ANCHOR.replace(input_size=size)).load()
        assert config.global_section.image_shape == (3, size, size)


def test_no_network_is_for_two_uses_and_all_are_what_they_should_be() -> None:
    plan = CalibrationPlan(SPACE, "onednn", 1, Path(), Path())
    networks = plan.networks()
    assert len({spec for spec, _ in networks}) == len(networks)
    assert networks == plan.networks()
    uses = [use for _, use in networks]
    assert (uses.count("network"), uses.count("unseen")) == (calibrating.FITTED, calibrating.UNSEEN)
    assert all(spec in SPACE for spec, use in networks if use != "probe")
    work = [spec.count().flops for spec, use in networks if use == "unseen"]
    assert min(work) < LCNetSpec(scale=0.25).network().count().flops
    assert max(work) > LCNetSpec(scale=2.0).network().count().flops


def test_every_input_size_has_as_many_networks_from_little_work_to_much() -> None:
    networks, paper = CalibrationPlan(SPACE, "onednn", 1, Path(), Path()).networks(), paper_networks(SPACE)
    drawn = {use: [spec for spec, of in networks if of == use and spec not in paper] for use in ("network", "unseen")}
    for specs in drawn.values():
        sizes = Counter(spec.input_size for spec in specs)
        assert set(sizes) == set(INPUT_SIZES)
        assert max(sizes.values()) - min(sizes.values()) <= 1
    for size in INPUT_SIZES:
        work = [spec.count().flops for specs in drawn.values() for spec in specs if spec.input_size == size]
        assert max(work) > 10 * min(work)


@pytest.mark.slow
def test_a_calibration_of_fewer_input_sizes_goes_on_to_those_of_today(plan: CalibrationPlan) -> None:
    """Calibrates twice."""
    whole = calibrate(plan, engine(plan))
    older = replace(whole, measured=tuple(one for one in whole.measured if one.spec.input_size > 96))
    older.save(plan.file)
    assert not older.has_size(96)
    real, calls = engine(plan), list[int]()

    def stops(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
        if calls:
            raise KeyboardInterrupt
        calls.append(len(subjects))
        return real(subjects, settings)

    with pytest.raises(KeyboardInterrupt):
        calibrate(plan, stops)
    assert read_calibration(plan.file).model is None  # that of the older one knows nothing of what was added
    found = calibrate(plan, real)
    assert found.has_size(96)
    assert {one.arch for one in found.measured} == {one.arch for one in whole.measured}


@pytest.mark.slow
def test_a_calibration_that_was_stopped_goes_on(plan: CalibrationPlan) -> None:
    real, calls = engine(plan), list[int]()

    def stops(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(len(subjects))
        return real(subjects, settings)

    with pytest.raises(KeyboardInterrupt):
        calibrate(plan, stops)
    kept = read_calibration(plan.file)
    assert len(kept.measured) == 3 * calibrating.GROUP
    found = calibrate(plan, engine(plan, calls=calls))
    assert found.measured[: len(kept.measured)] == kept.measured
    assert sum(n - 1 for n in calls) == len(plan.networks()) - 1  # nothing twice
    assert calibrate(plan, engine(plan, calls=calls)) == found


def test_two_calibrations_do_not_share_a_folder_of_networks(plan: CalibrationPlan) -> None:
    with FolderLock(plan.work, "folder of networks", "calibrate.lock"):
        with pytest.raises(UserError, match=r"folder of networks .* is still writing there"):
            calibrate(plan, engine(plan))
        assert not plan.file.exists()
    calibrate(plan, engine(plan))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onednn", "openvino", "onnxruntime"])
def test_networks_are_built_in_all_formats_that_the_engine_needs(
    name: str, plan: CalibrationPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[list[str]] = []
    monkeypatch.setattr(calibrating, "build", lambda network, work, formats: built.append(formats))
    of_engine = replace(plan, engine=name)
    calibrate(of_engine, engine(of_engine))
    assert len(built) > 50
    assert all(formats == formats_for([name]) for formats in built)


def test_a_network_that_does_not_run_is_named_and_left_out(plan: CalibrationPlan) -> None:
    at_fault = next(spec for spec, use in plan.networks() if use == "probe")
    found = calibrate(plan, engine(plan, dies=network_of_spec(at_fault).name))
    assert [(one.arch, one.failure) for one in found.measured if one.failure] == [
        (at_fault.text, "crashed with SIGSEGV")
    ]
    assert at_fault not in found.latencies("probe")
    page = write_report(found, plan.file.parent / "report").read_text()
    assert f"`{at_fault.text}`: crashed with SIGSEGV" in page


def test_the_anchor_that_does_not_run_ends_it_with_a_reason(plan: CalibrationPlan) -> None:
    with pytest.raises(UserError, match="does not run PPLCNet_x0_5 here: crashed with SIGSEGV"):
        calibrate(plan, engine(plan, dies=network_of_spec(ANCHOR).name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 2}, "threads: 1, not 2"),
        ({"engine": "native"}, "engine: onednn, not native"),
        ({"quick": True}, "kind: full, not --quick"),
    ],
)
def test_a_calibration_of_something_else_is_not_gone_on_with(
    plan: CalibrationPlan, change: dict[str, Any], message: str
) -> None:
    calibrate(plan, engine(plan))
    kept = plan.file.read_bytes()
    with pytest.raises(UserError, match=message):
        calibrate(replace(plan, **change), engine(plan))
    assert plan.file.read_bytes() == kept
    with pytest.raises(UserError, match="space: lcnet, not cpu"):
        calibrate(replace(plan, space=space_named("cpu")), engine(plan))


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"format": 1}', '{"format": 9}'])
def test_a_damaged_calibration_is_one_line(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(damage)
    with pytest.raises(UserError) as raised:
        read_calibration(file)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


DAMAGE = [
    (("measured", 0, "ratio"), "1.0"),
    (("measured", 0, "ratio"), math.nan),
    (("measured", 0, "ratio"), None),
    (("measured", 0, "arch"), "stem16"),
    (("target", "cpu"), "a"),
    (("target", "threads"), "1"),
    (("anchor_ms",), []),
    (("model", "prices", "gate.calls"), -1.0),
    (("model", "prices"), {}),
    (("accuracy",), {}),
    (("accuracy", "model", "median"), "0.01"),
    (("accuracy", "model", "n"), None),
    (("created",), "\ud800"),
]


@pytest.mark.parametrize(("where", "value"), DAMAGE, ids=[f"{where[-1]}-{value!r}" for where, value in DAMAGE])
def test_a_damaged_part_of_a_calibration_is_one_line(
    tmp_path: Path, where: tuple[str | int, ...], value: object
) -> None:
    target = Target(("a CPU", "avx2"), "onednn", 1, {"paddlepaddle": "3"})
    measured = (Measured(ANCHOR.text, "network", 1.0, 0.9, 1.1), Measured(ANCHOR.text, "unseen", failure="it crashed"))
    model = LatencyModel(target, {"gate.calls": 0.1})
    judged = {"model": Accuracy(0.01, 1.0, 0.99, 50)}
    file = tmp_path / "c.json"
    whole = Calibration(target, "lcnet", "now", "pplcnet", {"cpu": "a"}, (1.5,), measured, model, judged)
    whole.save(file)
    assert read_calibration(file) == whole
    content = json.loads(file.read_text())
    part = content
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="it is not as this version writes it") as raised:
        read_calibration(file)
    assert "\n" not in str(raised.value)


def test_probes_say_what_a_change_in_a_block_costs(plan: CalibrationPlan) -> None:
    found = calibrate(plan, engine(plan))
    costs = {(p.stage, p.width, p.change): (measured, by_model) for p, measured, by_model in block_costs(found)}
    changes = {change for _, _, change in costs}
    assert changes == {"", "5x5", "SE", "ReLU"}
    for (_, _, change), (measured, by_model) in costs.items():
        if change == "SE":
            assert measured == pytest.approx(1e3 * PRICES["gate.calls"], rel=0.01)
        if change == "ReLU":
            assert measured < 0
        assert by_model == pytest.approx(measured, abs=2.0)


def test_what_channels_cost_is_the_difference_that_a_block_makes(plan: CalibrationPlan) -> None:
    found = calibrate(plan, engine(plan))
    costs = channel_costs(found)
    assert list(costs) == list(STAGES)
    smallest = SPACE.smallest().replace(input_size=PROBE_SIZE)
    (plain,) = set(smallest.stages[4])
    for width, microseconds in costs["blocks6"]:
        wide = with_width(plain, width)
        one, two = (smallest.replace(stages=(*smallest.stages[:4], (wide,) * n)) for n in (1, 2))
        assert microseconds == pytest.approx(1e3 * (latency(two) - latency(one)), rel=0.05)


@pytest.mark.slow
def test_a_report_has_its_pictures(plan: CalibrationPlan) -> None:
    page = write_report(calibrate(plan, engine(plan)), plan.file.parent / "report")
    text = page.read_text()
    assert "| latency model |" in text
    for picture in ("onednn-1-lcnet-predicted.svg", "onednn-1-lcnet-blocks.svg", "onednn-1-lcnet-channels.svg"):
        assert picture in text
        assert "<svg" in (page.parent / picture).read_text()


def test_accuracy_is_judged_by_what_was_asked() -> None:
    measured = [float(ms) for ms in range(1, 21)]
    assert shortfalls(accuracy(measured, measured)) == []
    found = accuracy([1.2 * ms if ms in (2, 7, 12, 17, 20) else ms for ms in measured], measured)
    assert (found.close, found.n) == (0.75, 20)
    assert shortfalls(found) == ["only 75% of networks are within 10%, fewer than 90%"]


def test_a_target_needs_an_engine_that_is_installed() -> None:
    with pytest.raises(UserError, match="engine 'tpu' is unknown"):
        target_of("tpu", 1)


def test_the_quick_plan_is_small(plan: CalibrationPlan) -> None:
    quick = replace(plan, quick=True)
    assert len(quick.networks()) < 30
    found = calibrate(quick, engine(quick))
    assert json.loads(plan.file.read_text())["space"] == found.space
    assert "it is a quick one" in found.doubt
    kept = plan.file.read_bytes()
    with pytest.raises(UserError, match="is of another kind: quick, not full; give another --calibration, or delete"):
        calibrate(plan, engine(plan))
    assert plan.file.read_bytes() == kept


def test_a_space_with_too_few_networks_is_one_line() -> None:
    tiny = Space(
        "tiny", (8,), tuple(replace(s, depths=(1,), widths=s.widths[:1], blocks=s.blocks[:1]) for s in SPACE.stages)
    )
    with pytest.raises(UserError, match=f"it has fewer than {calibrating.FITTED} networks to measure; ask for fewer"):
        CalibrationPlan(tiny, "onednn", 1, Path(), Path()).networks()
