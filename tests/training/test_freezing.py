"""`ppcls_ext.training.freezing`: what patterns name, and what they cannot."""

from __future__ import annotations

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.models.factory import build_arch
from ppcls_ext.training.freezing import freeze


@pytest.mark.parametrize("name", ["PPLCNet_x0_25", "MobileNetV3_small_x0_35"])  # ours, and PaddleClas's own layers
def test_batch_norms_are_found_by_their_name(name: str) -> None:
    model = build_arch({"name": name}, 3)
    norms = freeze(model, ["*.bn"])
    assert len(norms) == sum(n.endswith(".bn") for n, _ in model.named_sublayers()) > 10
    for parameter_name, parameter in model.named_parameters():
        assert parameter.stop_gradient == (".bn." in parameter_name), parameter_name


def test_a_pattern_names_layers_or_parameters() -> None:
    model = build_arch({"name": "PPLCNet_x0_25"}, 3)
    assert freeze(model, ["fc.weight"]) == []
    assert [n for n, p in model.named_parameters() if p.stop_gradient and ".bn._" not in n] == ["fc.weight"]
    assert len(freeze(model, ["blocks5"])) == 12  # six blocks have two norms each
    assert freeze(model, []) == []


def test_what_cannot_be_frozen_is_said() -> None:
    model = build_arch({"name": "PPLCNet_x0_25"}, 3)
    with pytest.raises(UserError, match="nothing in the network is named 'block5'; did you mean 'blocks5'"):
        freeze(model, ["conv1", "block5"])
    with pytest.raises(UserError, match="freezes the whole network"):
        freeze(model, ["*"])
