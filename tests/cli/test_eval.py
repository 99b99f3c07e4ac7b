"""`pplcnet eval` with weights that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.models.weights import save_weights
from tests.helpers.configs import overrides

pytestmark = pytest.mark.slow

Fails = Callable[..., str]


def test_weights_of_another_network(trained: Path, tmp_path: Path, fails: Fails) -> None:
    another = fails("eval", "-c", trained, *overrides("Arch.name=PPLCNet_x1_0"))
    assert "PPLCNet 0.25x with 3 classes" in another
    assert "PPLCNet 1.0x with 3 classes" in another
    (tmp_path / "notes.pdparams").write_text("these are not weights")
    assert "notes.pdparams" in fails("eval", "-c", trained, *overrides(f"Global.pretrained_model={tmp_path}/notes"))
    assert "no such file" in fails("eval", "-c", trained, *overrides("Global.pretrained_model=nothing"))
    save_weights(tmp_path / "w.pdparams", {"something": np.zeros(3, np.float32)})
    foreign = fails("eval", "-c", trained, *overrides(f"Global.pretrained_model={tmp_path}/w"))
    assert "a network of 1 tensors, but the model is PPLCNet 0.25x" in foreign
