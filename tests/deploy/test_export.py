"""Exports work on every engine, say what is in them, and a bad one never takes the place of a good one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_ext.bench.operators import profile
from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.yaml_files import read_yaml
from ppcls_ext.deploy import parity
from ppcls_ext.deploy.export import _place_of_rejected, chosen_formats, export
from ppcls_ext.deploy.parity import Parity, check_parity
from ppcls_ext.models.activations import give_realistic_statistics
from ppcls_ext.models.factory import build_arch
from ppcls_ext.models.weights import numpy_state, save_weights
from ppcls_ext.runtime.engines import ENGINES, engine_class, open_engine
from ppcls_ext.runtime.engines.base import FLOAT
from ppcls_ext.runtime.exported import RECIPE, read_exported, read_parity, sealed
from ppcls_ext.runtime.process import EngineFailed, EngineProcess
from tests.helpers.configs import overrides
from tests.helpers.exports import checked_on
from tests.helpers.points import MIXED

pytestmark = pytest.mark.slow

Fails = Callable[..., str]
Undo = Callable[[], None]


def test_recipe_says_what_a_program_needs(exported: Path) -> None:
    recipe = read_yaml(exported / "inference.yml")
    assert recipe["task"] == "classification"
    assert recipe["labels"] == ["blue", "green", "red"]
    assert recipe["inputs"] == [{"name": "x", "shape": [-1, 3, 48, 48], "dtype": "float32"}]
    assert recipe["preprocess"]["transforms"][0] == {"ResizeImage": {"size": 48}}
    checked = recipe["checked"]["max_difference_from_dygraph"]
    of_paddle = {"json/native", "json/onednn", "pdmodel/native", "pdmodel/onednn", "pdmodel/openvino"}
    assert of_paddle | {"onnx/onnxruntime"} <= set(checked) <= of_paddle | {"onnx/onnxruntime", "onnx/openvino-onnx"}
    for pair, difference in checked.items():
        assert 0 <= difference <= recipe["checked"]["tolerance"], pair
    for file in recipe["formats"].values():
        assert (exported / file).is_file()


@pytest.mark.parametrize("engine", ["native", "onednn", "openvino"])
def test_engines_give_scores_for_any_batch(exported: Path, engine: str) -> None:
    run = open_engine(engine, exported)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3, 48, 48)).astype(np.float32)
    (whole,) = run([x])
    (single,) = run([x[2:3]])
    assert whole.shape == (5, 3)
    np.testing.assert_allclose(whole.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(single[0], whole[2], rtol=1e-4, atol=1e-6)


def test_openvino_refuses_the_format_on_which_paddle_would_not_use_it(exported: Path) -> None:
    with pytest.raises(UserError, match="runs pdmodel, not json"):
        open_engine("openvino", exported, model_format="json")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Undo]:
    """Every check passes, without a process for each engine, until what this gives is called."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "ppcls_ext.deploy.export.check_parity",
            lambda _, forms, engine, *__: [Parity(form, engine, 0.0, "") for form in forms],
        )
        yield patch.undo


def test_static_batch_and_a_single_format(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], unchecked: Undo
) -> None:
    transforms = "Infer.transforms=[{Padv2: {size: [48, 48]}}, {ResizeImage: {size: 48}}, {ToCHWImage: }]"
    config = load_config(trained, [f"Global.save_inference_dir={tmp_path / 'one'}", "Export.batch=2", transforms])
    folder = export(config, formats="json")
    assert "only PaddleClas has Padv2, so paddleclas is needed wherever this export runs" in capfd.readouterr().err
    assert read_yaml(folder / "inference.yml")["inputs"][0]["shape"][0] == 2
    assert not (folder / "legacy").exists()
    with pytest.raises(UserError, match=r"needs the pdmodel format; export again"):
        open_engine("openvino", folder)


def test_two_exports_do_not_write_one_folder(trained: Path, tmp_path: Path) -> None:
    held = FolderLock(tmp_path, "export into", ".out.lock")
    held.acquire()
    with pytest.raises(UserError, match="is still writing there"):
        export(load_config(trained, [f"Global.save_inference_dir={tmp_path / 'out'}"]))
    held.release()


