"""The calibrations under results/: their figures follow from their measurements, by the code as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.models.network_spec import NetworkSpec
from ppcls_ext.search.calibrate import PROBE_WEIGHT, check_accuracy, fitted
from ppcls_ext.search.calibrations import up_to_date
from ppcls_ext.search.latency import accuracy, fit
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
    probed = list(found.latencies("probe").items())
    whole = [*found.latencies("network").items(), *found.latencies("unseen").items()]
    order = np.random.default_rng(0).permutation(len(whole))
    predicted, measured = list[float](), list[float]()
    for part in np.array_split(order, 10):
        left_out = set(part.tolist())
        others = [one for number, one in enumerate(whole) if number not in left_out]
        model = fit(found.target, *_columns([(probed, PROBE_WEIGHT), (others, 1.0)]))
        for number in part:
            spec, ms = whole[number]
            predicted.append(model.predict(spec))
            measured.append(ms)
    judged = accuracy(predicted, measured)
    assert judged.median < 0.05
    assert judged.close > 0.9


def _columns(
    parts: Sequence[tuple[list[tuple[NetworkSpec, float]], float]],
) -> tuple[list[NetworkSpec], list[float], list[float]]:
    rows = [(spec, ms, weight) for latencies, weight in parts for spec, ms in latencies]
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


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
