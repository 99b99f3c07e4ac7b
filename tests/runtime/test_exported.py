"""An exported folder is read and checked: foreign, changed and hostile ones are refused in one line."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppcls_ext import Predictor
from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.exported import PARITY, RECIPE, RECIPE_CHECKSUM, read_exported, read_parity, sealed, sha256

pytestmark = pytest.mark.slow  # an export of a trained network is made for it


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of an export, to change."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def resealed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the recipe and give it the checksum that it then should have."""
    recipe = yaml.safe_load((folder / RECIPE).read_text())
    del recipe[RECIPE_CHECKSUM]
    change(recipe)
    (folder / RECIPE).write_text(sealed(yaml.safe_dump(recipe)))


def refused(folder: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        Predictor(folder, **arguments).close()
    text = str(caught.value)
    assert text.startswith(f"exported model {folder}")
    assert "\n" not in text
    assert len(text) < 400 + len(str(folder))
    return text


def test_what_an_export_says(exported: Path) -> None:
    found = read_exported(exported)
    assert found.task == "classification"
    assert found.labels == ("blue", "green", "red")
    assert found.inputs[0].shape == (-1, 3, 48, 48)
    assert found.batch == -1
    files = {f.relative_to(exported).as_posix() for f in exported.rglob("*") if f.is_file()} - {RECIPE}
    assert set(found.checksums) == files
    found.verify(files)


def test_an_export_has_inputs_and_the_outputs_of_dygraph_for_them(exported: Path) -> None:
    with np.load(exported / PARITY) as stored, Predictor(exported, threads=1, batch=3) as predictor:
        assert predictor.exported.checksums[PARITY] == sha256(exported / PARITY)
        ((one,), (scores,)), _ = read_parity(predictor.exported, "onnx")
        np.testing.assert_array_equal(one, stored["input_0_0"])
        np.testing.assert_array_equal(scores, stored["output_0_0"])
        assert set(stored) == {"input_0_0", "output_0_0", "input_1_0", "output_1_0"}
        assert stored["input_1_0"].shape == (3, 3, 48, 48)
        assert stored["output_1_0"].shape == (3, 3)
        np.testing.assert_allclose(stored["output_1_0"].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("file", ["inference.pdiparams", "inference.json"])
def test_a_changed_model_file_is_refused(folder: Path, file: str) -> None:
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    assert f"{file} is not the file that export wrote" in refused(folder, engine="native")


def test_a_changed_recipe_is_refused(folder: Path) -> None:
    text = (folder / RECIPE).read_text()
    (folder / RECIPE).write_text(text.replace("[blue, green, red]", "[blue, red, green]"))
    assert "was changed after export" in refused(folder)
    (folder / RECIPE).write_text(text + "more: 1\n")
    assert "does not end with its checksum" in refused(folder)
    (folder / RECIPE).write_text(text[: text.index(RECIPE_CHECKSUM)])
    assert "has lost its own checksum" in refused(folder)


def test_an_export_without_checksums_is_read(folder: Path) -> None:
    """As earlier versions wrote them."""
    recipe = yaml.safe_load((folder / RECIPE).read_text())
    for key in ("checksums", RECIPE_CHECKSUM):
        del recipe[key]
    (folder / RECIPE).write_text(yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None))
    (folder / PARITY).unlink()
    with Predictor(folder, threads=1) as predictor:
        assert predictor(np.zeros((48, 48, 3), np.uint8), "rgb").ok


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    assert "no inference.yml in it" in refused(tmp_path)
    assert "no such folder" in refused(tmp_path / "nowhere")
    (tmp_path / RECIPE).write_text("just text")
    assert "no keys and values" in refused(tmp_path)
    (tmp_path / RECIPE).write_text("a: [1, 2")
    assert "not valid YAML" in refused(tmp_path)
    (tmp_path / RECIPE).write_bytes(b"\xff\xfe\x00")
    assert "not valid YAML" in refused(tmp_path)
    (tmp_path / RECIPE).write_text("[" * 100_000)
    assert "not valid YAML" in refused(tmp_path)
    (tmp_path / RECIPE).write_text("a: !!python/object/apply:os.system [exit 1]")
    assert "not valid YAML" in refused(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.pop("inputs"), "inputs must be a list"),
        (lambda r: r.update(inputs=[]), "inputs is empty"),
        (lambda r: r["inputs"][0].update(shape=[0, 3]), "shape of input 'x'"),
        (lambda r: r["inputs"][0].update(shape=[10**9] * 4), "shape of input 'x'"),
        (lambda r: r["inputs"][0].update(dtype="object"), "name, shape and dtype"),
        (lambda r: r.update(labels="blue"), "labels must be a list"),
        (lambda r: r.update(labels=[1, 2, 3]), "labels must be names, got 1"),
        (lambda r: r.update(labels=["a" * 5000] * 3), "labels must be names"),
        (lambda r: r.update(labels=[]), "labels is empty"),
        (lambda r: r.update(formats={}), "formats must name"),
        (lambda r: r["formats"].update(json="../../etc/passwd"), "must be in inference.json"),
        (lambda r: r["formats"].update(jsno="inference.json"), "did you mean 'json'"),
        (lambda r: r.update(task=["a"]), "task must be a name"),
        (lambda r: r.update(task="os.system"), "no installed package runs task 'os.system'"),
        (lambda r: r.update(preprocess=None), "preprocess must be keys and values"),
        (lambda r: r.update(checksums={"inference.json": "short"}), "no SHA-256"),
        (lambda r: r.update(precision=["onednn-bf16"]), "precision must be engines and their figures"),
        (lambda r: r["postprocess"].update(topk=-1), "postprocess.topk"),
        (lambda r: r["preprocess"].update(transforms=[{"ResizeImage": {"size": 10**8}}]), "pixels from 1 to"),
        (lambda r: r["preprocess"].update(transforms=[{"eval": {}}]), "no such operation"),
        (lambda r: r["preprocess"].update(transforms=[{"ToCHWImage": None}] * 1000), "at most 50"),
    ],
)
def test_a_recipe_of_another_shape_is_refused(folder: Path, change: Callable[[Any], object], says: str) -> None:
    resealed(folder, change)
    assert says in refused(folder)


