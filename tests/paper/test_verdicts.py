"""One status for every value, by stated bounds."""

from __future__ import annotations

import dataclasses

import pytest

from ppcls_ext.paper.tables import Metric, table
from ppcls_ext.paper.verdicts import (
    NOT_GIVEN,
    Cell,
    Latency,
    accuracy_cell,
    clearly_faster,
    count_cell,
    latency_cell,
    order_of,
    papers_conditions,
    ratio_cell,
)

HALF = next(row for row in table(3).rows if row.arch == "PPLCNet_x0_5")
ONE = table(3).reference_row
UNKNOWN = next(row for row in table(3).rows if row.latency_ms is None)


@pytest.mark.parametrize(
    ("field", "exact", "status"),
    [
        ("params_m", 1_879_576, "matches"),
        ("params_m", 1_949_999, "matches"),
        ("params_m", 1_950_001, "differs"),
        ("params_m", 1_849_999, "differs"),
        ("flops_m", 47_252_352, "matches"),
        ("flops_m", 46_499_999, "differs"),
    ],
)
def test_counts_match_if_they_round_to_the_published_digits(field: str, exact: int, status: str) -> None:
    assert count_cell(table(3), HALF, field, exact).status == status


def test_a_known_difference_has_its_reason() -> None:
    (row,) = (row for row in table(3).rows if row.arch == "MobileNetV1")
    cell = count_cell(table(3), row, "params_m", 4_231_976)
    assert cell.status == "differs"
    assert cell.reason.startswith("counting rule")
    assert cell.verdict == "differs"


def test_what_the_paper_does_not_give_is_not_compared() -> None:
    row = table(4).rows[0]
    cells = [
        count_cell(table(4), row, "params_m", 489_395),
        accuracy_cell(None, 0.5, Metric("top1", 0.3)),
        latency_cell(UNKNOWN, Latency(10.0), True),
        ratio_cell(UNKNOWN, ONE, Latency(10.0, 2.0, 1.9, 2.1)),
    ]
    for cell in cells:
        assert (cell.paper, cell.status, cell.reason) == (NOT_GIVEN, "not compared", "the paper gives no value")
    assert [cell.here for cell in cells] == ["489,395", "50.00 %", "10.00 ms", "2.00 (1.90 to 2.10)"]


def test_accuracies_match_within_the_bound_of_the_metric() -> None:
    metric = Metric("top1", 0.3)
    assert accuracy_cell(63.14, 0.6285, metric) == Cell("63.14 %", "62.85 %", "matches")
    assert accuracy_cell(63.14, 0.6283, metric).status == "differs"
    assert accuracy_cell(63.14, 0.6345, metric).status == "differs"


def test_milliseconds_are_compared_under_the_papers_conditions_only() -> None:
    assert papers_conditions("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz", 10, "onednn")
    assert not papers_conditions("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz", 1, "onednn")
    assert not papers_conditions("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz", 10, "openvino")
    assert not papers_conditions("AMD EPYC", 10, "onednn")
    assert latency_cell(HALF, Latency(2.2), True) == Cell("2.05 ms", "2.20 ms", "matches")
    assert latency_cell(HALF, Latency(2.3), True).status == "differs"
    assert latency_cell(HALF, Latency(2.05), False).status == "not compared"


def test_ratios_match_within_a_tenth_of_the_papers() -> None:
    paper = 2.05 / 2.46
    for factor, status in (
        (1.0, "matches"),
        (1.09, "matches"),
        (1.11, "differs"),
        (0.91, "matches"),
        (0.89, "differs"),
    ):
        ratio = factor * paper
        assert ratio_cell(HALF, ONE, Latency(5.0, ratio, ratio, ratio)).status == status
    assert ratio_cell(ONE, ONE, Latency(5.0, 1.0, 1.0, 1.0)).status == "not compared"
    (distilled,) = (row for row in table(2).rows if row.arch == ONE.arch and row.distilled)
    assert ratio_cell(distilled, table(2).reference_row, Latency(5.0, 1.0, 1.0, 1.0)).status == "not compared"
    assert ratio_cell(HALF, ONE, Latency(5.0)).verdict == "not run: the reference row has no latency"
    assert ratio_cell(HALF, ONE, "crashed") == Cell("0.83", "–", "not run", "crashed")
    elsewhere = dataclasses.replace(ONE, latency_ms=None)
    assert ratio_cell(HALF, elsewhere, Latency(5.0, 1.0, 1.0, 1.0)).paper == NOT_GIVEN


def test_orders() -> None:
    order = order_of([("a", 1.0, Latency(10.0)), ("b", 2.0, Latency(30.0)), ("c", 3.0, Latency(20.0))])
    assert (order.rows, order.pairs, order.same, order.tied) == (3, 3, 2, 0)
    assert order.tau == pytest.approx(1 / 3)
    (pair,) = order.reversed
    assert (pair.faster, pair.slower, pair.paper, pair.here) == ("b", "c", (2.0, 3.0), (30.0, 20.0))
    assert pair.strength == pytest.approx(1.5 * 1.5)


def test_pairs_that_are_close_are_tied() -> None:
    close_in_the_paper = order_of([("a", 2.05, Latency(1.0)), ("b", 2.07, Latency(0.5))])
    assert (close_in_the_paper.pairs, close_in_the_paper.tau) == (0, None)
    close_here = order_of([("a", 2.05, Latency(1.01)), ("b", 3.0, Latency(1.0))])
    assert (close_here.pairs, close_here.same, close_here.tied, close_here.reversed) == (1, 0, 1, ())


def test_one_is_faster_only_if_the_intervals_do_not_meet() -> None:
    a, b, c = Latency(8.0, 0.8, 0.7, 0.9), Latency(9.5, 0.95, 0.85, 1.0), Latency(12.0, 1.2, 1.1, 1.3)
    assert clearly_faster(a, c)
    assert clearly_faster(b, c)
    assert not clearly_faster(c, a)
    assert not clearly_faster(a, b)
    order = order_of([("c", 1.0, c), ("b", 2.0, b), ("a", 3.0, a)])
    assert (order.pairs, order.same, order.tied) == (3, 0, 1)
    assert [(p.faster, p.slower) for p in order.reversed] == [("c", "a"), ("c", "b")]


def test_an_order_needs_two_different_latencies() -> None:
    one, two = Latency(1.0), Latency(2.0)
    for rows in ([], [("a", 1.0, one)], [("a", 1.0, one), ("b", 1.0, two)]):
        order = order_of(rows)
        assert (order.rows, order.pairs, order.tau) == (len(rows), 0, None)
