"""`ppcls_ext.bench.named`: untrained networks by name or text."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_ext.bench.named import export_untrained, network_of_name
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.yaml_files import read_yaml
from tests.helpers.points import SMALL


def test_a_text_is_a_network_under_its_short_name_at_its_own_size() -> None:
    config = network_of_name(SMALL).load()
    assert config["Arch"] == {"name": "LCNetSearched", "arch": SMALL, "class_num": 1000}
    assert config.global_section.image_shape == (3, 64, 64)
    assert network_of_name(SMALL).name.startswith("LCNet-")
    assert network_of_name("MobileNetV4_conv_small").load()["Arch"]["name"] == "MobileNetV4_conv_small"


def test_an_unknown_network_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no network 'PPLCNet_x1\.0'; did you mean 'PPLCNet_x1_0'"):
        export_untrained("PPLCNet_x1.0", tmp_path)
    with pytest.raises(UserError, match="--network: arch must have 8 pieces"):
        export_untrained("stem16 | ds-c32", tmp_path)


@pytest.mark.slow
def test_a_network_is_built_for_one_image(tmp_path: Path) -> None:
    """Slow: it writes three formats."""
    folder = export_untrained(SMALL, tmp_path)
    assert read_yaml(folder / "inference.yml")["inputs"][0]["shape"] == [1, 3, 64, 64]
