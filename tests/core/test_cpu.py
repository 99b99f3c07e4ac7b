"""What other processes do, by the files of the system."""

from __future__ import annotations

import pytest

from ppcls_ext.core.cpu import Busy, Watch


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four seconds, seven were used on all cores, three of them by this process; two were stolen."""
    readings = iter([(10.0, 100.0, 1.0, 5.0), (14.0, 107.0, 3.0, 8.0)])
    monkeypatch.setattr(Watch, "_read", staticmethod(lambda: next(readings)))


def test_the_cores_of_others_are_those_in_use_without_our_own(read: None) -> None:
    found = Watch().busy()
    assert found == Busy(others=pytest.approx((7.0 - 3.0) / 4.0), stolen=pytest.approx(2.0 / 4.0))
    assert found.taken == pytest.approx(6.0 / 4.0)


def test_a_measurement_says_what_is_ours(read: None) -> None:
    assert Watch().busy(ours=5.0).others == pytest.approx((7.0 - 5.0) / 4.0)


def test_a_system_that_does_not_tell_is_taken_for_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "_read", staticmethod(lambda: None))
    assert Watch().busy() == Busy(0, 0)
