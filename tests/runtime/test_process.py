"""The process of an engine, as it is started."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from ppcls_ext.core import device
from ppcls_ext.runtime.process import EngineProcess


class Started(Exception):
    """Instead of a process."""


@pytest.mark.parametrize("own", [True, False])
def test_a_process_that_runs_an_engine_does_not_wait_as_training_does(
    monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    found: dict[str, str] = {}

    def start(*_: Any, env: dict[str, str], **__: Any) -> None:
        found.update(env)
        raise Started

    monkeypatch.setenv(device.WAIT_POLICY, "passive")
    monkeypatch.setattr(device, "_own_policy", {device.WAIT_POLICY: "passive"} if own else {})
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(Started):
        EngineProcess(threads=3)
    assert (device.WAIT_POLICY in found) is not own
    assert found["OMP_NUM_THREADS"] == "3"
