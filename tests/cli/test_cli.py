"""Bad input gives one line, with what is wrong and where, and exit status 2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.cli.main import main
from ppcls_ext.core.errors import UserError
from ppcls_ext.models.weights import save_weights
from tests.helpers.runs import ROOT, command, overrides

Fails = Callable[..., str]

UNKNOWN_KEYS = [
    ("Global.epoch=3", "Global.epoch: unknown key; did you mean 'epochs'?"),
    ("Arch.dropuot_prob=0.1", "Arch.dropuot_prob: unknown key; did you mean 'dropout_prob'?"),
    ("Arch.name=PPLCNet_x10", "did you mean 'PPLCNet_x1_0'?"),
    ("Optimizer.momentun=0.9", "Optimizer.momentun: unknown key; did you mean 'momentum'?"),
    ("Optimizer.name=Momentun", "did you mean 'Momentum'?"),
    ("Optimizer.lr.warmup_epochs=1", "Optimizer.lr.warmup_epochs: unknown key; did you mean 'warmup_epoch'?"),
    ("Optimizer.lr.name=Cosin", "did you mean 'Cosine'?"),
    ("DataLoader.Train.sampler.batchsize=8", "did you mean 'batch_size'?"),
    ("DataLoader.Test={}", "DataLoader.Test: unknown split"),
    ("DataLoader.Train.dataset.transform_ops.RandCropImage.sise=3", "did you mean 'size'?"),
    ("DataLoader.Train.dataset.transform_ops=[RandCropImag: {size: 32}]", "did you mean 'RandCropImage'?"),
    ("Loss.Train=[CELos: {}]", "did you mean 'CELoss'?"),
    ("Loss.Train=[CELoss: {epsilom: 0.1}]", "did you mean 'epsilon'?"),
    ("Losses={}", "Losses: unknown section; did you mean 'Loss'?"),
    ("EMA.deacy=0.9", "did you mean 'decay'?"),
    ("Global.epochs=many", "Global.epochs: "),
    ("Global.device=tpu", "none of auto, cpu, gpu"),
    ("Global.task=clasification", "did you mean 'classification'?"),
    ("Global.use_dali=true", "Global.use_dali"),
    ("Global", "expected key=value"),
]


@pytest.mark.parametrize(("change", "clue"), UNKNOWN_KEYS)
def test_wrong_keys_and_values(change: str, clue: str, images: Path, tmp_path: Path, fails: Fails) -> None:
    given = overrides(
        f"Global.data_root={images}",
        f"Global.output_dir={tmp_path / 'out'}",
        "Global.image_shape=[3,32,32]",
        "DataLoader.Train.sampler.batch_size=4",
        change,
    )
    assert clue in fails("train", "-c", "my_images", *given, lines=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", ["my_images", "det/my_coco", "seg/my_masks"])
def test_data_that_are_not_there(config: str, tmp_path: Path, fails: Fails) -> None:
    out = f"Global.output_dir={tmp_path / 'out'}"
    assert "Global.data_root is missing" in fails("train", "-c", config, "-o", out)
    gone = tmp_path / "gone"
    message = fails("train", "-c", config, *overrides(out, f"Global.data_root={gone}"))
    assert message.endswith(f"Global.data_root {gone}: no such folder")


def test_configs_that_cannot_be_read(tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "bad.yaml").write_text("Global:\n  epochs: [1\n")
    assert "line" in fails("train", "-c", tmp_path / "bad.yaml")
    assert "no such file; did you mean 'PPLCNet_x1_0'?" in fails("train", "-c", "PPLCNet_x1_00")
    assert "not a run folder" in fails("train", "-c", tmp_path)
    assert "no latest.safetensors there" in fails("train", "--resume", tmp_path / "nothing")


def test_weights_of_another_network(trained: Path, tmp_path: Path, fails: Fails) -> None:
    another = fails("eval", "-c", trained, *overrides("Arch.name=PPLCNet_x1_0"))
    assert "PPLCNet 0.25x with 3 classes" in another
    assert "PPLCNet 1.0x with 3 classes" in another
    (tmp_path / "notes.pdparams").write_text("these are not weights")
    assert "notes.pdparams" in fails("eval", "-c", trained, *overrides(f"Global.pretrained_model={tmp_path}/notes"))
    assert "no such file" in fails("eval", "-c", trained, *overrides("Global.pretrained_model=nothing"))
    save_weights(tmp_path / "w.pdparams", {"something": np.zeros(3, np.float32)})
    foreign = fails("eval", "-c", trained, *overrides(f"Global.pretrained_model={tmp_path}/w"))
    assert "a network of 1 tensors, but the model is PPLCNet 0.25x" in foreign


def test_infer_forms_agree(exported: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = str(data / "val" / "red")
    assert main(["infer", "-m", str(exported), "-i", folder, "--format", "json", "--draw", str(tmp_path / "d")]) == 0
    results = json.loads(capfd.readouterr().out)
    assert [Path(r["image"]).name for r in results] == [f"0{i}.png" for i in range(5)]
    assert len(results[0]["predictions"]) == 2  # Infer.PostProcess.topk of the config
    assert len(list((tmp_path / "d").glob("*.png"))) == 5
    saved = tmp_path / "r.csv"
    line = ["infer", "-m", str(exported), "-i", f"{folder}/*.png", "--format", "csv", "--batch", "4", "--topk", "1"]
    assert main([*line, "--save", str(saved)]) == 0
    rows = saved.read_text().splitlines()
    assert rows[0] == "image,rank,label,class,score"
    assert [row.split(",")[2] for row in rows[1:]] == [r["predictions"][0]["label"] for r in results]
    assert main(["infer", "-m", str(exported), "-i", folder]) == 0
    table = capfd.readouterr().out.splitlines()
    assert table[0] == f"images in {folder}"
    assert [line.split()[1] for line in table if ".png" in line] == [f"0{i}.png" for i in range(5) for _ in range(2)]


def test_a_table_in_a_pipe_is_not_folded(exported: Path, data: Path, tmp_path: Path) -> None:
    name = "a photograph with a long name " * 6 + ".png"
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(data / "val" / "red" / "00.png", tmp_path / folder / name)
    done = command("infer", "-m", exported, "-i", "one", "two", cwd=tmp_path, check=True)
    assert f"one/{name}" in done.stdout
    assert f"two/{name}" in done.stdout


def test_infer_names_skips_and_counts_broken_files(
    exported: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes((data / "val/red/00.png").read_bytes()[:100])
    status = main(["infer", "-m", str(exported), "-i", str(tmp_path), str(data / "val/red"), "--format", "csv"])
    out, err = capfd.readouterr()
    assert status == UserError.exit_status
    assert f"skipped: image {tmp_path / 'broken.png'}" in err
    assert len(out.splitlines()) == 1 + 5 * 2


def test_bad_calls_of_infer(exported: Path, trained: Path, tmp_path: Path, data: Path, fails: Fails) -> None:
    image = str(data / "val/red/00.png")
    assert "either an exported folder" in fails("infer", "-i", image)
    assert "needs images" in fails("infer", "-m", exported)
    assert "no inference.yml" in fails("infer", "-m", tmp_path, "-i", image)
    assert "no such file or folder" in fails("infer", "-m", exported, "-i", "nothing.jpg")
    assert "did you mean 'onednn'?" in fails("infer", "-m", exported, "-i", image, "--engine", "onedn")
    assert "infer --threshold: not a flag of classification; it has --topk" in fails(
        "infer", "-m", exported, "-i", image, "--threshold", "0.5"
    )
    assert "table, json, csv" in fails("infer", "-m", exported, "-i", image, "--format", "xml")
    (exported.parent / "legacy_only").mkdir(exist_ok=True)
    (exported.parent / "legacy_only" / "inference.yml").write_text((exported / "inference.yml").read_text())
    missing = fails("infer", "-m", exported.parent / "legacy_only", "-i", image)
    assert "needs the json format" in missing


def test_check_data(images: Path, fails: Fails, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["check-data", "-c", "my_images", "-o", f"Global.data_root={images}", "--picture", str(tmp_path / "s.png")]
    assert main(given) == 0
    assert (tmp_path / "s.png").stat().st_size > 1000
    twin = images / "val" / "red" / "twin.png"
    twin.write_bytes((images / "train" / "red" / "00.png").read_bytes())
    (images / "train" / "blue" / "01.png").write_text("no image")
    capfd.readouterr()
    assert main(given) == UserError.exit_status
    err = capfd.readouterr().err
    assert "twin.png is the same picture as" in err
    assert "blue/01.png" in err
    assert "2 errors" in err


@pytest.mark.parametrize("script", sorted(f.name for f in (ROOT / "tools").glob("*.py")))
def test_tools_run_from_any_folder(script: str, tmp_path: Path) -> None:
    line = [sys.executable, str(ROOT / "tools" / script), "--help"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert script.removesuffix(".py").replace("_", "-") in done.stdout


def test_nothing_else_is_written_on_a_normal_run(exported: Path, data: Path, tmp_path: Path) -> None:
    done = command("infer", "-m", exported, "-i", data / "val/red/00.png", "--format", "csv", cwd=tmp_path)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benchmark"], "pplcnet benchmark: the following arguments are required: -m/--model"),
        (["benchmark", "-m", "x", "--threads", "two"], "argument --threads: expected a whole number, got 'two'"),
        (["benchmark", "-m", "x", "--soak", "0"], "argument --soak: expected 1 or more, got 0"),
        (["reproduce", "--tables", "2,x"], "argument --tables: expected a whole number, got 'x'"),
        (["trian"], "invalid choice: 'trian'"),
    ],
)
def test_wrong_flags_are_one_line(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert line.endswith("--help")
