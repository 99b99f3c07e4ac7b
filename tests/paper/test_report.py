"""The report says of every cell what it is, and its summary is computed from the same values."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.paper.networks import network_of_row
from ppcls_ext.paper.report.cells import ComparedTable, compared_table
from ppcls_ext.paper.report.figure import figure_points, fronts
from ppcls_ext.paper.report.page import view_of, write_reports
from ppcls_ext.paper.tables import NUMBERS, procedure, table, tables
from ppcls_ext.paper.verdicts import STATUSES

ENGINES = ("onednn", "openvino")
SLOWER = 3.0  # times as slow as the paper's machine


def measured(number: int, name: str, latency: float, reference: float) -> dict[str, Any]:
    ratio = latency / reference
    return {
        "label": name,
        "failure": None,
        "warnings": [],
        "ms": {"median": latency},
        "ratio_to_first": {"ratio": ratio, "low": 0.99 * ratio, "high": 1.01 * ratio},
    }


def document_of(numbers: tuple[int, ...] = tuple(NUMBERS), engines: tuple[str, ...] = ENGINES) -> dict[str, Any]:
    """The raw values of a machine that is the paper's, only slower: every ratio and order is the paper's."""
    networks: dict[str, Any] = {}
    benchmarks = []
    for number in numbers:
        way, reference = procedure(number), table(number).reference_row
        for variant in way.variants:
            rows = {network_of_row(row, way, variant).name: row for row in [reference, *table(number).rows]}
            for name, row in rows.items():
                counted = {
                    "arch": {"name": name.rsplit("-", 1)[0]},
                    "input": [224, 224],
                    "params": round(1e6 * (row.params_m or 1)),
                    "flops": round(1e6 * (row.flops_m or 1)),
                }
                networks.setdefault(name, counted)  # the first table with a network gives its counts
            latencies = {name: SLOWER * (row.latency_ms or 4.0) for name, row in rows.items()}
            for engine in engines:
                first = SLOWER * (reference.latency_ms or 0)
                results = [measured(number, name, ms, first) for name, ms in latencies.items()]
                machine = {"cpu": "Slow CPU", "flags": ["avx2"], "governor": None}
                report = {
                    "command": f"pplcnet reproduce --tables {number}",
                    "created": f"2021-09-0{number}",
                    "results": results,
                    "warnings": [],
                    "machine": machine,
                    "versions": {"engines": "2.1"},
                }
                benchmarks.append({"table": number, "variant": variant.name, "engine": engine, "report": report})
    return {
        "created": "2021-09-01T00:00:00+00:00",
        "environment": {
            "command": "pplcnet reproduce",
            "pplcnet": "1",
            "python": "3",
            "packages": {},
            "cpu": "Slow CPU",
            "platform": "some system",
        },
        "tables": list(numbers),
        "engines": list(engines),
        "threads": 1,
        "quick": False,
        "runs": [],
        "networks": networks,
        "benchmarks": benchmarks,
    }


def result(document: dict[str, Any], number: int, engine: str, name: str) -> dict[str, Any]:
    (found,) = (
        row
        for b in document["benchmarks"]
        if (b["table"], b["engine"]) == (number, engine)
        for row in b["report"]["results"]
        if row["label"] == name
    )
    row: dict[str, Any] = found
    return row


def cell(part: ComparedTable, label: str, kind: str) -> Any:
    (found,) = (
        c
        for row, cells in part.rows
        if row == label
        for column, c in zip(part.columns, cells, strict=True)
        if kind in (column.title, column.kind)
    )
    return found


class Cells(HTMLParser):
    """Texts of the table cells of a page, and what it loads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.loads: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("td", "tr", "th"):
            self._inside = tag == "td"
        if tag == "td":
            self.cells.append("")
        if tag in ("script", "link", "img", "iframe"):
            self.loads.append(tag)

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data


def ruined(document: dict[str, Any]) -> dict[str, Any]:
    """The same after a bad day: a network that was not built, one that failed, a benchmark that never ran."""
    document = copy.deepcopy(document)
    for name in ("MobileNetV1-224x224", "PPLCNet_x1_0-224x224"):
        document["networks"][name] = {"failure": "not built, ValueError: no"}
    result(document, 3, "onednn", "ShuffleNetV2_x0_5-224x224")["failure"] = "crashed with SIGSEGV"
    document["benchmarks"] = [b for b in document["benchmarks"] if b["table"] != 5]
    document["benchmarks"][-1] |= {"failure": "RuntimeError: no memory"}
    del document["benchmarks"][-1]["report"]
    return document


