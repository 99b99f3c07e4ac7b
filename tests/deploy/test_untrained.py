"""Untrained networks are built in the formats that engines run."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.deploy.untrained import build, formats_for, network_of_spec
from ppcls_ext.runtime.engines import engine_class
from ppcls_ext.runtime.engines.base import FORMATS
from tests.helpers.spaces import tiny_space

needs_onnx = pytest.mark.skipif(not engine_class("onnxruntime").installed(), reason="ONNX is an extra")


def test_formats_are_those_that_the_engines_run() -> None:
    assert formats_for(["onednn", "native"]) == ["json"]
    assert formats_for(["openvino"]) == ["pdmodel"]
    assert formats_for(["openvino", "onednn"]) == ["json", "pdmodel"]


@needs_onnx
@pytest.mark.slow
def test_a_network_is_built_for_an_engine_of_onnx(tmp_path: Path) -> None:
    """An ONNX file is made from another format, so that one is built, too."""
    assert formats_for(["onnxruntime"]) == ["json", "onnx"]
    network = network_of_spec(tiny_space().smallest())
    build(network, tmp_path, formats_for(["onnxruntime"]))
    assert all((tmp_path / network.name / file).is_file() for file in FORMATS["onnx"])


def test_an_engine_that_runs_calibrated_networks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_class("openvino-int8"), "installed", lambda: True)
    with pytest.raises(UserError, match="--engines openvino-int8: it runs networks that export has calibrated"):
        formats_for(["onednn", "openvino-int8"])


def test_an_engine_that_is_not_installed_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_class("onnxruntime"), "installed", lambda: False)
    with pytest.raises(UserError, match="--engine onnxruntime: it needs the package onnxruntime; install it"):
        formats_for(["onednn", "onnxruntime"], "--engine")


def test_no_engine_is_refused() -> None:
    with pytest.raises(UserError, match="--engines: none is given; known: native, "):
        formats_for([])
