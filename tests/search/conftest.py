"""A search on small images, by a calibration whose engine is made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ppcls_ext.models.spec import LCNetSpec
from ppcls_ext.search import held_out
from ppcls_ext.search.calibrate import target_of
from ppcls_ext.search.calibrations import calibration_file
from ppcls_ext.search.costs import costs_of
from ppcls_ext.search.latency import Accuracy, LatencyModel
from ppcls_ext.search.measurements import Calibration
from ppcls_ext.search.space import SPACES
from ppcls_ext.search.wish import Wish
from tests.helpers.spaces import SIDE, measured, tiny_space, write_images

SPACE = tiny_space()
GOOD = Accuracy(0.01, 1.0, 0.99, 50)
# Milliseconds for a unit of some costs; all others are free.
PRICES = {"network.calls": 0.05, "pointwise.work": 0.02, "depthwise5s1.work": 0.2, "head.weights": 0.1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("search") / "images")


@pytest.fixture
def calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calibration:
    """One of this machine, whose model charges for work and calls."""
    monkeypatch.setenv("PPLCNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(SPACES, "tiny", SPACE)
    monkeypatch.setattr(held_out, "LEAST", 10)
    names = {name for spec in [SPACE.largest(), *SPACE.samples(50, 0)] for name in costs_of(spec)}
    prices = {name: 0.2 if name.endswith(".work") else 0.01 for name in names}
    target = target_of("onednn", 1)
    found = Calibration(target, "tiny", "", "", {}, model=LatencyModel(target, prices), accuracy={"model": GOOD})
    found.save(tmp_path / "cache" / "latency" / "onednn-1-tiny.json")
    return found


@pytest.fixture
def wish(images: Path, calibration: Calibration, tmp_path: Path) -> Wish:
    assert calibration.model is not None
    ends = [calibration.model.predict(spec, 3) for spec in (SPACE.smallest(), SPACE.largest())]
    settings = (
        f"Global.data_root={images}", f"Global.image_shape=[3,{SIDE},{SIDE}]", "Global.least_steps=null",
        "DataLoader.Train.loader.num_workers=0", "DataLoader.Eval.loader.num_workers=0",
        "Optimizer.lr.warmup_epoch=0", "DataLoader.Train.sampler.batch_size=32", f"Global.output_dir={tmp_path}",
    )  # fmt: skip
    return Wish(
        "my_images", settings, sum(ends) / 2, None, "onednn", 1, "tiny", "supernet", 2, 6, None, None, tmp_path / "out"
    )


@pytest.fixture
def calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calibration:
    """One of this machine for the space `lcnet`, the only one in a cache of its own."""
    monkeypatch.setenv("PPLCNET_CACHE", str(tmp_path / "cache"))
    space = SPACES["lcnet"]
    names = {name for spec in [space.largest(), *space.samples(50, 0)] for name in costs_of(spec)}
    prices = {name: PRICES.get(name, 0.0) for name in names}
    target = target_of("onednn", 1)
    found = Calibration(target, "lcnet", "", "", {}, model=LatencyModel(target, prices), accuracy={"model": GOOD})
    found.save(calibration_file("onednn", 1, "lcnet"))
    return found


@pytest.fixture
def narrow(calibrated: Calibration) -> Calibration:
    """That of `calibrated`, fitted to PP-LCNet 0.25x and 1x at 128 and 224 pixels."""
    specs = [LCNetSpec(scale=scale).network().replace(input_size=size) for scale in (0.25, 1.0) for size in (128, 224)]
    return replace(calibrated, anchor_ms=(1.0,), measured=measured("network", *specs))
