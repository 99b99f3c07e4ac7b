"""`ppcls_ext.bench.bulk`."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_ext.bench import bulk
from ppcls_ext.core.errors import CheckFailed


def test_images_that_are_not_there_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert bulk.main(["-m", str(tmp_path), "-i", str(tmp_path / "none")]) == 2
    assert capfd.readouterr().err.startswith("bulk: ")


def test_a_way_that_fails_is_one_line(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(command: object) -> float:
        raise CheckFailed("pplcnet infer: no such luck")

    monkeypatch.setattr(bulk, "seconds", fails)
    assert bulk.main(["-m", str(tmp_path), "-i", str(images / "val"), "--no-ray", "--short", "1", "--long", "2"]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == "bulk: pplcnet infer: no such luck"
