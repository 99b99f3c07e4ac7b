"""Workarounds for PaddlePaddle do what they are for."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.runtime.engines import open_engine
from ppcls_ext.runtime.exported import read_exported
from tests.helpers.exports import classifier

CALLS = 20


def wakes_of_other_threads() -> int:
    """How often other threads of this process have gone to sleep so far."""
    found = 0
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != threading.get_native_id():
            try:
                lines = (task / "status").read_text().splitlines()
            except OSError:  # it has ended since
                continue
            found += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not count the switches of threads")
def test_a_call_does_not_wake_a_thread_for_each_tensor_that_it_frees(data: Path, tmp_path: Path) -> None:
    """Slow: exports a network. It has 41 primitives; without the workaround there are 32 wakes a call."""
    folder = classifier(tmp_path / "exported", data)
    engine = open_engine("onednn", folder, 1)
    inputs = [
        np.zeros([abs(side) for side in shape], np.float32) for shape in read_exported(folder).shapes(1, None) or []
    ]
    for _ in range(3):
        engine(inputs)
    before = wakes_of_other_threads()
    for _ in range(CALLS):
        engine(inputs)
    assert wakes_of_other_threads() - before < 5 * CALLS
