"""Pickles are read without running them: bombs of every protocol, keys that never end, and attributes are refused."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_ext.models import pickles
from ppcls_ext.models.pickles import Refused, read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def refused(data: bytes, tmp_path: Path) -> str:
    (tmp_path / "w.pdparams").write_bytes(data)
    with pytest.raises(Refused) as caught:
        read_pickle(tmp_path / "w.pdparams")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    return str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_come_back_as_they_were(protocol: int, tmp_path: Path) -> None:
    arrays = {
        "rows": np.arange(6, dtype="float32").reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "nothing": np.zeros((0, 3), "float16"),
        "flags": np.array([True, False]),
        "number": np.float32(2.5),
        "none": np.array(7),
    }
    (tmp_path / "w").write_bytes(pickle.dumps(OrderedDict(arrays), protocol))
    found = read_pickle(tmp_path / "w")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype, name


class Runs:
    """Asks for a call when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("place", ["value", "key", "inside"])
def test_nothing_is_executed(place: str, protocol: int, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    for function, *arguments in (
        (os.system, f"touch '{proof}'"),
        (subprocess.Popen, ["touch", str(proof)]),
        (eval, f"open({str(proof)!r}, 'w')"),
        (getattr, "text", "upper"),
    ):
        bomb = Runs(function, *arguments)
        content = {"value": {"w": bomb}, "key": {bomb: 1}, "inside": {"w": [(1, {"x": bomb})]}}[place]
        assert "it wants to run" in refused(pickle.dumps(content, protocol), tmp_path)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("opcodes", "reason"),
    [
        (b"(S'touch x'\nios\nsystem\n.", "it uses INST"),
        (b"(cos\nsystem\nS'touch x'\no.", "it wants to run os.system"),  # OBJ
        (b"\x80\x02cos\nsystem\n)\x81.", "it wants to run os.system"),  # NEWOBJ
        (b"\x80\x02\x82\x01.", "it uses EXT1"),
        (b"Pname\n.", "it uses PERSID"),
        (b"\x80\x05\x97.", "it uses NEXT_BUFFER"),
    ],
)
def test_other_ways_to_run_something_are_refused(opcodes: bytes, reason: str, tmp_path: Path) -> None:
    assert reason in refused(opcodes, tmp_path)


def test_a_key_of_nested_tuples_does_not_hang(tmp_path: Path) -> None:
    """Its hash would take 2**60 steps."""
    tuples = b")\x94" + b"".join(b"h%c\x86\x94" % number for number in range(60))
    assert "a key is a tuple" in refused(b"\x80\x04}" + tuples + b"K\x01s.", tmp_path)


def test_attributes_are_not_set(tmp_path: Path) -> None:
    array = pickle.dumps(np.zeros(2), 2)[:-1]
    assert "sets attributes of an array" in refused(array + b"}U\x01aK\x01sb.", tmp_path)
    assert "sets attributes of a dict" in refused(b"\x80\x02}}U\x01aK\x01sb.", tmp_path)


def test_what_is_larger_than_its_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pickle.dumps({"w": np.zeros(1000, np.uint8)}, 2)
    assert "has 1000 bytes" in refused(whole.replace(b"M\xe8\x03\x85", b"J\xff\xff\xff\x7f\x85"), tmp_path)
    text = b"X" + (10_000).to_bytes(4, "little") + b"a" * 10_000
    again = b"c_codecs\nencode\n0" + text + b"q\x000" + b"c_codecs\nencode\nh\x00\x85R" * 100
    assert "the same text again and again" in refused(b"\x80\x02" + again + b".", tmp_path)
    monkeypatch.setattr(pickles, "MOST_OPCODES", 1000)
    assert "more than 1000 steps" in refused(b"\x80\x02" + b"N0" * 1000 + b"N.", tmp_path)


def test_damage_is_one_line(tmp_path: Path) -> None:
    data = pickle.dumps({"w": np.arange(10.0)}, 4)
    rng, said = np.random.default_rng(0), []
    for _ in range(300):
        spoiled = bytearray(data)
        spoiled[rng.integers(len(data))] = rng.integers(256)
        (tmp_path / "w").write_bytes(spoiled)
        try:
            read_pickle(tmp_path / "w")
        except Refused as error:
            said.append(str(error))
    assert len(said) > 100
    assert not [text for text in said if "\n" in text]
    assert refused(b"", tmp_path) == "the file is empty"


def test_a_list_that_is_used_again_and_again_is_not_gone_through_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, "MOST_ITEMS", 1000)
    items = b"]q\x00(" + b"X\x01\0\0\0aK\x01\x86" * 400 + b"e0"
    mappings = b"ccollections\nOrderedDict\nh\x00\x85R0" * 3
    assert "more than 1000 values to build" in refused(b"\x80\x02" + items + mappings + b"N.", tmp_path)
    values = b"(" + b"K\x01" * 100 + b"tq\x000"
    call = b"cnumpy\ndtype\nh\x00R0"
    assert "it hands 100 values to a function" in refused(b"\x80\x02" + values + call + b"N.", tmp_path)
    state = b"cnumpy\ndtype\nX\x02\0\0\0f4\x85Rh\x00b0"
    assert "it hands 100 values to a function" in refused(b"\x80\x02" + values + state + b"N.", tmp_path)
