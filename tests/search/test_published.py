"""The calibrations under results/: their figures follow from their measurements, by the code as it is."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.search.calibrate import PROBE_WEIGHT, check_accuracy, fit_parts, fitted
from ppcls_ext.search.calibrations import up_to_date
from ppcls_ext.search.latency import accuracy
from ppcls_ext.search.measurements import Calibration, read_calibration
from ppcls_ext.search.report import page_of

RESULTS = Path(__file__).parents[2] / "results"
FILES = sorted(RESULTS.glob("*-lcnet.json"))


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


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
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


@pytest.mark.parametrize(("engine", "close"), [("onednn", 24), ("openvino", 27)])
def test_networks_that_nothing_was_chosen_by_are_predicted_as_docs_search_says(engine: str, close: int) -> None:
    model = published(RESULTS / f"{engine}-1-lcnet.json")
    further = published(RESULTS / f"{engine}-1-lcnet-further.json")
    assert model.model is not None
    assert not {one.arch for one in further.measured} & {one.arch for one in model.measured}
    # Milliseconds by the calibration's anchor: the few groups here saw less of the machine.
    measured = [one.ratio * model.unit for one in further.measured if one.ratio is not None]
    judged = accuracy([model.model.predict(one.spec) for one in further.measured], measured)
    assert (judged.n, round(judged.n * judged.close)) == (27, close)
    assert judged.median < 0.05
