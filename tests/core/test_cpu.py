"""What other processes do, by the files of the system."""

from __future__ import annotations

import pytest

from ppcls_ext.core.cpu import OthersWatch


def test_the_cores_of_others_are_those_in_use_without_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(10.0, 100.0, 5.0), (14.0, 107.0, 8.0)])
    monkeypatch.setattr(OthersWatch, "_read", staticmethod(lambda: next(readings)))
    assert OthersWatch().cores() == pytest.approx((7.0 - 3.0) / 4.0)


def test_a_system_that_does_not_tell_is_taken_for_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OthersWatch, "_read", staticmethod(lambda: None))
    assert OthersWatch().cores() == 0
