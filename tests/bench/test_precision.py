"""Smaller numbers are kept only where they are faster and lose little, and every refusal says why."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ppcls_ext import Predictor
from ppcls_ext.bench import precision
from ppcls_ext.bench.precision import Speed, Verdict, smaller_numbers, wanted
from ppcls_ext.core.config import Config, load_config
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.deploy import quantize
from ppcls_ext.deploy.export import export, save_recipe
from ppcls_ext.deploy.quantize import evaluate_engine
from ppcls_ext.runtime.engines import open_engine
from ppcls_ext.runtime.engines.base import FORMATS
from ppcls_ext.runtime.exported import read_exported
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.upstream.stdout import quiet_stdout
from tests.helpers.configs import config_of, write_config

FAST = Speed(ratio=0.6, low=0.55, high=0.65, reference="onednn", n=100)
UNSURE = Speed(ratio=0.97, low=0.93, high=1.01, reference="onednn", n=100)
EXTRAS = [name for name in ("nncf", "openvino", "paddle2onnx") if importlib.util.find_spec(name) is None]

Judge = Callable[..., list[Verdict]]


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Config:
    return load_config(write_config(tmp_path / "easy.yaml", config_of(data, tmp_path / "output")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export, as far as the judge reads it."""
    folder = tmp_path / "inference"
    folder.mkdir()
    for name in FORMATS["json"]:
        (folder / name).write_text(name)
    transforms = [{"ResizeImage": {"size": 48}}]
    recipe = {
        "task": "classification",
        "formats": {"json": "inference.json"},
        "inputs": [{"name": "x", "shape": [-1, 3, 48, 48], "dtype": "float32"}],
        "preprocess": {"transforms": transforms, "image_shape": [3, 48, 48]},
        "postprocess": {"topk": 2},
        "labels": ["blue", "green", "red"],
    }
    save_recipe(folder, recipe)
    return folder


