"""`pplcnet reproduce`: what is built and measured, what is kept, and what becomes of failures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.bench.session import Subject
from ppcls_ext.bench.settings import Settings
from ppcls_ext.cli.main import main
from ppcls_ext.core.config import load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.deploy.untrained import MADE, Built, build, built_before
from ppcls_ext.models.spec import SPECS, scale_name
from ppcls_ext.paper import reproduce as reproducing
from ppcls_ext.paper.documents import RAW, identity_of, read_metrics, read_raw, read_run
from ppcls_ext.paper.networks import network_of_row
from ppcls_ext.paper.reproduce import (
    QUICK,
    ReproductionPlan,
    add_second_run,
    begun_document,
    networks_of,
    render,
    reproduce,
)
from ppcls_ext.paper.tables import NUMBERS, Row, Variant, procedure, table
from ppcls_ext.runtime.engines.base import FORMATS
from ppcls_ext.tasks.finding import make_task
from tests.helpers.processes import ROOT

Fails = Callable[..., str]

PLACES = [(number, variant) for number in NUMBERS for variant in procedure(number).variants]
(TABLE_8_SIZE,) = procedure(8).variants
TABLE_8 = [network.name for network in networks_of(8, TABLE_8_SIZE)]


class FakeBenchmark:
    """Gives every subject a latency, and remembers what it was asked. One engine may fail."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[tuple[list[Subject], Settings]] = []
        self.failing = failing

    def __call__(self, subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
        self.calls.append((list(subjects), settings))
        if subjects[0].engine == self.failing:
            raise RuntimeError("no such luck\nsecond line")
        results = [
            {
                "label": subject.name,
                "model": str(subject.model),
                "failure": None,
                "warnings": [],
                "ms": {"median": 1.0 + place},
                "ratio_to_first": {"ratio": 1.0 + place, "low": 1.0, "high": 2.0},
            }
            for place, subject in enumerate(subjects)
        ]
        return {
            "command": "pplcnet reproduce",
            "created": "2021-09-01",
            "results": results,
            "warnings": [],
            "machine": {"cpu": "a CPU"},
            "versions": {},
            "settings": settings.model_dump(mode="json"),
        }


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks of Table 8, built. Read only."""
    folder = tmp_path_factory.mktemp("networks")
    for network in networks_of(8, TABLE_8_SIZE):
        build(network, folder, ["json"])
    return folder


def plan_of(out: Path, work: Path, **changes: Any) -> ReproductionPlan:
    values: dict[str, Any] = {"tables": (8,), "engines": ("onednn",), "threads": 1, "out": out, "work": work}
    return ReproductionPlan(**values | changes)


@pytest.mark.parametrize(("number", "variant"), PLACES, ids=[f"{n}-{v.name}" for n, v in PLACES])
def test_the_network_of_a_row_is_the_one_it_names_and_needs_no_data(number: int, variant: Variant) -> None:
    for row in table(number).rows:
        task = make_task(network_of_row(row, procedure(number), variant).load())
        height, width = map(int, variant.name.split("x"))
        arch = task.config["Arch"]
        if row.arch:
            assert arch["name"] == row.arch
            assert task.global_section.image_shape == (3, height, width)
        else:
            assert arch["backbone"]["scale"] == row.scale
            assert (row.backbone or "").startswith(arch["backbone"]["name"])
        assert len(task.labels()) == procedure(number).classes


@pytest.mark.parametrize(("number", "variant"), [p for p in PLACES if p[0] in (2, 4, 5)])
def test_networks_have_the_input_of_their_variant(number: int, variant: Variant) -> None:
    task = make_task(networks_of(number, variant)[0].load())
    (entry,) = task.deployment(task.build_model()).inputs
    assert entry.shape == (1, 3, *map(int, variant.name.split("x")))


def test_rows_of_one_network_share_it_and_the_reference_comes_first() -> None:
    for number, variant in PLACES:
        networks = networks_of(number, variant)
        assert networks[0] == network_of_row(table(number).reference_row, procedure(number), variant)
        assert len({n.name for n in networks}) == len(networks)
    assert len(networks_of(2, procedure(2).variants[0])) == len(table(2).rows) - 3  # the distilled ones


def test_an_ablation_more_is_a_row_more() -> None:
    row = Row(label="mine", source="", conditions="", arch="PPLCNet_x0_5_no_se")
    network = network_of_row(row, procedure(9), procedure(9).variants[0])
    assert identity_of(network.load())["arch"] == asdict(SPECS["PPLCNet_x0_5_no_se"]) | {"strides": [2, 2, 2, 2, 2]}


@pytest.mark.slow
def test_parts_are_measured_one_after_the_other(work: Path, tmp_path: Path) -> None:
    fake = FakeBenchmark()
    document = reproduce(plan_of(tmp_path, work, engines=("onednn", "native"), threads=3), fake)
    assert [[s.name for s in subjects] for subjects, _ in fake.calls] == [TABLE_8, TABLE_8]
    assert [{(s.engine, s.threads, s.batch) for s in subjects} for subjects, _ in fake.calls] == [
        {("onednn", 3, 1)},
        {("native", 3, 1)},
    ]
    for subjects, settings in fake.calls:
        asked = (settings.rounds, settings.seconds, settings.warmup)
        assert asked == (TABLE_8_SIZE.rounds, TABLE_8_SIZE.seconds, TABLE_8_SIZE.warmup)
        assert all((s.model / FORMATS["json"][0]).is_file() for s in subjects)
    text = (tmp_path / RAW).read_text()
    assert json.loads(text) == document
    assert str(work) not in text
    assert document["networks"][TABLE_8[0]]["params"] == 1_879_576
    for name in ("reproduce.html", "reproduce.md"):
        assert "5x5 1111111000000" in (tmp_path / name).read_text()


@pytest.mark.slow
def test_networks_are_built_once(work: Path, tmp_path: Path) -> None:
    (network, *_) = networks_of(8, TABLE_8_SIZE)
    made = work / network.name / MADE
    before = made.stat().st_mtime_ns
    assert asdict(build(network, work, ["json"])) == json.loads(made.read_text())["built"]
    assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", "[" * 9000, '{"built": {"params": 1}}', '"\\ud800"', "flops", "formats"]
)
def test_a_damaged_note_about_a_network_counts_as_none(tmp_path: Path, damage: str) -> None:
    file, identity = tmp_path / MADE, {"config": "a: 1"}
    content: dict[str, Any] = {"built": {"params": 1, "flops": 2, "activations": {}}, "made_from": identity}
    content["formats"] = ["json"]
    file.write_text(json.dumps(content))
    assert built_before(file, identity, ["json"]) == Built(1, 2, {})
    content["built"]["flops"] = "2"
    file.write_text(
        {"flops": json.dumps(content), "formats": json.dumps({**content, "formats": [[]]})}.get(damage, damage)
    )
    assert built_before(file, identity, ["json"]) is None


@pytest.mark.slow
def test_a_network_that_cannot_be_built_is_a_row_with_its_reason(work: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    reference, broken, other = TABLE_8
    for name in (reference, other):
        (tmp_path / "work" / name).symlink_to(work / name)
    (tmp_path / "work" / broken).write_text("in the way")
    fake = FakeBenchmark()
    document = reproduce(plan_of(tmp_path / "out", tmp_path / "work"), fake)
    assert document["networks"][broken]["failure"].startswith("not built, ")
    ((subjects, _),) = fake.calls
    assert [s.name for s in subjects] == [reference, other]
    assert "not run: not built, " in (tmp_path / "out" / "reproduce.md").read_text()


@pytest.mark.slow
def test_a_benchmark_that_fails_does_not_stop_the_others(work: Path, tmp_path: Path) -> None:
    document = reproduce(plan_of(tmp_path, work, engines=("native", "onednn")), FakeBenchmark("native"))
    failed, fine = document["benchmarks"]
    assert failed["failure"] == "RuntimeError: no such luck"
    assert len(fine["report"]["results"]) == len(TABLE_8)
    assert "not run: RuntimeError: no such luck" in (tmp_path / "reproduce.md").read_text()


@pytest.mark.slow
def test_resume_repeats_only_what_is_not_there(work: Path, tmp_path: Path) -> None:
    both = ("native", "onednn")
    first = reproduce(plan_of(tmp_path, work, engines=both), FakeBenchmark("native"))

    again = FakeBenchmark()
    second = reproduce(plan_of(tmp_path, work, engines=both, resume=True), again)
    assert [subjects[0].engine for subjects, _ in again.calls] == ["native"]
    assert first["benchmarks"][1] in second["benchmarks"]

    nothing, everything, other = FakeBenchmark(), FakeBenchmark(), FakeBenchmark()
    assert reproduce(plan_of(tmp_path, work, engines=both, resume=True), nothing)["benchmarks"] == second["benchmarks"]
    reproduce(plan_of(tmp_path, work, engines=both, resume=True, quick=True), other)
    reproduce(plan_of(tmp_path, work, engines=both), everything)
    assert [len(fake.calls) for fake in (nothing, other, everything)] == [0, 2, 2]
    assert other.calls[0][1] == Settings(**QUICK)

    (tmp_path / "reproduce.md").unlink()
    render(tmp_path)
    assert "5x5 1111111000000" in (tmp_path / "reproduce.md").read_text()

    (tmp_path / RAW).write_text("[]")
    with pytest.raises(UserError, match="not a file that reproduce wrote"):
        render(tmp_path)
    with pytest.raises(UserError, match="not a file that reproduce wrote"):
        reproduce(plan_of(tmp_path, work, resume=True), nothing)


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is asked nothing, since asking starts a process."""
    here: dict[str, Any] = {
        "cpu": "a CPU",
        "usable_cores": 2,
        "packages": {},
        "pplcnet": "1",
        "python": "3",
        "platform": "a system",
    }
    here["command"] = "pplcnet reproduce"
    monkeypatch.setattr(reproducing, "environment", lambda: here)


def document_of(engine: str = "onednn", ratio: float = 2.0, **changes: Any) -> dict[str, Any]:
    """What `reproduce` leaves of Table 8, without measuring."""
    plan = plan_of(Path("nowhere"), Path("nowhere"), engines=(engine,))
    subjects = [Subject(Path(name), engine, name) for name in TABLE_8]
    report = FakeBenchmark()(subjects, plan.settings(TABLE_8_SIZE))
    for row in report["results"]:
        row["ratio_to_first"] = {"ratio": ratio, "low": ratio, "high": ratio}
    document = begun_document(plan)
    record = {"table": 8, "variant": TABLE_8_SIZE.name, "engine": engine, "report": report}
    return document | {"benchmarks": [record]} | changes


def written(folder: Path, document: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / RAW).write_text(json.dumps(document))
    return folder


@pytest.mark.usefixtures("_here")
def test_a_resumed_run_keeps_what_it_would_make_again_and_what_is_not_of_its_parts(tmp_path: Path) -> None:
    document = document_of()
    plan = plan_of(written(tmp_path, document), tmp_path, resume=True)
    assert begun_document(plan)["benchmarks"] == document["benchmarks"]
    others = plan_of(tmp_path, tmp_path, resume=True, tables=(7,), engines=("native",), processes=1)
    begun = begun_document(others)
    assert (begun["tables"], begun["engines"]) == ([7, 8], ["onednn", "native"])
    assert begun["benchmarks"] == document["benchmarks"]
    assert begun_document(plan_of(tmp_path, tmp_path, resume=True, processes=1))["benchmarks"] == []
    document["benchmarks"][0]["report"]["results"].pop()  # a row came to the table since
    written(tmp_path, document)
    assert begun_document(plan)["benchmarks"] == []


@pytest.mark.usefixtures("_here")
def test_a_run_is_not_resumed_under_other_conditions(tmp_path: Path) -> None:
    document = document_of()
    for changes, clue in (({"cpu": "another"}, "cpu"), ({"usable_cores": 4096}, "usable_cores")):
        written(tmp_path, document | {"environment": document["environment"] | changes})
        with pytest.raises(UserError, match=f"other conditions \\({clue}\\); give another --out"):
            begun_document(plan_of(tmp_path, tmp_path, resume=True))
    written(tmp_path, document)
    with pytest.raises(UserError, match=r"other conditions \(threads\)"):
        begun_document(plan_of(tmp_path, tmp_path, resume=True, threads=2))


@pytest.mark.slow
def test_what_would_end_too_late_is_left_for_the_next_command(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table 8 takes about 69 seconds on an engine, here twice as long. Slow: three networks are built."""
    now = [0.0]
    monkeypatch.setattr(reproducing.time, "monotonic", lambda: now[0])
    fake = FakeBenchmark()

    def slow(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
        now[0] += 138
        return fake(subjects, settings)

    def measured(**changes: Any) -> int:
        before = len(fake.calls)
        reproduce(plan_of(tmp_path, work, engines=("native", "onednn"), resume=True, **changes), slow)
        return len(fake.calls) - before

    assert measured(minutes=0) == 0
    assert measured(minutes=4) == 1  # the second would now be expected to take 138 seconds
    assert "1 benchmarks are left, which the same command with --resume measures" in capsys.readouterr().err
    assert measured(minutes=4) == 1
    assert "are left" not in capsys.readouterr().err


@pytest.mark.usefixtures("_here")
def test_two_do_not_write_one_report(tmp_path: Path) -> None:
    first = FolderLock(tmp_path, "report folder", "reproduce.lock")
    first.acquire()
    with pytest.raises(UserError, match=r"report folder .*: process \d+ on .* is still writing there"):
        reproduce(plan_of(tmp_path, tmp_path / "work"))
    first.release()


@pytest.mark.usefixtures("_here")
def test_a_second_run_is_compared_by_its_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = written(tmp_path / "first", document_of(ratio=2.0))
    add_second_run(first, written(tmp_path / "near", document_of(ratio=1.92)))
    assert "all 2 ratios agree within 5%" in capsys.readouterr().err
    add_second_run(first, written(tmp_path / "far", document_of(ratio=1.8)))
    assert "0 of 2 ratios agree within 5%, the others are up to 10.0% apart" in capsys.readouterr().err
    assert "2.000 and 1.800" in (first / "reproduce.md").read_text()
    assert len(begun_document(plan_of(first, tmp_path, resume=True))["second"]["ratios"]) == 2
    assert "second" not in begun_document(plan_of(first, tmp_path, resume=True, processes=1))  # made again
    with pytest.raises(UserError, match=r"it has no ratio that .* has, too"):
        add_second_run(first, written(tmp_path / "other", document_of("native")))


FOREIGN = {
    "no JSON": "{",
    "nothing": "",
    "a list": "[]",
    "a number": "NaN",
    "other keys": '{"results": []}',
    "deep": "[" * 100_000,
}
REPORT_OF_RUN = ("benchmarks", 0, "report")
FIRST_ROW = (*REPORT_OF_RUN, "results", 0)
DAMAGE: list[tuple[tuple[str | int, ...], Any]] = [
    (("environment",), {}),
    (("environment", "cpu"), None),
    (("benchmarks",), {}),
    (("benchmarks", 0), 3),
    (("benchmarks", 0, "table"), "8"),
    (REPORT_OF_RUN, None),
    ((*REPORT_OF_RUN, "created"), 2021),
    ((*REPORT_OF_RUN, "results"), {"a": 1}),
    ((*FIRST_ROW, "label"), ["a"]),
    ((*FIRST_ROW, "label"), "\ud800"),
    ((*FIRST_ROW, "ms"), None),
    ((*FIRST_ROW, "ratio_to_first"), {}),
    ((*FIRST_ROW, "ratio_to_first", "ratio"), math.nan),
    ((*FIRST_ROW, "ratio_to_first", "ratio"), 0),
    ((*FIRST_ROW, "ratio_to_first", "ratio"), -1.5),
    ((*FIRST_ROW, "ratio_to_first", "ratio"), "1"),
    ((*FIRST_ROW, "ms", "median"), True),
    (("engines",), []),
    (("tables",), [1]),
    (("networks",), {"a": {}}),
    (("runs",), [{"name": "a"}]),
    (("second",), {"measured": [], "cpu": "a", "ratios": [{}]}),
]


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("flag", ["--compare", "--out"])
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_report_is_refused_in_one_line(content: str, flag: str, tmp_path: Path, fails: Fails) -> None:
    folders = {name: written(tmp_path / name[2:], document_of()) for name in ("--out", "--compare")}
    (folders[flag] / RAW).write_text(content)
    message = fails("reproduce", "--out", folders["--out"], "--compare", folders["--compare"])
    assert str(folders[flag] / RAW) in message
    assert message.endswith(f"give another {flag}")


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(("where", "value"), DAMAGE, ids=[f"{where[-1]}-{value!r}" for where, value in DAMAGE])
def test_a_damaged_report_is_refused_in_one_line(
    where: tuple[str | int, ...], value: Any, tmp_path: Path, fails: Fails
) -> None:
    document = json.loads(json.dumps(document_of()))
    part = document
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    first, second = written(tmp_path / "first", document_of()), written(tmp_path / "second", document)
    before = (first / RAW).read_bytes()
    assert "not a file that reproduce wrote" in fails("reproduce", "--out", first, "--compare", second)
    assert (first / RAW).read_bytes() == before
    assert "not a file that reproduce wrote" in fails("reproduce", "--render", "--out", second)


@pytest.mark.usefixtures("_here")
def test_a_file_is_no_folder_of_a_second_run(tmp_path: Path, fails: Fails) -> None:
    first = written(tmp_path / "first", document_of())
    assert "give another --compare" in fails("reproduce", "--out", first, "--compare", first / RAW)
    assert "give another --compare" in fails("reproduce", "--out", first, "--compare", tmp_path / "none")


def test_the_published_report_is_read() -> None:
    assert read_raw(ROOT / "results")["benchmarks"]


def test_render_needs_values(tmp_path: Path, fails: Fails) -> None:
    assert "reproduce.json: cannot be read" in fails("reproduce", "--render", "--out", tmp_path)


@pytest.mark.slow
def test_runs_are_read_from_their_folders(trained: Path, tmp_path: Path, fails: Fails) -> None:
    run = read_run(trained)
    assert (run["name"], run["input"], run["images"], run["classes"]) == ("easy", [48, 48], 15, 3)
    assert run["arch"] == {"name": "PPLCNet_x0_25", "dropout_prob": 0.1}
    assert not run["distilled"]
    assert 0 <= run["metrics"]["top1"] <= 1
    assert "no such folder" in fails("reproduce", "--runs", tmp_path / "nothing")
    (tmp_path / "config.yaml").write_text("Global: {}\n")
    assert "no run of pplcnet train" in fails("reproduce", "--runs", tmp_path)


def test_names_of_one_network_are_recognised() -> None:
    same = [identity_of(load_config("PPLCNet_x1_0", [f"Arch.name={name}"])) for name in (
        f"PPLCNet_{scale_name(0.5)}", "PPLCNet_x0_5_se_0000000000011", "PPLCNet_x0_5_k5_0000001111111",
    )]  # fmt: skip
    assert same[0] == same[1] == same[2]
    other = identity_of(load_config("PPLCNet_x0_5", ["Arch.dropout_prob=0"]))
    assert other != same[0]


@pytest.mark.parametrize(
    ("arguments", "clue"),
    [
        (["--tables", "1,2"], "tables of results are 2 to 9"),
        (["--engines", "onedn"], "did you mean 'onednn'?"),
    ],
)
def test_wrong_arguments(arguments: list[str], clue: str, tmp_path: Path, fails: Fails) -> None:
    assert clue in fails("reproduce", *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_end_to_end(work: Path, tmp_path: Path) -> None:
    """Slow: three networks are built, exported and measured."""
    folders = ["--out", str(tmp_path), "--work", str(work)]
    assert main(["reproduce", "--tables", "8", "--engines", "onednn", "--quick", *folders]) == 0
    document = json.loads((tmp_path / RAW).read_text())
    (record,) = document["benchmarks"]
    assert [row["failure"] for row in record["report"]["results"]] == [None] * 3
    page = (tmp_path / "reproduce.html").read_text()
    assert "quick run" in page
    assert page.count("not run: no run folder given") == len(table(8).rows)


@pytest.mark.slow
def test_a_file_in_place_of_a_folder_is_refused_before_anything_is_built(tmp_path: Path, fails: Fails) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert "--out" in fails("reproduce", "--tables", "8", "--out", file)
    assert "--work" in fails("reproduce", "--tables", "8", "--out", tmp_path / "out", "--work", file)


def test_metrics_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    assert read_metrics(file) is None
    other = "not a file that pplcnet eval wrote"
    for content, clue in (("{", "cannot be read"), ("[]", other), ('{"images": 0}', other), ('{"images": "1"}', other)):
        file.write_text(content)
        with pytest.raises(UserError, match=clue):
            read_metrics(file)