def test_a_network_of_every_block_kind_equals_itself_on_every_engine(trained: Path, tmp_path: Path) -> None:
    """Slow: an export is checked on every engine."""
    model = build_arch({"name": "LCNetSearched", "arch": MIXED}, 3)
    give_realistic_statistics(model, paddle.randn([4, 3, 48, 48]))  # else branches would be of no weight
    save_weights(tmp_path / "w.pdparams", numpy_state(model))
    settings = [f"Global.save_inference_dir={tmp_path / 'out'}", f"Global.pretrained_model={tmp_path / 'w.pdparams'}"]
    folder = export(load_config(trained, [*settings, f"Arch={{name: LCNetSearched, class_num: 3, arch: {MIXED}}}"]))
    recipe = read_yaml(folder / "inference.yml")
    differences = recipe["checked"]["max_difference_from_dygraph"]
    assert {"json/onednn", "pdmodel/onednn", "onnx/onnxruntime"} <= set(differences)
    assert max(differences.values()) <= recipe["checked"]["tolerance"]


def test_a_mismatch_keeps_the_earlier_export(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: Undo
) -> None:
    config = load_config(trained, [f"Global.save_inference_dir={tmp_path / 'inference'}"])
    folder = export(config, formats="json")
    before = (folder / "inference.pdiparams").read_bytes()
    unchecked()

    def sabotage(model: object, *inputs: object) -> int:
        next(p for n, p in model.named_parameters() if n.endswith("fc.bias")).set_value(np.float32([9, 0, 0]))  # type: ignore[attr-defined]
        return 0

    monkeypatch.setattr("ppcls_ext.deploy.export.fold_batch_norm", sabotage)
    with checked_on("native"), pytest.raises(CheckFailed, match="json on native: differs from dygraph") as caught:
        export(config, formats="json")
    assert "try --no-fold" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (folder / "inference.pdiparams").read_bytes() == before
    assert (tmp_path / "inference.rejected" / "inference.json").is_file()


def test_a_crash_of_onednn_is_one_line_with_the_way_out(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    class Crashing(EngineProcess):
        def __call__(self, command: str, **arguments: Any) -> Any:
            if arguments.get("engine") == "onednn":
                os.kill(self.pid, signal.SIGSEGV)
            return super().__call__(command, **arguments)

    monkeypatch.setattr(parity, "EngineProcess", Crashing)
    place = overrides(f"Global.save_inference_dir={tmp_path / 'out'}")
    message = fails("export", "-c", trained, *place, "--formats", "json", status=1, lines=None)
    assert "json on onednn: crashed with SIGSEGV" in message
    assert "use engine native" in message
    assert not (tmp_path / "out").exists()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The formats that each process of a check was given; one crashes at `bad`, or at `onnx` after `pdmodel`."""
    formats: list[list[str]] = []

    class Fake:
        def __init__(self, **settings: object) -> None:
            formats.append([])

        def __enter__(self) -> Fake:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __call__(self, command: str, **given: Any) -> Any:
            if command == "run":
                return given["batches"]
            formats[-1].append(given["model_format"])
            if given["model_format"] == "bad" or formats[-1] == ["pdmodel", "onnx"]:
                raise EngineFailed("crashed with SIGSEGV")

    monkeypatch.setattr(parity, "EngineProcess", Fake)
    return formats


def test_an_engine_checks_its_formats_in_one_process_and_a_crash_condemns_one(started: list[list[str]]) -> None:
    x = [[np.zeros((1, 3), np.float32)]]
    checks = check_parity(Path(), ["json", "bad", "pdmodel", "onnx"], "native", x, x, lambda a, b: 0.5)
    assert started == [["json", "bad"], ["bad"], ["pdmodel", "onnx"], ["onnx"]]  # the last is sound alone
    assert [(c.model_format, c.difference) for c in checks] == [
        ("json", 0.5), ("bad", None), ("pdmodel", 0.5), ("onnx", 0.5),
    ]  # fmt: skip
    assert checks[1].reason == "crashed with SIGSEGV"


def test_a_process_that_is_killed_condemns_the_format_it_was_killed_at(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow: it starts two processes of an engine."""

    class Killed(EngineProcess):
        def __call__(self, command: str, **arguments: Any) -> Any:
            if arguments.get("model_format") == "json":
                os.kill(self.pid, signal.SIGKILL)
            return super().__call__(command, **arguments)

    monkeypatch.setattr(parity, "EngineProcess", Killed)
    stored = read_parity(read_exported(exported), "pdmodel")
    inputs, outputs = ([batch[k] for batch in stored] for k in (0, 1))
    nearest = lambda a, b: max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))  # noqa: E731
    killed, sound = check_parity(exported, ["json", "pdmodel"], "native", inputs, outputs, nearest)
    assert (killed.difference, killed.reason) == (None, "crashed with SIGKILL")
    assert sound.holds(1e-4)


