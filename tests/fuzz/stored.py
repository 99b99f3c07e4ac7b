"""Targets: what the toolkit stores itself and may find damaged."""

from __future__ import annotations

import functools
import json
import math
import os
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from ppcls_ext.bench.changes import compare_reports, read_report
from ppcls_ext.core import locks
from ppcls_ext.core.run_folder import read_log
from ppcls_ext.core.text import one_line
from ppcls_ext.deploy.encoders import JsonLinesEncoder
from ppcls_ext.deploy.results_file import ResultsFile
from ppcls_ext.deploy.untrained import MADE as NETWORK_NOTE
from ppcls_ext.deploy.untrained import built_before
from ppcls_ext.models.spec import SPECS
from ppcls_ext.models.weights import describe, read_weights
from ppcls_ext.paper.documents import RAW, RAW_TODAY, read_metrics, read_raw, read_today
from ppcls_ext.paper.repeat import repeat_lines, second_run
from ppcls_ext.paper.report.page import view_of
from ppcls_ext.paper.today import comparison, latencies_of, table_of
from ppcls_ext.runtime.choice import Candidate, EngineChoice
from ppcls_ext.runtime.remembered import recall, remember
from ppcls_ext.search.evolution import Evolution, front_of
from ppcls_ext.search.judge import Quality
from ppcls_ext.search.latency import Target
from ppcls_ext.search.measurements import read_calibration
from ppcls_ext.search.space import space_named
from ppcls_ext.training.distillation import Cache
from ppcls_ext.training.position import Position
from ppcls_ext.training.state import read_state, save_state
from tests.fuzz import inputs
from tests.fuzz.checks import folder, only_user_errors, written

# By names that messages about weights look at, of shapes that those of a network do not have.
TENSORS = {
    "blocks6.1.pw_conv.conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fc.weight": np.zeros(3, np.float16),
}


@given(inputs.pickles(TENSORS))
def pickled_weights(content: bytes) -> None:
    with only_user_errors():
        describe(read_weights(written("weights/net.pdparams", content)))


@given(st.one_of(inputs.damaged(safetensors.numpy.save(TENSORS, {"a": "b"})), inputs.headers()))
def safetensors_weights(content: bytes) -> None:
    with only_user_errors():
        describe(read_weights(written("weights/net.safetensors", content)))


STEPS = 4
INFO = {
    "position": vars(Position(epoch=1, step=2, total_steps=6, sums={"loss": 1.5}, images=8)),
    "schedule": {"last_epoch": 6},
    "run": {"seed": 1},
}


@given(st.one_of(st.builds(dict, info=inputs.changed(INFO)), st.binary(max_size=64).map(lambda b: {"bits": b})))
def training_state(values: dict[str, Any]) -> None:
    """A state whose text is odd, under a checksum that fits; or one with bits changed."""
    file = folder() / "latest.safetensors"
    save_state(file, TENSORS, INFO)
    if "bits" in values:
        data = bytearray(file.read_bytes())
        for k, byte in enumerate(values["bits"]):
            data[(k * 37 + byte * 101) % len(data)] ^= 1 << byte % 8
        file.write_bytes(data)
    else:
        save_state(file, TENSORS, json.loads(json.dumps(values["info"], default=str, skipkeys=True)))
    with only_user_errors():
        _, info = read_state(file)
        Position.read(info.get("position"), STEPS)


KEY = {"images": "abc", "teacher": "def", "transforms": [1, 2]}
SHAPE = (2, 3, 4)


@functools.cache
def logits_file() -> bytes:
    np.save(folder() / "whole.npy", np.zeros(SHAPE, np.float16))
    return (folder() / "whole.npy").read_bytes()


class NoImages:
    """A loader whose images are all done."""

    sampler = SimpleNamespace(batch_size=2)

    def epoch(self, epoch: int, skip: int) -> list[Any]:
        return []


@given(
    st.one_of(st.just(json.dumps({**KEY, "shape": SHAPE, "done": 6}).encode()), inputs.json_texts({**KEY, "done": 6})),
    st.one_of(st.none(), st.binary(max_size=32)),
)
def teacher_cache(key: bytes, damage: bytes | None) -> None:
    place = written("cache/key.json", key).parent
    data = bytearray(logits_file())
    for k, byte in enumerate(damage or b""):
        data[(k * 31 + byte) % len(data)] = byte
    (place / "logits.npy").write_bytes(data if len(damage or b"") != 1 else data[: 4 * damage[0]])  # type: ignore[index]
    with only_user_errors():
        cache = Cache(place, KEY, SHAPE)
        cache.fill(SimpleNamespace(model=None), NoImages())  # type: ignore[arg-type]
        assert cache.logits(np.zeros((1, 3), np.int64)).shape == (1, 4)


