"""`pplcnet check-data` reports every fault and draws samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ppcls_ext.cli.main import main
from ppcls_ext.core.errors import UserError

Fails = Callable[..., str]


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