def test_a_real_failure_of_the_process_is_reported(tmp_path: Path) -> None:
    x = [[np.zeros((1, 3, 4, 4), np.float32)]]
    (result,) = check_parity(tmp_path, ["json"], "native", x, x, lambda a, b: 0.0)
    assert result.difference is None
    assert "no such file" in result.reason
    assert not result.holds(1.0)


def test_not_finite_outputs_do_not_count_as_equal() -> None:
    assert not Parity("json", "native", float("nan"), "").holds(1.0)


def test_a_folder_of_something_else_is_left_alone(trained: Path, tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("...")
    message = fails(
        "export", "-c", trained, *overrides(f"Global.save_inference_dir={tmp_path / 'precious'}"), lines=None
    )
    assert "it holds something else" in message
    assert os.listdir(tmp_path / "precious") == ["thesis.tex"]


def test_onnx_runs_on_its_engines_where_they_are_installed(trained: Path, tmp_path: Path, unchecked: Undo) -> None:
    folder = export(load_config(trained, [f"Global.save_inference_dir={tmp_path / 'out'}"]), formats="onnx")
    recipe = read_yaml(folder / "inference.yml")
    assert set(recipe["formats"]) == {"json", "onnx"}
    checked = recipe["checked"]["max_difference_from_dygraph"]
    kinds = [engine_class(name) for name in ENGINES]
    of_onnx = [kind for kind in kinds if "onnx" in kind.formats and kind.precision == FLOAT and kind.installed()]
    assert set(checked) == {"json/native", "json/onednn", *(f"onnx/{kind.name}" for kind in of_onnx)}
    for name in ("onnxruntime", "openvino-onnx"):
        if engine_class(name).installed():
            operators = profile(Subject(folder, name), Settings(warmup=1))["operators"]
            counted = [op for op in operators if op["gflops"] is not None]
            assert len(counted) >= 1 + 2 * 13 + 1, name  # the stem, two convolutions in each block, the classifier


def test_without_the_converter_onnx_is_left_out_or_one_line(
    trained: Path, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ImportError

    monkeypatch.setattr("ppcls_ext.deploy.export.paddle2onnx", missing)
    monkeypatch.setattr("ppcls_ext.deploy.export.importlib.util.find_spec", lambda name: None)
    place = overrides(f"Global.save_inference_dir={tmp_path / 'out'}")
    assert "needs the package paddle2onnx" in fails("export", "-c", trained, *place, "--formats", "onnx")
    assert not (tmp_path / "out").exists()
    assert chosen_formats(None) == ("json", "pdmodel")


def test_a_network_that_cannot_be_translated_is_exported_without_onnx(
    trained: Path, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch, unchecked: Undo
) -> None:
    class Refusing:
        @staticmethod
        def export(*_: Any, **__: Any) -> None:
            raise RuntimeError("no such operator\nin ONNX")

    monkeypatch.setattr("ppcls_ext.deploy.export.paddle2onnx", lambda: Refusing)
    settings = [f"Global.save_inference_dir={tmp_path / 'out'}", "Export.batch=1"]
    assert set(read_yaml(export(load_config(trained, settings)) / "inference.yml")["formats"]) == {"json", "pdmodel"}
    message = fails("export", "-c", trained, *overrides(*settings), "--formats", "onnx", status=1, lines=None)
    assert "cannot translate this network (no such operator); use --formats both" in message


def test_the_converter_leaves_stdout_to_results(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], unchecked: Undo
) -> None:
    capfd.readouterr()
    export(load_config(trained, [f"Global.save_inference_dir={tmp_path / 'out'}", "Export.batch=1"]), formats="onnx")
    out, err = capfd.readouterr()
    assert out == ""
    assert "paddle2onnx" not in err.lower()


def test_a_rejected_export_takes_the_place_of_an_earlier_one_and_of_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "inference"
    assert _place_of_rejected(target).name == "inference.rejected"
    (tmp_path / "inference.rejected").mkdir()
    (tmp_path / "inference.rejected" / "own.txt").touch()
    assert _place_of_rejected(target).name == "inference.rejected1"
    (tmp_path / "inference.rejected1").mkdir()
    (tmp_path / "inference.rejected1" / RECIPE).write_text(sealed("task: x\n"))
    assert _place_of_rejected(target).name == "inference.rejected1"
