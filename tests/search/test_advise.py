"""Which scale, size and engine fit a latency, and whether one's own network does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ppcls_ext.cli.main import main
from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.network_spec import parse_spec
from ppcls_ext.models.spec import LCNetSpec
from ppcls_ext.search.advise import Asked, advise, asked_about, spec_of
from ppcls_ext.search.calibrations import calibration_file, doubt_outside, own_calibrations
from ppcls_ext.search.costs import costs_of
from ppcls_ext.search.latency import Accuracy, LatencyModel
from ppcls_ext.search.measurements import Calibration

BAD, LUCKY = Accuracy(0.07, 0.8, 0.98, 50), Accuracy(0.001, 1.0, 0.99, 4)


def test_advice_is_the_largest_scale_that_fits(calibrated: Calibration) -> None:
    assert calibrated.model is not None
    spec = LCNetSpec(scale=0.75).network()
    bound = calibrated.model.predict(spec)
    advice = advise([calibrated], bound, Asked(spec, 224, 1000, ""))
    assert advice.own == {"onednn": bound}
    assert (advice.best.scale, advice.best.input_size, advice.best.engine) == (0.75, 224, "onednn")
    assert [way.scale for way in advice.options] == sorted((way.scale for way in advice.options), reverse=True)
    for way in advice.options:
        sized = LCNetSpec(scale=way.scale).network().replace(input_size=way.input_size)
        assert way.ms == calibrated.model.predict(sized) <= bound


def test_a_bound_that_no_scale_meets_names_the_fastest_after_what_was_asked(
    calibrated: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", "-m", "PPLCNet_x0_5", "--latency", "0.001"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "ms, more than 0.001 ms" in said
    assert "no scale is so fast; the fastest is PPLCNet_x0_25 at 96 px on onednn with" in said


def test_sizes_that_were_not_measured_are_advised_only_where_asked_for(narrow: Calibration) -> None:
    spec = LCNetSpec(scale=0.5).network()
    advice = advise([narrow], 1e9, Asked(spec, 96, 1000, ""))
    assert {way.input_size for way in advice.options} == {96, 224}
    assert advice.best in advice.options
    assert advice.best.input_size == 96
    assert advice.fastest.input_size == 96
    assert advice.doubts == [doubt_outside(narrow, spec.replace(input_size=96))]
    assert advise([narrow], 1e9).doubts == []
    assert advise([narrow], 1e9, Asked(spec, 512, 1000, "")).best.input_size == 512


TEXT = "stem16 | ds-c32 | {} | ds-c128 | ds-c256 | ds-c512 | last1280-drop0.2 | 224"


@pytest.mark.parametrize(
    ("block", "part", "end"),
    [
        (
            "fused-c64-e4",
            "full",
            "a larger space: pplcnet search --calibrate --space cpu --engine onednn",
        ),
        ("ds-c64-k7-gelu", "gelu", ": nothing is said of it"),  # in no space
    ],
)
def test_what_has_no_price_is_said_rather_than_free(calibrated: Calibration, block: str, part: str, end: str) -> None:
    advice = advise([calibrated], 100.0, Asked(parse_spec(TEXT.format(block)), 224, 1000, ""))
    assert advice.own == {}
    (doubt,) = advice.doubts
    assert doubt.startswith("the calibration of onednn has no ")
    assert part in doubt
    assert doubt.removesuffix(" --threads 1").endswith(end)


def test_a_calibration_that_knows_the_network_comes_before_a_more_accurate_one(calibrated: Calibration) -> None:
    spec = parse_spec(TEXT.format("fused-c64-e4"))
    assert calibrated.model is not None
    prices = {**calibrated.model.prices, **dict.fromkeys(costs_of(spec), 0.001)}
    larger = replace(
        calibrated,
        space="cpu",
        model=LatencyModel(calibrated.target, prices),
        accuracy={"model": Accuracy(0.04, 0.95, 0.98, 50)},
    )
    larger.save(calibration_file("onednn", 1, "cpu"))
    assert own_calibrations(1) == [calibrated]
    assert own_calibrations(1, spec=spec) == [larger]


@pytest.mark.parametrize(("latency", "verdict"), [("500", "fits"), ("0.5", "more than 0.5 ms")])
def test_a_config_whose_classes_are_yet_to_be_counted_is_answered(
    calibrated: Calibration, capsys: pytest.CaptureFixture[str], latency: str, verdict: str
) -> None:
    assert main(["advise", "-m", "my_images", "--latency", latency]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "Arch.class_num: the number of classes is not known before a training; predicted with 1,000" in said
    assert f"ms, {verdict}" in said


@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        ("my_images", "Global.image_shape=[3,100,100]", "square images with sides that 32 divides, .*, not 100 x 100"),
        ("my_images", "Global.image_shape=[3,64,512]", "not 64 x 512"),
        ("det/my_coco", "Global.seed=0", "latency models know classifiers, not detection"),
        ("studies/found_x0_5", "Global.seed=0", "Arch.name: there is none; give the config of a network"),
        ("PPLCNet_x1_0", "Arch.class_expnd=512", "Arch.class_expnd: unknown key; did you mean 'class_expand'"),
        ("PPLCNet_x1_0", "Arch.class_num=0", "Arch.class_num: expected a number of classes or auto, got 0"),
        ("PPLCNet_x1_0", "Arch=PPLCNet_x1_0", "Arch: expected keys and values"),
        (
            "my_images",
            "Arch={name: MobileNetV3_large_x1_0}",
            "knows no network 'MobileNetV3_large_x1_0'",
        ),
    ],
)
def test_what_cannot_be_asked_about_is_one_line(config: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        asked_about(load_config(config, [override]))


def test_keys_that_change_a_named_network_change_what_is_predicted(calibrated: Calibration) -> None:
    def predicted(*overrides: str) -> float:
        return advise([calibrated], 1e9, asked_about(load_config("PPLCNet_x1_0", overrides))).own["onednn"]

    assert predicted("Arch.use_last_conv=false") < predicted() < predicted("Arch.stride_list=[2,2,2,2,1]")


def test_an_override_changes_what_is_asked_about(calibrated: Calibration, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "-m", "PPLCNet_x0_5", "-o", "Global.image_shape=[3,96,96]", "--latency", "500"]) == 0
    assert "PPLCNet_x0_5 at 96 px on onednn: " in " ".join(capsys.readouterr().err.split())
    assert main(["advise", "-o", "Global.image_shape=[3,96,96]", "--latency", "500"]) == 2
    assert "-o changes the config that -m names: give -m CONFIG too" in capsys.readouterr().err


def test_the_answer_as_json_is_what_the_table_says(narrow: Calibration, capsys: pytest.CaptureFixture[str]) -> None:
    narrow.save(calibration_file("onednn", 1, "lcnet"))
    asked = ["advise", "-m", "PPLCNet_x0_5", "-o", "Global.image_shape=[3,96,96]", "--latency", "500"]
    assert main(asked) == 0
    table = capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["own"]) == ["onednn"]
    assert answer["best"] in answer["options"]
    assert (answer["best"]["network"], answer["best"]["input_size"]) == ("PPLCNet_x2_5", 96)
    assert answer["best"]["paper_top1"] == 76.6
    assert answer["fastest"]["network"] == "PPLCNet_x0_25"
    assert any("input size 96 (128 to 224)" in line for line in answer["warnings"])
    for way in answer["options"]:
        assert f"{way['ms']:.4f}" in table
        assert f"{way['paper_top1']:.2f} %" in table


def test_json_says_that_nothing_fits_too(calibrated: Calibration, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "--latency", "0.001", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["best"], answer["options"]) == (None, [])
    assert answer["fastest"]["ms"] > 0.001


def test_a_calibration_that_was_not_accepted_is_said(
    calibrated: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(calibrated, accuracy={"model": BAD}).save(calibration_file("onednn", 1, "lcnet"))
    assert main(["advise", "--latency", "50"]) == 0
    line = "warning: the calibration of onednn with 1 thread was not accepted: its median error is 7.0%, more than 5%; "
    assert line in capsys.readouterr().err
    assert replace(calibrated, accuracy={"model": LUCKY}).doubt.endswith("only 4 networks judged it, fewer than 20")
    assert calibrated.doubt == ""


@pytest.mark.parametrize(
    ("arch", "scale"), [({"name": "PPLCNet_x0_5"}, 0.5), ({"name": "PPLCNet", "scale": 0.4, "class_num": 3}, 0.4)]
)
def test_the_network_of_a_config_is_known(arch: dict[str, Any], scale: float) -> None:
    assert spec_of(arch) == LCNetSpec(scale=scale).network()
    assert spec_of({"name": "LCNetSearched", "arch": spec_of(arch).text}) == spec_of(arch)