@pytest.mark.slow
@pytest.mark.parametrize("bad", [False, True])
def test_no_cell_is_blank_in_any_table(bad: bool, tmp_path: Path) -> None:
    document = ruined(document_of()) if bad else document_of()
    view = view_of(json.loads(json.dumps(document)))
    assert [part.table.number for part in view.parts] == list(NUMBERS)
    count = 0
    for part in view.parts:
        assert [label for label, _ in part.rows] == [row.label for row in part.table.rows]
        for _, cells in part.rows:
            assert len(cells) == len(part.columns)
            count += len(cells)
            for c in cells:
                assert c.status in STATUSES
                assert c.paper
                assert c.here
                assert c.reason or c.status in ("matches", "differs")
    assert sum(sum(by_status.values()) for _, by_status in view.counts) == count
    write_reports(tmp_path, document)
    page = Cells((tmp_path / "reproduce.html").read_text())
    assert not page.loads
    assert all(text.strip() for text in page.cells)
    written = sum(bool(re.search("|".join(STATUSES), text)) for text in page.cells)
    assert written >= count
    for line in (tmp_path / "reproduce.md").read_text().splitlines():
        if line.startswith("| ") and "**" in line:
            assert all(text.strip() for text in line.strip("|").split("|")), line


def test_a_machine_like_the_papers_agrees_in_everything_that_is_compared() -> None:
    view = view_of(document_of())
    for kind, by_status in view.counts:
        compared = "accuracy" not in kind and "latency" not in kind
        assert (by_status["matches"] > 0) == compared, kind
        assert by_status["differs"] == 0, kind
    assert all(a.order.same == a.order.pairs and a.near == a.compared for a in view.agreements)
    assert not [line for line in view.differs if "Repeatability" not in line]
    assert any("as in the paper" in line for line in view.agrees)
    accuracies = sum(len(t.rows) * (2 if t.number in (2, 3) else 1) for t in tables())
    assert view.missing == [f"accuracy, no run folder given: {accuracies} values."]
    assert sum(a.compared for a in view.agreements if a.engine == "onednn") == sum(
        len({network_of_row(row, procedure(n), v).name for row in table(n).rows if row.latency_ms}) - 1
        for n in NUMBERS
        for v in procedure(n).variants
    )


def test_what_differs_is_in_the_summary() -> None:
    document = document_of((3,))
    slow, fast = "PPLCNet_x0_5-224x224", "ShuffleNetV2_x0_5-224x224"
    one, other = result(document, 3, "openvino", slow), result(document, 3, "openvino", fast)
    for key in ("ms", "ratio_to_first"):
        one[key], other[key] = other[key], one[key]
    view = view_of(document)
    assert ("versions", "pplcnet 1, python 3, engines 2.1") in view.machine
    assert ("command", "pplcnet reproduce --tables 3") in view.machine
    assert ("measured", "2021-09-03") in view.machine
    assert "governor" not in dict(view.machine)
    (part,) = view.parts
    assert cell(part, "PP-LCNet-0.5x", "ratio of latencies, onednn").status == "matches"
    assert cell(part, "PP-LCNet-0.5x", "ratio of latencies, openvino").status == "differs"
    text, agrees = "\n".join(view.differs), "\n".join(view.agrees)
    assert "Table 3 at 224x224 on openvino, order: 45 of 64 pairs" in text
    assert "ShuffleNetV2-0.5x 6.15 ms and PP-LCNet-0.5x 13.95 ms, in the paper 4.65 and 2.05 ms" in text
    assert "Table 3 at 224x224 on onednn, order: 64 of 64 pairs of rows are as in the paper, 0 tied." in agrees
    assert "gone from the paper's front: PP-LCNet-0.5x" in text
    claim = "of 12 pairs in which the paper has it faster than another network and at least as accurate"
    assert (
        f"on openvino, PP-LCNet against the others: {claim}, it is faster here in 6, tied in 1 and slower in 5" in text
    )
    assert "ShuffleNetV2-0.5x beats PP-LCNet-0.5x, 6.15 to 13.95 ms" in text
    assert f"on onednn, PP-LCNet against the others: {claim}, it is faster here in 11, tied in 1" in agrees
    assert (
        "ratio of latencies, openvino: 2 of 11 values differ (Table 3 ShuffleNetV2-0.5x; Table 3 PP-LCNet-0.5x)" in text
    )
    first = next(a for a in view.agreements if a.engine == "openvino")
    assert first.order.same < first.order.pairs
    assert (first.compared, first.near) == (11, 9)


def test_an_order_that_is_mostly_tied_does_not_agree() -> None:
    document = document_of((6,), engines=("onednn",))
    for found in document["benchmarks"][0]["report"]["results"]:
        found["ratio_to_first"] |= {"low": 0.5, "high": 2.0}
    view = view_of(document)
    assert any("Table 6 at 224x224 on onednn, order: 0 of 8 pairs" in line for line in view.differs)
    assert not any("order:" in line for line in view.agrees)


