"""What a request sets for its own results."""

from __future__ import annotations

from typing import Any

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.serve.limits import Refusal
from ppcls_ext.serve.options import KEPT, Options
from tests.serve.conftest import Grey


class Asked(Grey):
    """Notes the values that it is built with; takes none above 1."""

    def __init__(self, threshold: float = 0.5) -> None:
        if threshold > 1:
            raise UserError(f"threshold: expected a score between 0 and 1, got {threshold}")
        self.threshold = threshold


@pytest.fixture
def built() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def options(built: list[dict[str, Any]]) -> Options:
    def build(**values: Any) -> Asked:
        built.append(values)
        return Asked(**values)

    return Options({"threshold": 0.5}, build)


def test_without_values_the_model_s_own_inference_serves(options: Options, built: list[dict[str, Any]]) -> None:
    assert options.inference({}) is None
    assert built == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.25", 0.25), (".25", 0.25), ("1", 1), ("0", 0), ("1e-3", 0.001), ("0.30000000000000004", 0.3)],
)
def test_numbers_are_read(options: Options, text: str, value: float) -> None:
    inference = options.inference({"threshold": text})
    assert isinstance(inference, Asked)
    assert inference.threshold == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(
    "text", ["", "-1", "nan", "inf", "1e999", "0x1", "1_0", " 1", "one", "\u0661", "1" * 31, "1.", "True", "../x"]
)
def test_what_is_no_number_is_refused(options: Options, built: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(Refusal, match="threshold: expected a number") as caught:
        options.inference({"threshold": text})
    assert caught.value.status == 400
    assert built == []


def test_a_value_that_the_option_does_not_take_is_refused_each_time(options: Options) -> None:
    for _ in range(2):
        with pytest.raises(Refusal, match="expected a score between 0 and 1, got 7") as caught:
            options.inference({"threshold": "7"})
        assert caught.value.status == 400


def test_the_inferences_asked_for_last_are_kept(options: Options, built: list[dict[str, Any]]) -> None:
    """Clients cannot make the service hold one for each of their values."""
    first = options.inference({"threshold": "0.1"})
    assert options.inference({"threshold": "0.10"}) is first
    for k in range(KEPT):
        options.inference({"threshold": f"0.{20 + k}"})
    assert options.inference({"threshold": "0.1"}) is not first
    assert len(built) == KEPT + 2
    assert options.inference({"threshold": "1"}) is not options.inference({"threshold": "1.0"})  # as topk would have it