@pytest.fixture
def judge(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """The judge of `folder`, for bfloat16 on oneDNN, with given results in the place of measurements."""
    monkeypatch.setattr(precision, "machine", lambda: {"cpu": "new", "flags": ["avx512_bf16", "avx512_vnni"]})

    def run(
        speed: Speed | str, exact: float = 0.8, reduced: float = 0.8, asked: tuple[str, ...] = ("bf16",)
    ) -> list[Verdict]:
        def speeds(task: object, folder: Path, engines: list[str]) -> dict[str, Speed | str]:
            return dict.fromkeys(engines, speed)

        def primary(task: object, folder: Path, engine: str) -> float:
            return exact if engine == "onednn" else reduced

        def write(folder: Path, inputs: object) -> None:
            (folder / "int8").mkdir()
            for name in ("inference.xml", "inference.bin"):
                (folder / "int8" / name).write_text(name)

        monkeypatch.setattr(precision, "speeds", speeds)
        monkeypatch.setattr(precision, "_primary", primary)
        monkeypatch.setattr(precision, "write_int8", write)
        engines = ["onednn", "openvino-int8" if "int8" in asked else "onednn-bf16"]
        monkeypatch.setattr(precision, "_runnable", lambda folder: engines)
        return smaller_numbers(config, folder, asked)

    return run


def test_faster_and_as_good_is_kept_with_its_figures(
    judge: Judge, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_exported(folder)
    (verdict,) = judge(FAST, exact=0.8, reduced=0.797)
    assert not verdict.reason
    after = read_exported(folder)  # it checks that the recipe is sealed
    assert after.accepted == ("onednn-bf16",)
    assert after.checksums == before.checksums
    added = {key for key, value in after.recipe.items() if value != before.recipe.get(key)}
    assert added == {"precision", "recipe_sha256"}
    figures = after.recipe["precision"]["onednn-bf16"]
    assert figures["ratio"] == 0.6
    assert figures["interval"] == [0.55, 0.65]
    assert figures["to"] == "onednn"
    assert figures["loss_points"] == pytest.approx(0.3)
    assert figures["images"] == 15
    assert {"cpu", "flags", "versions"} <= set(figures)
    assert "kept: faster than onednn" in capsys.readouterr().err


def test_an_interval_that_reaches_one_is_not_faster(
    judge: Judge, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "inference.yml").read_bytes()
    (verdict,) = judge(UNSURE)
    assert "not faster than onednn on this machine (0.97 of its time, 0.93 to 1.01)" in verdict.reason
    assert (folder / "inference.yml").read_bytes() == before
    assert "bf16 on onednn-bf16: not kept: not faster" in capsys.readouterr().err


def test_a_processor_without_the_instructions_is_named(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "machine", lambda: {"cpu": "old", "flags": ["avx2", "fma"]})
    (verdict,) = judge(UNSURE, asked=("int8",))
    assert verdict.reason.endswith("the processor has none of avx512_vnni, avx_vnni, amx_int8")


@pytest.mark.parametrize("reduced", [0.794, float("nan")])
def test_a_loss_above_the_limit_is_refused_and_the_file_removed(judge: Judge, folder: Path, reduced: float) -> None:
    (verdict,) = judge(FAST, exact=0.8, reduced=reduced, asked=("int8",))
    assert "top1 falls from 80.00 to" in verdict.reason
    assert "0.5 points of Export.loss" in verdict.reason
    assert not (folder / "int8").exists()
    exported = read_exported(folder)
    assert exported.formats == ("json",)
    assert exported.accepted == ()


def test_an_int8_file_that_passes_stays(judge: Judge, folder: Path) -> None:
    (verdict,) = judge(FAST, asked=("int8",))
    assert not verdict.reason
    exported = read_exported(folder)
    assert exported.formats == ("json", "int8")
    assert exported.recipe["precision"]["openvino-int8"]["calibration"] == 200
    assert set(FORMATS["int8"]) < set(exported.checksums)
    exported.verify(FORMATS["int8"])
    (folder / "int8" / "inference.bin").write_text("other numbers")
    with pytest.raises(UserError, match=r"inference\.bin is not the file that export wrote"):
        exported.verify(FORMATS["int8"])


def test_an_engine_that_fails_is_refused_with_its_reason(judge: Judge) -> None:
    (verdict,) = judge("crashed with SIGILL")
    assert verdict.reason == "it does not run this network: crashed with SIGILL"


def test_a_network_that_cannot_be_quantised_leaves_the_export(
    config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, inputs: object) -> None:
        (folder / "int8").mkdir()
        raise CheckFailed("no")

    monkeypatch.setattr(precision, "write_int8", fail)
    (verdict,) = smaller_numbers(config, folder, ["int8"])
    assert verdict.reason == "no"
    assert not (folder / "int8").exists()


def test_what_stands_against_it_is_said_before_the_export(config: Config) -> None:
    def asked(*changes: str) -> list[str]:
        return wanted(make_task(load_config(config.path, list(changes))), ("json",))

    assert asked() == []
    assert asked("Export.bf16=true") == ["bf16"]
    with pytest.raises(UserError, match=r"set Export\.batch to -1 or 1, not 2"):
        asked("Export.bf16=true", "Export.batch=2")
    with pytest.raises(UserError, match=r"set Export\.input to float32"):
        asked("Export.bf16=true", "Export.input=uint8")
    with pytest.raises(UserError, match="add --formats onnx"):
        asked("Export.int8=true")


def test_a_network_without_onnx_is_not_quantised(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export leaves ONNX out where its converter cannot translate the network."""
    monkeypatch.setattr(quantize, "quantizer", lambda: SimpleNamespace(set_log_level=lambda level: None))
    monkeypatch.setattr(quantize.importlib, "import_module", lambda name: None)
    monkeypatch.setattr(precision, "_runnable", lambda folder: ["onednn"])
    (verdict,) = smaller_numbers(config, folder, ["int8"])
    assert verdict.reason == "this network has no ONNX format, from which int8 is made"
    assert read_exported(folder).formats == ("json",)


@pytest.mark.parametrize("missing", ["openvino", "nncf"])
def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else find("json"))
    with pytest.raises(UserError) as caught:
        quantize.quantizer()
    wanted = f"Export.int8 needs the package {missing}: python -m pip install openvino nncf"
    assert str(caught.value) == wanted


@pytest.mark.slow
def test_evaluation_through_an_engine_is_that_of_the_weights(trained: Path, exported: Path) -> None:
    """Slow: an engine starts in a process of its own."""
    task = make_task(load_config(trained))
    metrics = evaluate_engine(task, exported, "onednn", "json")
    model = task.build_model()
    task.load_trained(model, str(trained / "best.pdparams"))
    expected = task.evaluate(model, lambda images: None, None)
    assert metrics["top1"] == expected["top1"]
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-4)


@pytest.mark.slow
def test_bf16_on_onednn_is_close_and_prints_nothing(exported: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Slow: it waits for an export."""
    x = np.random.default_rng(0).standard_normal((1, 3, 48, 48)).astype(np.float32)
    (exact,) = open_engine("onednn", exported)([x])
    (reduced,) = open_engine("onednn-bf16", exported)([x])
    np.testing.assert_allclose(reduced, exact, atol=0.05)
    assert capfd.readouterr().out == ""


def test_stdout_is_quiet_inside_and_back_after(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_stdout():
        os.write(1, b"hidden\n")
    os.write(1, b"shown\n")
    assert capfd.readouterr().out == "shown\n"


@pytest.mark.slow
@pytest.mark.skipif(bool(EXTRAS), reason=f"not installed: {', '.join(EXTRAS)}")
def test_a_real_network_in_8_bits(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow: an export, a quantisation, and two evaluations in processes of their own. Only the speed is made up."""
    changes = [f"Global.save_inference_dir={tmp_path / 'out'}", "Export.calibration=32", "Export.loss=100"]
    config = load_config(trained, changes)
    folder = export(config, formats="onnx")
    monkeypatch.setattr(precision, "speeds", lambda task, folder, engines: dict.fromkeys(engines, FAST))
    (verdict,) = smaller_numbers(config, folder, ["int8"])
    assert not verdict.reason
    x = np.random.default_rng(0).standard_normal((1, 3, 48, 48)).astype(np.float32)
    (exact,) = open_engine("openvino-onnx", folder)([x])
    (reduced,) = open_engine("openvino-int8", folder)([x])
    assert not np.array_equal(exact, reduced)
    np.testing.assert_allclose(reduced, exact, atol=0.2)
    with Predictor(folder, "openvino-int8", threads=1) as predict:
        assert predict(np.zeros((48, 48, 3), np.uint8), "rgb").engine == "openvino-int8"
    assert (folder / "int8/inference.bin").stat().st_size < (folder / "onnx/inference.onnx").stat().st_size / 2
