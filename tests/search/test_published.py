"""What results/ and docs/search.md say of searches: figures follow from measurements, by the code as it is."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.search.calibrate import PROBE_WEIGHT, check_accuracy, fit_parts, fitted
from ppcls_ext.search.calibrations import up_to_date
from ppcls_ext.search.latency import accuracy, shortfalls
from ppcls_ext.search.measurements import Calibration, read_calibration
from ppcls_ext.search.report import page_of

RESULTS = Path(__file__).parents[2] / "results"
FILES = sorted(RESULTS.glob("*-lcnet.json"))
ON_TWO_THREADS = sorted((RESULTS / "two_threads").glob("*-lcnet.json"))


def published(file: Path) -> Calibration:
    return read_calibration(file, "publish another")


def test_there_are_some() -> None:
    assert [file.stem for file in FILES] == ["onednn-1-lcnet", "openvino-1-lcnet"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_model_and_its_accuracy_follow_from_what_was_measured(file: Path) -> None:
    then = published(file)
    now = fitted(then)
    assert then.model is not None
    assert then.accuracy is not None
    assert now.model is not None
    assert now.accuracy is not None
    assert list(now.accuracy) == list(then.accuracy)
    for what, of_then in then.accuracy.items():
        assert asdict(now.accuracy[what]) == pytest.approx(asdict(of_then), rel=1e-3)
    for spec in then.latencies("unseen"):  # of prices of costs that go together, only the sum is certain
        assert now.model.predict(spec) == pytest.approx(then.model.predict(spec), rel=1e-3)
    check_accuracy(now, file)


def test_what_two_threads_miss_is_what_docs_search_says() -> None:
    judged = {}
    for file in ON_TWO_THREADS:
        accuracy_of = fitted(published(file)).accuracy
        assert accuracy_of is not None
        found = accuracy_of["model"]
        assert shortfalls(found)
        judged[published(file).target.engine] = (round(100 * found.median, 1), found.close, round(found.spearman, 3))
    assert judged == {"onednn": (5.1, 0.92, 0.994), "openvino": (5.5, 0.74, 0.993)}


@pytest.mark.parametrize("file", [*FILES, *ON_TWO_THREADS], ids=lambda file: file.stem)
def test_a_page_states_what_its_file_has(file: Path) -> None:
    assert page_of(published(file)) == file.with_suffix(".md").read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_network_is_predicted_by_the_others(file: Path) -> None:
    """The costs were chosen by these networks, of which all have their turn here."""
    found = published(file)
    probed, whole = found.latencies("probe"), found.latencies("network", "unseen")
    specs, predicted = list(whole), dict[NetworkSpec, float]()
    for part in np.array_split(np.random.default_rng(0).permutation(len(specs)), 10):
        left_out = {specs[number] for number in part}
        others = {spec: ms for spec, ms in whole.items() if spec not in left_out}
        model = fit_parts(found.target, [(probed, PROBE_WEIGHT), (others, 1.0)])
        predicted |= {spec: model.predict(spec) for spec in left_out}
    judged = accuracy([predicted[spec] for spec in specs], list(whole.values()))
    assert judged.median < 0.05
    assert judged.close > 0.9


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_calibration_that_was_fitted_to_other_costs_is_fitted_anew(file: Path) -> None:
    now = published(file)
    assert up_to_date(now) is now
    assert now.model is not None
    prices = {name: price for name, price in now.model.prices.items() if "uncached" not in name}
    then = replace(now, model=replace(now.model, prices=prices))
    again = up_to_date(then).model
    assert again is not None
    for spec in now.latencies("unseen"):
        assert again.unknown(spec) == []
        assert again.predict(spec) == pytest.approx(now.model.predict(spec), rel=1e-3)


@pytest.mark.parametrize(("engine", "close", "by_their_own"), [("onednn", 24, 22), ("openvino", 27, 27)])
def test_networks_that_nothing_was_chosen_by_are_predicted_as_docs_search_says(
    engine: str, close: int, by_their_own: int
) -> None:
    model = published(RESULTS / f"{engine}-1-lcnet.json")
    further = published(RESULTS / f"{engine}-1-lcnet-further.json")
    assert model.model is not None
    assert not {one.arch for one in further.measured} & {one.arch for one in model.measured}
    predicted = [model.model.predict(one.spec) for one in further.measured]
    # Milliseconds by the calibration's anchor, since the few groups here saw less of the machine, and by their own.
    for unit, expected in ((model.unit, close), (further.unit, by_their_own)):
        measured = [one.ratio * unit for one in further.measured if one.ratio is not None]
        judged = accuracy(predicted, measured)
        assert (judged.n, round(judged.n * judged.close)) == (27, expected)
        assert judged.median < 0.05


# Does it pay: the table of docs/search.md

DOCS = RESULTS.parent / "docs" / "search.md"
ENGINES = {"oneDNN": "onednn", "OpenVINO": "openvino"}
IMAGES = {"flowers": "found_", "clothing": "found_clothing_"}  # how the studies on each set are named


def rows_of_docs() -> dict[tuple[str, str, str], list[str]]:
    """Cells of the table by images, scale and network; a cell that is empty there is as the one above."""
    section = DOCS.read_text().partition("## Does it pay")[2].partition("###")[0]
    rows, above = {}, [""] * 9
    for line in re.findall(r"^\| (?!images|-).*$", section, re.MULTILINE):
        above = [cell.strip() or known for cell, known in zip(line.strip("|").split("|"), above, strict=True)]
        rows[above[0], above[1], above[2]] = above[3:]
    return rows


def rows_of_results(images: str, scale: str) -> dict[tuple[str, str, str], list[str]]:
    """The same from a study and from the reports of latencies beside it."""
    study = json.loads((RESULTS / f"study_{IMAGES[images]}{scale}.json").read_text())
    of_scale, *found = study["rows"]
    rows = {}
    for row in found:
        difference, low, high = row["same_images"]
        engine = next((engine for name, engine in ENGINES.items() if name in row["variant"]), "onednn")
        report = json.loads((RESULTS / "found_latency" / f"{images}-{scale}-{engine}.json").read_text())
        slug = re.sub("[^a-z0-9]+", "_", row["variant"].lower())
        (ratio,) = [one["ratio_to_first"] for one in report["results"] if one["label"].endswith(f"/{slug}")]
        assert report["results"][0]["label"].endswith(f"/pplcnet_{scale}")
        rows[images, f"PPLCNet_{scale}", row["variant"]] = [
            str(len(row["values"])),
            f"{of_scale['mean']:.1f}",
            f"{row['mean']:.1f}",
            f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]",
            f"{row['p']:.2g}",
            f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]",
        ]
    return rows


def test_docs_say_what_studies_of_found_networks_and_their_latencies_gave() -> None:
    """No row is left out, neither of a study nor of the table."""
    published = {}
    for report in sorted((RESULTS / "found_latency").glob("*-onednn.json")):
        images, scale, _ = report.stem.split("-")
        published |= rows_of_results(images, scale)
    assert rows_of_docs() == published


@pytest.mark.parametrize(("kind", "number"), [("fastest as good", 8), ("found", 12)])
def test_the_summary_of_that_table_is_right(kind: str, number: int) -> None:
    rows = [cells for (_, _, network), cells in rows_of_docs().items() if network.startswith(kind)]
    ratios, points = [row[5].split()[0] for row in rows], [float(row[3].split()[0]) for row in rows]
    above = sum(float(row[3].split("[")[1].split(",")[0]) > 0 for row in rows)
    small = sum(float(row[4]) < 0.05 for row in rows)
    text = " ".join(DOCS.read_text().split())
    assert len(rows) == number
    assert f"take {min(ratios)} to {max(ratios)} times the scale's time" in text
    assert f"{min(points):.1f} to {max(points):.1f} points" in text
    words = dict(enumerate(("none", "one", "two", "three", "four", "five", "six", "seven")))
    assert f"lies above 0 for {words[above]} of" in text or f"for {words[above]} the interval lies above 0" in text
    assert f"for {words[small]} p is below 0.05" in text or f"p is below 0.05 for {words[small]}" in text