CHOICE = EngineChoice("onednn", "json", "why", (Candidate("onednn", "json", 0.0, 1.0, 3, 1.0, 0.9, 1.1),), 1, ((1, 3),))


@given(inputs.json_texts({"format": 1, "entries": {}}), inputs.changed(json.loads(json.dumps(CHOICE.to_dict()))))
def engine_memory(content: bytes, value: Any) -> None:
    """A damaged memory is as none; one that was written over with something else gives no choice."""
    os.environ["PPLCNET_CACHE"] = str(written("memory/engines.json", content).parent)
    recall({"model": 1})
    remember({"model": 1}, json.loads(json.dumps(value, default=str, skipkeys=True)))
    try:
        choice = EngineChoice.from_dict(recall({"model": 1}))
        str(choice)
        json.dumps([asdict(one) for one in choice.candidates], allow_nan=False)
    except (TypeError, KeyError, ValueError):  # what the caller takes for none
        return


RUN = {"images": 5, "model": "abc", "format": "jsonl"}


@given(inputs.json_texts({"done": 2, "failed": 0, "bytes": 10, "run": RUN}), st.booleans())
def resume_note(content: bytes, resume: bool) -> None:
    written("bulk/rows.jsonl.part.json", content)
    part = written("bulk/rows.jsonl.part", b"x" * 20)
    with only_user_errors():
        encoder = JsonLinesEncoder(SimpleNamespace(columns=("a",), column_types=(str,)))  # type: ignore[arg-type]
        sink = ResultsFile(part.with_name("rows.jsonl"), encoder, lambda: RUN, resume)
        assert 0 <= sink.done <= RUN["images"]  # type: ignore[operator]
        sink.close()


ARCH = SPECS["PPLCNet_x0_25"].network().text
CALIBRATION = {
    "format": 1,
    "target": {"cpu": ["a"], "engine": "onednn", "threads": 1, "versions": {"numpy": "2"}},
    "space": "lcnet",
    "created": "2021",
    "command": "pplcnet search",
    "machine": {},
    "anchor_ms": [1.5, 1.6],
    "measured": [{"arch": ARCH, "use": "network", "ratio": 1.0, "low": 0.9, "high": 1.1, "failure": ""}],
    "model": {
        "target": {"cpu": ["a"], "engine": "onednn", "threads": 1, "versions": {"numpy": "2"}, "cpuid": "b"},
        "prices": {"a": 1.0},
    },
    "accuracy": {"model": {"median": 0.1, "close": 0.9, "spearman": 1.0, "n": 3}},
}


@given(inputs.json_texts(CALIBRATION))
def calibration(content: bytes) -> None:
    with only_user_errors():
        found = read_calibration(written("calibration.json", content))
        found.latencies("network")
        assert isinstance(found.doubt, str)
        fitted = [one for one in found.measured if one.use != "unseen" and not one.failure]
        assert not any(found.outside(one.spec) for one in fitted)
        found.target.differences(Target(("b",), "a", 2, {}))
        found.save(folder() / "again.json")
        assert read_calibration(folder() / "again.json") == found


SEARCH = {"seed": 0}
TODAYS = [entry.network.name for entry in comparison().rows[:2]]
CANDIDATES = {
    "identity": SEARCH,
    "calibration": "abc",
    "candidates": [{"arch": ARCH, "ms": 1.5, "expected": 0.5, "top1": 0.5, "generation": 0}],
    "judged": {ARCH: [0.5, 0.5]},
}


@given(inputs.json_texts(CANDIDATES), st.sampled_from(["abc", "def"]))
def candidates(content: bytes, calibration: str) -> None:
    file = written("candidates.json", content)
    space, latency = space_named("lcnet"), lambda spec: 1.0
    evolution = Evolution(space, latency, 1.0, file, SEARCH, calibration, population=1, generations=1)
    with only_user_errors():
        found = evolution.run(lambda spec: Quality(0.5, 0.5))
        assert all(c.ms > 0 and math.isfinite(c.expected + c.top1) for c in front_of(found))


