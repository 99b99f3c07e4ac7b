"""The targets of `tests.fuzz.targets` on a fixed number of inputs, the same in every run, and on what once failed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fuzz import __main__ as long_run
from tests.fuzz import checks, targets
from tests.fuzz.targets import TARGETS, raw
from tests.helpers.families import mostly_slow

INPUTS = 60  # of each target: about a second


@pytest.mark.parametrize("name", mostly_slow(TARGETS, 7))
def test_a_reader_gives_a_value_or_one_line(name: str) -> None:
    """A fixed number of inputs in a fixed order, so that a failure is the same everywhere."""
    fixed = settings(max_examples=INPUTS, derandomize=True, database=None, deadline=None)
    fixed(TARGETS[name])()


# What made a reader hang, raise something else, or accept nonsense.
BOMB = b"".join(b"%c: &%c [%s]\n" % (98 + k, 98 + k, b",".join([b"*%c" % (97 + k)] * 9)) for k in range(12))
IMAGE = b'{"id": 1, "file_name": "a", "width": 9, "height": 9}'
COCO = b'{"images": [%s], "annotations": [%s], "categories": [{"id": 1, "name": "a"}]}'
HUGE = b"1" + b"0" * 400
# OpenCV takes memory for a chunk of 3 GB.
HUGE_CHUNK = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000c0000000902030000007bd625c700000009504c5445000000090909"
    "c800004bc87fffffff001149444154789c6394f05465626060c08701132700986f8efa620000000049454e44ae426082"
)
PIXELS = b'{"name": "image", "datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 3]}'
REPRODUCED = (
    b'{"created": "", "environment": {}, "tables": [], "engines": [], "threads": 1, "quick": false, "runs": [], '
    b'"networks": {}, "benchmarks": [{%s"report": {"results": [{"label": %s, "failure": "x"}]}}]}'
)
CROP = ["DataLoader", "Train", "dataset", "transform_ops", "0", "RandCropImage"]
CACHE_KEY = b'{"done": 6, "images": "abc", "teacher": "def", "transforms": [1, 2], "shape": [2, 3, 4]}'
NOTE = b'{"done": %s, "failed": 0, "bytes": 10, "run": {%s}}'
RUN = b'"images": 5, "model": "abc", "format": "jsonl"'
KEPT: list[tuple[str, tuple[object, ...]]] = [
    ("config_file", (b"a: &a [*a]",)),
    ("config_file", (b"a: &a [x]\n" + BOMB,)),
    ("config_file", (b"[" * 3000,)),
    ("config_file", (b"Global: {epochs: !!int x}",)),
    ("config_file", (b"Global: {output_dir: 2023-02-31}",)),  # text now; the rest of the config is missing
    ("config_file", (b"Global: {seed: " + b"9" * 5000 + b"}",)),
    ("config_file", (b"Global: {1: 2}\n1: 2",)),
    ("config_file", (b"Global: {output_dir: \"a\\0\"}",)),
    ("config_file", (b"a: \xe9",)),
    ("config_override", (["Global"], "null")),
    ("config_override", (["DataLoader", "Train", "dataset", "transform_ops", "\u00b2", "size"], "3")),
    ("config_override", (["Global", "data_root"], '"a\\0"')),
    ("config_override", (["Optimizer", "regularizer"], "{name: [a], coeff: 1}")),
    ("config_override", (["Optimizer", "name"], "[a]")),
    ("config_override", (["Global", "epochs"], "true")),
    ("config_override", (["Global", "image_shape"], "[3, 32, true]")),
    ("config_override", (["Optimizer"], "{name: AdamW, epsilon: 0, lr: 0.1}")),
    ("config_override", (["Loss", "Train"], "[{MixCELoss: {weight: 1}}]")),
    ("config_override", (["Loss", "Train", "0", "CELoss", "weight"], "0")),
    ("config_override", ([*CROP, "backend"], "foo")),
    ("config_override", ([*CROP, "interpolation"], "99")),
    ("list_file", (b"a.png 1000000000", None, None)),
    ("list_file", ("a.png \u00b2".encode(), None, None)),
    ("list_file", ("a.png \u0661".encode(), None, None)),
    ("list_file", (b"a.png 1_0", None, None)),
    ("list_file", ("0 a\n\u00b2 b".encode(), None, None)),
    ("list_file", (b"a\0.png 1", None, None)),
    ("class_names", (["a\nb"],)),
    ("class_names", (["a\u2028b"],)),
    ("class_names", (["a" * 1001],)),
    ("class_names", (["a\udcff"],)),
    ("coco_json", (b"[" * 100_000,)),
    ("coco_json", (COCO % (IMAGE.replace(b'"a"', b'"a\\ud800"'), b""),)),
    ("coco_json", (COCO % (IMAGE.replace(b"9}", HUGE + b"}"), b""),)),
    ("coco_json", (COCO % (IMAGE, b'{"image_id": 1, "category_id": 1, "bbox": [1, 1, %s, 1]}' % HUGE),)),
    ("coco_json", (b'{"images": [NaN], "annotations": [], "categories": []}',)),
    ("config_override", (["Optimizer", "lr"], "{name: Cosine, learning_rate: null}")),
    ("image_gate", (HUGE_CHUNK,)),
    ("image_gate", (b"P6 60000 60000 255\n",)),
    ("teacher_cache", (CACHE_KEY, b"\x14")),
    ("teacher_cache", (b'{"done": 1%s}' % (b"0" * 400), None)),
    ("resume_note", (NOTE % (b"2", b""), False)),
    ("resume_note", (NOTE % (b"9", RUN), True)),
    ("reproduced", (REPRODUCED % (b"", b'"a"'),)),
    ("reproduced", (REPRODUCED % (b'"table": 8, "variant": "a", "engine": "b", ', b"[]"),)),
    ("run_log", (b"\xff",)),
    ("calibration", (b'{"format": 1%s}' % (b"0" * 400),)),
    ("image_gate", (b"\x76\x2f\x31\x01\x02" + bytes(300),)),
    ("infer_request", (b'{"parameters": {"timeout": 1%s}, "inputs": [%s]}' % (b"0" * 400, PIXELS), b"", None)),
    ("infer_request", (b'{"inputs": [%s]}' % PIXELS.replace(b"3]", b'"%s"]' % (b"a" * 9999)), b"", None)),
    ("predict_request", (b"--x\r\n", b"multipart/form-data; boundary=x; charset=undefined")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), KEPT, ids=[f"{name}-{k}" for k, (name, _) in enumerate(KEPT)])
def test_what_once_failed_is_refused(name: str, arguments: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    whole = checks.one_line

    def noted(error: Exception) -> str:
        refused.append(str(error))
        return whole(error)

    monkeypatch.setattr(checks, "one_line", noted)
    raw(name)(*arguments)
    assert refused or arguments == (["Global"], "null")  # an empty section


def test_a_long_run_reports_what_a_target_lets_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(content: bytes) -> None:
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(targets, "from_bytes", lambda name: fails)
    monkeypatch.setattr(long_run, "prepare", lambda instrumented: None)
    monkeypatch.setattr(long_run.sys, "addaudithook", lambda hook: None)  # it would stay for the rest of the process
    assert long_run.main(["--inputs", "1", "--target", "recipe", "--out", str(tmp_path)]) == 1
    assert "50 inputs, 1 kinds of faults" in capsys.readouterr().out
    (kept,) = tmp_path.glob("recipe-*.txt")
    assert "nobody foresaw this" in kept.read_text()


def test_an_input_that_starts_a_process_or_writes_elsewhere_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hooks: list[Callable[[str, tuple[object, ...]], None]] = []
    monkeypatch.setattr(long_run.sys, "addaudithook", hooks.append)
    watch = long_run.FolderWatch([tmp_path])
    (hook,) = hooks
    hook("os.system", (b"exit",))  # not while an input is run
    with watch:
        hook("open", (str(tmp_path / "a"), "w", 0))
        hook("open", ("/etc/hosts", "r", 0))
        for event, arguments in (
            ("os.system", (b"exit",)),
            ("open", (str(tmp_path.parent / "a"), "w", 0)),
            ("open", (str(tmp_path / ".." / "a"), None, os.O_WRONLY)),
            ("os.remove", ("/etc/hosts", -1)),
        ):
            with pytest.raises(long_run.Escaped, match=event):
                hook(event, arguments)
