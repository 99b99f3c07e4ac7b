"""The README's commands in a row, as a user gives them, from a folder that is not the checkout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ppcls_ext.models.weights import read_weights
from tests.helpers.configs import overrides
from tests.helpers.processes import command
from tests.helpers.sets import write_set

pytestmark = pytest.mark.slow


def test_train_eval_export_infer_from_another_folder(tmp_path: Path) -> None:
    data = write_set(tmp_path / "my photos", train=12, val=4)
    small = overrides(
        f"Global.data_root={data}",
        "Global.image_shape=[3,32,32]",
        "Global.epochs=2",
        "Arch.name=PPLCNet_x0_25",
        "DataLoader.Train.sampler.batch_size=8",
    )
    command("train", "-c", "my_images", *small, cwd=tmp_path, check=True)
    run = tmp_path / "output" / "my_images"
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert resolved["Arch"]["class_num"] == 3
    assert (run / "labels.txt").read_text().split() == ["blue", "green", "red"]
    assert read_weights(run / "best")["fc.weight"].shape == (1280, 3)

    evaluated = json.loads(command("eval", "-c", run, "--json", cwd=tmp_path, check=True).stdout)
    assert evaluated["images"] == 12
    command("export", "-c", run, "-o", "Export.batch=1", "--formats", "json", cwd=tmp_path, check=True)

    photos = [str(f) for f in sorted((data / "val").rglob("*.png"))]
    shown = ("--format", "json", "--topk", "1")
    with_onednn = json.loads(command("infer", "-m", run / "inference", "-i", *photos, *shown, check=True).stdout)
    with_dygraph = json.loads(command("infer", "-c", run, "-i", *photos, *shown, check=True).stdout)
    assert [r["image"] for r in with_onednn] == photos
    for ours, theirs in zip(with_onednn, with_dygraph, strict=True):
        (best,), (other,) = ours["predictions"], theirs["predictions"]
        assert best["label"] == other["label"]
        assert abs(best["score"] - other["score"]) < 1e-4
    right = sum(Path(r["image"]).parent.name == r["predictions"][0]["label"] for r in with_onednn)
    assert right / len(photos) == evaluated["top1"]

    (tmp_path / "broken.jpg").write_text("not an image")
    done = command("infer", "-m", run / "inference", "-i", tmp_path / "broken.jpg", photos[0], "--format", "csv")
    assert done.returncode == 2
    assert "skipped: image" in done.stderr
    assert "broken.jpg" in done.stderr
    assert photos[0] in done.stdout
