"""Exports of small networks as they are before training, in ONNX unless said otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import paddle
import pytest

import det.demo
import seg.demo
from ppcls_ext.core.config import load_config
from ppcls_ext.deploy.export import export
from ppcls_ext.tasks.finding import make_task


@contextlib.contextmanager
def checked_on(*engines: str) -> Iterator[None]:
    """Exports made inside are checked on these engines only: each of them is a process of two seconds, at least."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ppcls_ext.deploy.export.ENGINES", engines)
        yield


def untrained(name: str, folder: Path, settings: Sequence[str], formats: str = "onnx") -> Path:
    """An export of the config's network as it is before training."""
    settings = [*settings, f"Global.save_inference_dir={folder / 'inference'}", "Global.device=cpu"]
    paddle.seed(0)
    paddle.save(make_task(load_config(name, settings)).build_model().state_dict(), str(folder / "start.pdparams"))
    config = load_config(name, [*settings, f"Global.pretrained_model={folder / 'start.pdparams'}"])
    with checked_on("onnxruntime"):
        return export(config, formats=formats)


def classifier(folder: Path, data: Path, formats: str = "onnx") -> Path:
    """An export for the classes of a set of images."""
    folder.mkdir()
    settings = [f"Global.data_root={data}", "Global.image_shape=[3,48,48]", "Arch.name=PPLCNet_x0_25"]
    return untrained("my_images", folder, settings, formats)


def detector(folder: Path, formats: str = "onnx") -> Path:
    """An export that finds something in any image."""
    for split in ("train", "val"):
        det.demo.make_scenes(folder, split, 2, side=96)
    settings = ["Global.image_shape=[3,96,96]", "Arch.width=32", "Infer.threshold=0.0", "NMS.score_threshold=0"]
    return untrained("det/demo", folder, [*settings, f"Global.data_root={folder}"], formats)


def segmenter(folder: Path, formats: str = "onnx") -> Path:
    """An export that takes images of any size."""
    for split in ("train", "val"):
        seg.demo.make_scenes(folder, split, 2, side=96)
    return untrained("seg/demo", folder, ["Arch.backbone.scale=0.25", f"Global.data_root={folder}"], formats)