TODAY: dict[str, Any] = {
    "environment": {"cpu": "a", "usable_cores": 2, "packages": {"numpy": "2"}},
    "quick": False,
    "networks": {TODAYS[0]: {"params": 1, "flops": 1}, TODAYS[1]: {"failure": "not built"}},
    "parts": [
        {
            "engine": "onednn",
            "threads": 1,
            "report": {
                "command": "pplcnet",
                "created": "2021",
                "machine": {"cpu": "a", "usable_cores": 2, "flags": ["avx2"], "platform": "b"},
                "versions": {"numpy": "2", "openvino": None},
                "results": [
                    {
                        "label": TODAYS[0],
                        "failure": None,
                        "warnings": ["noise"],
                        "ms": {"median": 1.0, "spread": 0.1},
                        "ratio_to_first": {"ratio": 1.0, "low": 0.9, "high": 1.1},
                    },
                    {"label": TODAYS[1], "failure": "it crashed", "warnings": [], "ms": None},
                ],
            },
        },
        {"engine": "openvino", "threads": 1, "failure": "no such engine"},
    ],
}


@given(inputs.json_texts(TODAY))
def todays(content: bytes) -> None:
    with only_user_errors():
        document = read_today(written(f"today/{RAW_TODAY}", content).parent)
        table_of(document).encode()
        for part in document["parts"]:
            assert all(ms > 0 for ms in latencies_of(part).values())


NETWORK = {
    "built": {"params": 10, "flops": 10, "activations": {"layers": 3.0}},
    "made_from": {"config": "a: 1"},
    "formats": ["json"],
}


@given(inputs.json_texts(NETWORK))
def network_note(content: bytes) -> None:
    """A damaged note counts as none."""
    found = built_before(written(f"network/{NETWORK_NOTE}", content), {"config": "a: 1"}, ["json"])
    assert found is None or (found.params > 0 and found.flops > 0)


@given(inputs.json_texts({"images": 10, "top1": 0.5}))
def evaluated(content: bytes) -> None:
    with only_user_errors():
        found = read_metrics(written("eval/metrics.json", content))
        assert found is not None
        assert found["images"] > 0


MADE = {"label": "a", "engine": "onednn", "threads": 1, "batch": 1, "size": None, "streams": 1, "failure": None}
MADE |= {"ms": {"median": 1.0}, "ratio_to_first": {"ratio": 1.0, "low": 0.9, "high": 1.1}}
REPORT = {"machine": {"cpu": "a"}, "versions": {}, "settings": {"rounds": 3}, "results": [MADE, {**MADE, "label": "b"}]}


@given(inputs.json_texts(REPORT))
def benchmark_report(content: bytes) -> None:
    with only_user_errors():
        compare_reports(read_report(written("report.json", content)), REPORT)


RUNS = {"command": "pplcnet", "created": "2021", "warnings": []}
PAPER: dict[str, Any] = {
    "created": "2021",
    "environment": {"command": "a", "pplcnet": "1", "python": "3", "packages": {}, "cpu": "a", "platform": "b"},
    "tables": [8],
    "engines": ["onednn"],
    "threads": 1,
    "quick": False,
    "runs": [
        {"name": "a", "distilled": False, "arch": {}, "input": [1], "classes": 2, "images": None, "metrics": None}
    ],
    "networks": {"a": {"params": 1, "flops": 1}, "b": {"failure": "not built"}},
}
ROWS = [{**MADE, "label": label, "warnings": ["noise"]} for label in ("a", "b")]
PAPER["benchmarks"] = [
    {"table": 8, "variant": "224x224", "engine": "onednn", "report": {**REPORT, **RUNS, "results": ROWS}},
    {"table": 8, "variant": "224x224", "engine": "native", "failure": "no such engine"},
]
PAPER["second"] = second_run(PAPER, PAPER)


@given(inputs.json_texts(PAPER))
def reproduced(content: bytes) -> None:
    with only_user_errors():
        document = read_raw(written(f"paper/{RAW}", content).parent)
        repeat_lines({**PAPER, "second": second_run(PAPER, document)}, 1)
        view_of(document)


LOG = [
    {"event": "train", "epoch": 1, "step": 1},
    {"event": "eval", "epoch": 1, "step": 1, "top1": 0.5},
    {"event": "resume", "epoch": 1, "step": 1},
]
WHOLE_LOG = "\n".join(map(json.dumps, LOG)).encode()


@given(st.one_of(st.lists(inputs.json_texts(LOG[0]), max_size=4).map(b"\n".join), inputs.damaged(WHOLE_LOG)))
def run_log(content: bytes) -> None:
    with only_user_errors():
        read_log(written("log.jsonl", content))


@given(inputs.json_texts({"pid": 1, "host": "a", "start": "2021"}))
def lock_note(content: bytes) -> None:
    with open(written("run.lock", content), "rb") as file:
        one_line(locks._holder(file)).encode()


STORED = (
    *(pickled_weights, safetensors_weights, training_state, teacher_cache, engine_memory, resume_note, calibration),
    *(benchmark_report, reproduced, run_log, lock_note, candidates, todays, network_note, evaluated),
)