@pytest.mark.parametrize("labels", [["blue", "green"], ["a", "b", "c", "d"]])
def test_labels_that_do_not_fit_the_network_are_refused(folder: Path, labels: list[str]) -> None:
    resealed(folder, lambda recipe: recipe.update(labels=labels))
    with Predictor(folder, threads=1) as predictor, pytest.raises(UserError) as caught:
        predictor(np.zeros((48, 48, 3), np.uint8), "rgb")
    wrong = f"labels: {len(labels)} for a network of 3 classes; export again"
    assert str(caught.value) == f"exported model {folder}: {wrong}"


@pytest.mark.slow
def test_labels_that_do_not_fit_a_detector_are_refused_where_nothing_is_found(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    """With NMS in the graph, outputs tell only the classes of the boxes that are found."""
    folder = tmp_path / "detector"
    shutil.copytree(exports["detection"], folder)
    classes = len(read_exported(folder).labels)
    resealed(folder, lambda recipe: recipe.update(labels=["a"], category_ids=[1]))
    with pytest.raises(UserError) as caught:
        Predictor(folder, "native")
    wrong = f"labels: 1 for a network of {classes} classes; export again"
    assert str(caught.value) == f"exported model {folder}: {wrong}"


def test_an_engine_that_cannot_run_is_one_line(exported: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'onednn'"):
        Predictor(exported, engine="onednnn")
    with pytest.raises(UserError, match=r"threads must be a positive number of at most .* got 0"):
        Predictor(exported, threads=0)
    with pytest.raises(UserError, match=r"topp: not an argument of classification; it has topk"):
        Predictor(exported, topp=1)


def test_reduced_precision_has_to_be_accepted_or_allowed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    black = np.zeros((48, 48, 3), np.uint8)
    assert "computes in bf16, which this export has not accepted" in refused(folder, engine="onednn-bf16")
    with Predictor(folder, "onednn-bf16", threads=1, allow_reduced=True) as predict:
        allowed = predict(black, "rgb")
    resealed(folder, lambda recipe: recipe.update(precision={"onednn-bf16": {}}))
    with Predictor(folder, "onednn-bf16", threads=1) as predict:
        assert predict(black, "rgb").labels == allowed.labels
    assert capfd.readouterr().out == ""


def test_an_engine_that_is_not_installed_says_how_to_install_it(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppcls_ext.runtime.engines.base.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"engine onednn needs the package paddlepaddle: .*pplcnet\[paddle\]"):
        Predictor(exported, engine="onednn")
    with pytest.raises(UserError, match=r"no engine for it is installed; .*pplcnet\[onnxruntime\]"):
        Predictor(exported)


def test_a_format_that_is_not_there_says_how_to_get_it(folder: Path) -> None:
    resealed(folder, lambda recipe: recipe["formats"].pop("onnx", None))
    assert "runs onnx, and the folder has json, pdmodel; export again" in refused(folder, engine="onnxruntime")


def test_what_is_no_path_is_refused() -> None:
    with pytest.raises(UserError, match="exported model 5: give the path of a folder"):
        read_exported(5)  # type: ignore[arg-type]


def test_a_model_of_another_tool_is_not_run_in_place_of_one_that_is_gone(folder: Path) -> None:
    for ending in ("pdmodel", "pdiparams"):
        shutil.move(folder / "legacy" / f"inference.{ending}", folder / f"inference.{ending}")
    said = refused(folder, engine="openvino")
    assert "legacy/inference.pdmodel: no such file, but inference.pdmodel, which has no checksum" in said


def zipped(file: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)


def encrypted(file: Path) -> None:
    zipped(file, "input_0_0.npy", b"x")
    data = bytearray(file.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flags of an entry, in both of its headers
        data[data.index(mark) + offset] |= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(npy(np.zeros(3))),
        lambda file: zipped(file, "input_0_0.npy", b"no array"),
        lambda file: zipped(file, "input_0_0.npy", b"\x93NUMPY\x01\x00\x06\x00{'a':("),
        lambda file: zipped(file, "input_0_0.npy", npy(np.array(["text"]))),
        lambda file: zipped(file, "input_0_0.npy", bytes(2**29)),
        encrypted,
    ],
    ids=["no archive", "no array", "open bracket", "text", "a bomb", "encrypted"],
)
def test_inputs_that_export_has_not_written_are_one_line(folder: Path, write: Callable[[Path], object]) -> None:
    (folder / PARITY).unlink()
    write(folder / PARITY)
    resealed(folder, lambda recipe: recipe["checksums"].update({PARITY: sha256(folder / PARITY)}))
    with pytest.raises(UserError, match=f"{PARITY} ") as caught:
        read_parity(read_exported(folder), "json")
    assert "\n" not in str(caught.value)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
