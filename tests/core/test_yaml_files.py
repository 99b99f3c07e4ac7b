"""`ppcls_ext.core.yaml_files`: plain data within limits, and a line for every fault."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.yaml_files import CONFIG, YamlFault, YamlLimits, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: [x, 1e-4, true, null]", {"a": 1, "b": ["x", 1e-4, True, None]}),
        ("a: 2023-02-31\nb: 2023-02-01", {"a": "2023-02-31", "b": "2023-02-01"}),  # dates are text
        ("a: &x {k: 1}\nb: {<<: *x, l: 2}\nc: *x", {"a": {"k": 1}, "b": {"k": 1, "l": 2}, "c": {"k": 1}}),
        ("{0: 0, 255: 1}", {0: 0, 255: 1}),  # of Masks.values
        ("\ufeffa: =", {"a": "="}),
        ("", None),
    ],
)
def test_plain_data_is_read(text: str, value: object) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: &b [*b]", "line 2: an alias stands for what it is a part of"),
        ("a: 1\na: 2", "line 2: the key 'a' is given twice"),
        ("a:\n  b: !!int x", "line 2: 'x' is no int"),
        ("a: !!set {b}", "line 1: not valid YAML here: the tag set is no plain data"),
        ("a: .nan", "line 1: .nan is not finite"),
        ("a: 1e999", "line 1: 1e999 is not finite"),
        ("a: 100000000000000000000", "line 1: 100000000000000000000 has more than 64 bits"),
        ("yes: 1", "line 1: the key 'yes' is read as True: put it in quotes"),
        ("? [a]\n: 1", "line 1: a key must be a word or a number"),
        ('a: "\\0"', "has a NUL character"),
        ("a: \0", "line 1: not valid YAML: control characters are not allowed"),
        ("a: '\udcff'", "line 1: not UTF-8 text"),
        ("[" * 3000, "line 1: nested more than 32 levels deep"),
        ("x" * (CONFIG.scalar + 1), "a value of more than 65536 characters"),
        ("[1, 2]\n---\n[3]", "line 2: not valid YAML"),
    ],
)
def test_a_fault_is_named_with_its_line(text: str, fault: str) -> None:
    with pytest.raises(YamlFault) as caught:
        parse_yaml(text)
    assert fault in str(caught.value)


def test_aliases_count_as_often_as_they_are_used() -> None:
    limits = YamlLimits(size=1000, depth=8, nodes=40, scalar=10)
    text = "a: &a [1, 2, 3, 4]\nb: &b [*a, *a]\nc: "
    assert parse_yaml(f"{text} *b", limits)["c"] == [[1, 2, 3, 4]] * 2
    with pytest.raises(YamlFault, match="more than 40 keys and values, with its aliases followed"):
        parse_yaml(f"{text} [*b, *b]", limits)


def test_only_regular_files_of_a_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large.yaml").write_bytes(b"#" * (CONFIG.size + 1))
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9")
    for name, reason in [
        ("fifo", "it is a FIFO, not a file"),
        (".", "it is a folder, not a file"),
        ("/dev/zero", "it is a device, not a file"),
        ("large.yaml", "it is larger than 1 MB"),
        ("latin.yaml", "line 2: not UTF-8 text (byte 0xe9)"),
    ]:
        with pytest.raises(UserError) as caught:
            read_yaml(tmp_path / name)
        assert reason in str(caught.value)
