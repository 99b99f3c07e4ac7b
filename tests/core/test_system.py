"""Limits of the operating system."""

from __future__ import annotations

import sys

import pytest

from ppcls_ext.core import system

resource = pytest.importorskip("resource", reason="only POSIX has these limits")


def test_more_open_files_are_asked_for_and_never_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = resource.RLIM_INFINITY
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    for limits in ((1024, 4096), (1024, 1100), (1024, endless), (4096, 4096), (endless, endless)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        system.allow_open_files(2000)
    assert asked == [(2000, 4096), (1100, 1100), (2000, endless)]


def test_a_system_without_these_limits_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(system, "resource", None)
    system.allow_open_files(sys.maxsize)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
