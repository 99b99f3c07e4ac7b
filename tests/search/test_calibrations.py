"""Which calibrations of a machine hold, and what to do where none does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.models.spec import LCNetSpec
from ppcls_ext.search import calibrate
from ppcls_ext.search.calibrate import target_of
from ppcls_ext.search.calibrations import calibrating_command, calibration_file, doubt_outside, own_calibrations
from ppcls_ext.search.latency import Accuracy
from ppcls_ext.search.measurements import Calibration, read_calibration
from tests.helpers.spaces import measured

LUCKY = Accuracy(0.001, 1.0, 0.99, 4)


def test_one_of_another_machine_is_refused_with_its_own_command(calibrated: Calibration, tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    replace(calibrated, space="cpu", target=replace(calibrated.target, cpu=("Another CPU",))).save(file)
    command = "calibrate again: pplcnet search --calibrate --space cpu --engine onednn --threads 1"
    with pytest.raises(UserError, match=f"cpu: Another CPU, not .*; {command}"):
        own_calibrations(1, [file])


def test_one_of_another_processor_of_the_same_name_is_refused(
    calibrated: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "cpuid", lambda: "family 25 model 1 stepping 1")
    file = tmp_path / "theirs.json"
    replace(calibrated, target=replace(calibrated.target, cpuid="family 23 model 49 stepping 0")).save(file)
    differ = "cpuid: family 23 model 49 stepping 0, not family 25 model 1 stepping 1; calibrate again: pplcnet search"
    with pytest.raises(UserError, match=differ):
        own_calibrations(1, [file])


def test_one_that_does_not_tell_its_processor_goes_by_the_name(calibrated: Calibration) -> None:
    """As those do that were stored before calibrations told it."""
    file = calibration_file("onednn", 1, "lcnet")
    content = json.loads(file.read_text())
    assert content["target"].pop("cpuid") == content["model"]["target"].pop("cpuid")
    file.write_text(json.dumps(content))
    (found,) = own_calibrations(1)
    assert found.target == replace(calibrated.target, cpuid="")


def test_one_of_other_threads_counts_where_it_is_named(calibrated: Calibration) -> None:
    with pytest.raises(UserError, match=r"no calibration of this machine for 2 threads; make one, .*--threads 2"):
        own_calibrations(2)
    with pytest.raises(UserError, match="threads: 1, not 2"):
        own_calibrations(2, [calibration_file("onednn", 1, "lcnet")])


def test_an_unfinished_one_goes_on_with_its_command(calibrated: Calibration, tmp_path: Path) -> None:
    stopped = replace(calibrated, model=None, accuracy=None)
    stopped.save(calibration_file("onednn", 1, "lcnet"))
    with pytest.raises(UserError, match=r"it is not finished; this goes on with it: .*--calibrate --engine onednn "):
        own_calibrations(1)
    quick, elsewhere = calibration_file("onednn", 1, "lcnet", quick=True), tmp_path / "my file.json"
    assert "--calibrate --quick --engine" in calibrating_command("onednn", 1, file=quick)
    assert f"--calibrate --calibration '{elsewhere}' --engine" in calibrating_command("onednn", 1, file=elsewhere)
    replace(stopped, quick=True).save(elsewhere)
    with pytest.raises(UserError, match=r"not finished; .*--calibrate --quick --calibration '.*my file.json' --engine"):
        own_calibrations(1, [elsewhere])
    of_before = {**json.loads(elsewhere.read_text()), "command": "pplcnet search --calibrate --quick"}
    del of_before["quick"]
    elsewhere.write_text(json.dumps(of_before))
    assert read_calibration(elsewhere).quick


def test_of_several_that_of_the_space_comes_first_and_then_an_accepted_one(calibrated: Calibration) -> None:
    calibrated = replace(calibrated, accuracy={"model": Accuracy(0.03, 1.0, 0.99, 50)})
    calibrated.save(calibration_file("onednn", 1, "lcnet"))
    quick = replace(calibrated, accuracy={"model": LUCKY})
    quick.save(calibration_file("onednn", 1, "lcnet", quick=True))
    assert own_calibrations(1) == [calibrated]
    other = replace(calibrated, space="cpu", accuracy={"model": Accuracy(0.02, 1.0, 0.99, 50)})
    other.save(calibration_file("onednn", 1, "cpu"))
    assert own_calibrations(1) == [other]
    assert own_calibrations(1, space="lcnet") == [calibrated]


def test_a_damaged_one_stops_no_other_and_is_said(calibrated: Calibration, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = calibration_file("openvino", 1, "cpu")
    damaged.write_text("{}")
    assert own_calibrations(1) == [calibrated]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: calibration {damaged}: it is not as this version writes it (")
    again = "pplcnet search --calibrate --space cpu --engine openvino --threads 1"
    assert line.endswith(f"); delete it and calibrate again: {again}")


@pytest.mark.parametrize("asked", [{"threads": 2}, {"threads": 1, "engine": "onednn"}])
def test_a_damaged_one_of_something_else_is_not_said(
    calibrated: Calibration, capsys: pytest.CaptureFixture[str], asked: dict[str, Any]
) -> None:
    calibration_file("openvino", 1, "lcnet").write_text("")
    replace(calibrated, target=replace(calibrated.target, threads=2)).save(calibration_file("onednn", 2, "lcnet"))
    own_calibrations(**asked)
    assert capsys.readouterr().err == ""


def test_a_damaged_one_alone_is_refused_with_the_way_out(calibrated: Calibration) -> None:
    file = calibration_file("onednn", 1, "lcnet")
    file.write_text("[]")
    out = "; delete it and calibrate again: pplcnet search --calibrate --engine onednn --threads 1"
    with pytest.raises(UserError, match=rf"calibration .*/onednn-1-lcnet.json: .*{out}"):
        own_calibrations(1)
    with pytest.raises(UserError, match="give a file that pplcnet search --calibrate wrote"):
        own_calibrations(1, [file])
    with pytest.raises(UserError, match=r"nowhere.json: .*; make one with pplcnet search --calibrate"):
        own_calibrations(1, [Path("nowhere.json")])


def test_one_of_another_version_is_said_beside_those_that_hold(
    calibrated: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    file = calibration_file("native", 1, "lcnet")
    replace(calibrated, target=replace(target_of("native", 1), versions={"paddlepaddle": "1.0"})).save(file)
    assert own_calibrations(1) == [calibrated]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: calibration {file}: versions: paddlepaddle 1.0, not ")
    assert line.endswith("; delete it and calibrate again: pplcnet search --calibrate --engine native --threads 1")


def test_one_of_an_engine_that_is_gone_does_not_stop_those_of_others(
    calibrated: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = replace(calibrated, target=replace(calibrated.target, engine="gone"))
    gone.save(calibration_file("gone", 1, "lcnet"))
    assert own_calibrations(1) == [calibrated]
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="engine 'gone' is unknown"):
        own_calibrations(1, [calibration_file("gone", 1, "lcnet")])


def test_an_engine_is_asked_for_by_name(calibrated: Calibration) -> None:
    assert own_calibrations(1, engine="onednn") == [calibrated]
    command = calibrating_command("native", 1, "cpu")
    assert command == "pplcnet search --calibrate --space cpu --engine native --threads 1"
    with pytest.raises(UserError, match=f"no calibration of native of this machine for 1 thread; .*: {command}"):
        own_calibrations(1, space="cpu", engine="native")


def test_without_any_the_command_for_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPLCNET_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="15 minutes: pplcnet search --calibrate --engine onednn --threads 1"):
        own_calibrations(1)


REMEDY = "; to measure it too: pplcnet search --calibrate --engine onednn --threads 1"


@pytest.mark.parametrize(
    ("scale", "size", "outside", "end"),
    [
        (0.5, 96, "input size 96 (128 to 224)", REMEDY),
        (0.5, 512, "input size 512 (128 to 224)", ""),  # another calibration would not have it either
        (1.0, 192, "", ""),
        (0.25, 128, "", ""),
    ],
)
def test_a_network_outside_what_was_measured_is_doubted(
    narrow: Calibration, scale: float, size: int, outside: str, end: str
) -> None:
    spec = LCNetSpec(scale=scale).network().replace(input_size=size)
    line = f"outside what the calibration of onednn measured: {outside}; predictions may be off{end}"
    assert doubt_outside(narrow, spec) == (line if outside else "")


def test_widths_that_were_not_measured_are_doubted(narrow: Calibration) -> None:
    line = doubt_outside(narrow, LCNetSpec(scale=2.5).network())
    assert "width of the stem 40 (8 to 16), width of blocks2 80 (8 to 32), " in line
    assert "input size" not in line
    assert "last convolution" not in line


def test_a_network_that_only_judged_widens_nothing(narrow: Calibration) -> None:
    small = LCNetSpec(scale=0.5).network().replace(input_size=96)
    judged = replace(narrow, measured=(*narrow.measured, *measured("unseen", small)))
    assert not judged.has_size(96)
    assert replace(narrow, measured=(*narrow.measured, *measured("network", small))).has_size(96)