def test_sentences_under_a_table_are_whole(tmp_path: Path) -> None:
    write_reports(tmp_path, document_of())
    for t in tables():
        assert t.conditions in (tmp_path / "reproduce.md").read_text()
        assert t.conditions.endswith(".")


def test_failures_are_rows_with_their_reason_and_the_others_stay() -> None:
    view = view_of(ruined(document_of()))
    parts = {part.table.number: part for part in view.parts}
    shuffle = cell(parts[3], "ShuffleNetV2-0.5x", "latency, onednn")
    assert (shuffle.verdict, shuffle.paper) == ("not run: crashed with SIGSEGV", "4.65 ms")
    assert cell(parts[3], "MobileNetV1-1x", "parameters").verdict == "not run: not built, ValueError: no"
    assert cell(parts[3], "PP-LCNet-0.5x", "parameters").status == "matches"
    assert cell(parts[9], "BaseNet", "latency, openvino").verdict == "not run: RuntimeError: no memory"
    assert all("stopped before its turn" in c.verdict for c in parts[5].rows[0][1] if "ms" in c.paper)
    # Without the row that ratios are taken to there is no ratio, but a latency.
    assert cell(parts[2], "PP-LCNet-0.5x", "ratio of latencies, onednn").status == "matches"
    text = "\n".join(view.missing)
    assert "crashed with SIGSEGV: Table 3 ShuffleNetV2-0.5x." in text
    assert "latency, openvino, RuntimeError: no memory: 6 values." in text


def test_no_ratio_where_the_first_of_the_benchmark_is_another_row() -> None:
    document = document_of((6,))
    for b in document["benchmarks"]:
        b["report"]["results"] = b["report"]["results"][1:]
    document["networks"]["PPLCNet_x0_5-224x224"] = {"failure": "not built, ValueError: no"}
    part = compared_table(document, 6)
    assert cell(part, "no SE", "latency, onednn").here == "5.61 ms"
    assert cell(part, "no SE", "ratio of latencies, onednn").reason == "the reference row has no latency"


def run_of(**changes: Any) -> dict[str, Any]:
    name = "PPLCNet_x0_5"
    run = {
        "name": "half",
        "arch": {"name": name},
        "input": [224, 224],
        "distilled": False,
        "images": 50000,
        "classes": 1000,
        "metrics": {"top1": 0.6330, "top5": 0.8420},
    }
    return run | changes


def test_accuracy_comes_from_runs_under_the_papers_conditions() -> None:
    def top1(*runs: dict[str, Any], label: str = "PP-LCNet-0.5x") -> str:
        part = compared_table(document_of((2,)) | {"runs": list(runs)}, 2)
        verdict: str = cell(part, label, "top-1").verdict
        return verdict

    assert top1() == "not run: no run folder given"
    assert top1(run_of()) == "matches"
    assert top1(run_of(metrics={"top1": 0.6, "top5": 0.8})) == "differs"
    assert top1(run_of(), label="PP-LCNet-1x") == "not run: no run of this network given"
    assert top1(run_of(), label="PP-LCNet-0.5x (SSLD)") == "not run: no run of this network given"
    assert top1(run_of(distilled=True)) == "not run: no run of this network given"
    assert top1(run_of(images=15, classes=3)) == (
        "not run: run half is on other data (15 images of 3 classes), not ImageNet-1k validation"
    )
    assert top1(run_of(input=[160, 160])) == "not run: run half has inputs of 160 x 160"
    assert top1(run_of(metrics=None)) == "not run: run half was not evaluated"
    assert top1(run_of(images=15), run_of()) == "matches"


def test_a_resumed_report_has_all_its_commands() -> None:
    facts = dict(view_of(document_of((2, 3))).machine)
    assert facts["command"] == "pplcnet reproduce --tables 2; pplcnet reproduce --tables 3"
    assert facts["measured"] == "2021-09-02 to 2021-09-03"


def test_the_front_needs_two_networks_with_both_latencies() -> None:
    points = figure_points(document_of((2, 3)), "onednn")
    assert len({p.label for p in points}) == len(points) == 18
    found = fronts(points)
    assert found is not None
    assert found[0] == found[1]
    assert "PP-LCNet-0.25x" in found[0]
    assert fronts(points[:1]) is None


def test_warnings_of_a_benchmark_are_shown(tmp_path: Path) -> None:
    document = document_of((8,))
    report = document["benchmarks"][0]["report"]
    report["warnings"] = ["2 threads on 1 usable cores"]
    report["results"][1]["warnings"] = ["spread 40 % <of> the median"]
    write_reports(tmp_path, document)
    page = (tmp_path / "reproduce.html").read_text()
    assert "onednn, 224x224: 2 threads on 1 usable cores" in page
    assert "spread 40 % &lt;of&gt; the median" in page
    assert "spread 40 % <of> the median" in (tmp_path / "reproduce.md").read_text()
