"""`pplcnet check-data` reports every fault and draws samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ppcls_ext.cli.main import main
from ppcls_ext.core.errors import UserError
from tests.helpers.configs import overrides

Fails = Callable[..., str]


def test_check_data(images: Path, fails: Fails, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["check-data", "-c", "my_images", "-o", f"Global.data_root={images}", "--picture", str(tmp_path / "s.png")]
    assert main(given) == UserError.exit_status
    assert "error: Train: a batch of 64 with drop_last leaves nothing of " in capfd.readouterr().err
    given += overrides("DataLoader.Train.sampler.batch_size=8")
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


def test_a_config_without_data_is_one_line(tmp_path: Path, fails: Fails) -> None:
    assert "DataLoader has neither Train nor Eval" in fails("check-data", "-c", "my_images", "-o", "DataLoader=null")
    assert "DataLoader: expected keys and values, got 5" in fails("check-data", "-c", "my_images", "-o", "DataLoader=5")


def test_the_loader_is_timed(images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = (f"Global.data_root={images}", "Global.image_shape=[3,32,32]", "DataLoader.Train.sampler.batch_size=8")
    given = ["check-data", "-c", "my_images", "--speed"]
    given += overrides(*settings, "DataLoader.Train.loader.num_workers=0")
    assert main(given) == 0
    out, err = capfd.readouterr()
    assert "decoded images are kept in memory" in err
    assert "the training loader alone, 0 workers" in out
    for line in ("first epoch", "later epochs"):
        assert float(out.split(line)[1].split()[1]) > 0
