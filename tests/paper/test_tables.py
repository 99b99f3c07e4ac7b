"""`ppcls_ext.paper.tables`: the paper's tables are complete, agree with each other and with what the code counts."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from ppcls_ext.models.factory import build_arch
from ppcls_ext.models.spec import (
    BASE_LAST_WIDTH,
    BASE_STEM_WIDTH,
    BLOCKS,
    LAST_SEVEN,
    LAST_TWO,
    SCALES,
    SPECS,
    scale_name,
)
from ppcls_ext.paper.tables import KnownDifference, Row, Table, architecture, table, tables

import paddle  # isort: skip  (after ppcls_ext, which silences its warnings)

from ppcls_ext.models.counting import Count, count  # isort: skip
from tests.helpers.families import mostly_slow

COLUMNS = ("params_m", "flops_m", "top1", "top5", "latency_ms")
CLASSIFICATION = (2, 3, 6, 7, 8, 9)
ROWS = [(t, row) for t in tables() for row in t.rows]
ALL_ROWS = pytest.mark.parametrize(("of", "row"), ROWS, ids=[f"{t.number}-{row.label}" for t, row in ROWS])


def test_every_table_is_there_with_all_its_rows() -> None:
    assert {t.number: len(t.rows) for t in tables()} == {2: 11, 3: 13, 4: 4, 5: 4, 6: 5, 7: 4, 8: 3, 9: 6}
    for number in (1, 10):
        with pytest.raises(KeyError, match="2 to 9"):
            table(number)


def test_every_table_says_its_source_and_conditions() -> None:
    for t in (architecture(), *tables()):
        assert t.source == f"arXiv 2109.15099, Table {t.number}"
        assert t.title
    for t, row in ROWS:
        assert (row.source, row.conditions) == (t.source, t.conditions)
        for words in ("Intel Xeon Gold 6148", "batch 1", "MKLDNN", "10 threads", "FP32", "Paddle Inference"):
            assert words in row.conditions


def test_rows_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        table(2).rows[0].top1 = 100.0  # type: ignore[misc]


def test_every_table_has_one_reference_row() -> None:
    for t in tables():
        assert [row for row in t.rows if row.reference] == [t.reference_row]
        ours = t.reference_row.arch or t.reference_row.backbone or ""
        assert ours.startswith("PPLCNet")
        assert t.reference_row.latency_ms


@ALL_ROWS
def test_a_value_is_a_plausible_number_or_said_to_be_absent(of: Table, row: Row) -> None:
    for column in COLUMNS:
        value = getattr(row, column)
        absent = column in of.absent_columns or column in row.not_given
        assert (value is None) == absent, column
        if value is not None:
            assert type(value) in (int, float)
            assert value > 0
    for accuracy in (row.top1, row.top5, row.coco_map, row.miou):
        assert accuracy is None or 10 < accuracy < 100
    if row.top1 is not None and row.top5 is not None:
        assert row.top1 < row.top5
    assert (row.coco_map is not None) == (of.number == 4)
    assert (row.miou is not None) == (of.number == 5)
    assert (row.arch is not None) == (of.number in CLASSIFICATION)
    assert (row.backbone is not None) == (row.scale is not None) == (of.number in (4, 5))


def test_the_one_missing_latency_is_told_in_words() -> None:
    told = {(t.number, row.label): dict(row.not_given) for t, row in ROWS if row.not_given}
    assert told == {(3, "ShuffleNetV2-1.5x"): {"latency_ms": "not given"}}


def test_no_row_is_there_twice() -> None:
    for t in tables():
        assert len({row.label for row in t.rows}) == len(t.rows)
        assert len({(row.arch, row.backbone, row.scale, row.distilled) for row in t.rows}) == len(t.rows)


def test_equal_networks_have_equal_numbers_in_all_tables() -> None:
    seen: dict[object, Row] = {}
    repeated = 0
    for _, row in ROWS:
        if row.arch in SPECS:
            network = (SPECS[row.arch], row.distilled)
            first = seen.setdefault(network, row)
            repeated += first is not row
            for column in COLUMNS:
                values = {getattr(first, column), getattr(row, column)} - {None}
                assert len(values) <= 1, (first, row, column)
    # 0.5x alone stands in Tables 3, 6, 7, 8, 9; the sixth step of Table 9 is Table 6's last row, ...
    assert repeated >= 8


def test_table_1_is_the_spec() -> None:
    stem, *blocks, pool, last = [operator for operator in architecture().rows for _ in range(operator.repeat)]
    assert (stem.operator, stem.in_channels, stem.out_channels, stem.stride) == ("Conv2D", 3, BASE_STEM_WIDTH, 2)
    assert [(b.out_channels, b.stride) for b in blocks] == [(block.width, block.stride) for block in BLOCKS]
    assert {b.operator for b in blocks} == {"DepthSepConv"}
    assert "".join("01"[b.se] for b in blocks) == LAST_TWO
    assert "".join({3: "0", 5: "1"}[b.kernel] for b in blocks) == LAST_SEVEN
    assert (pool.operator, pool.kernel, last.operator, last.kernel) == ("GAP", blocks[-1].size, "Conv2D", 1)
    assert last.out_channels == BASE_LAST_WIDTH


def test_table_1_is_consistent_in_itself() -> None:
    channels, size = 3, 224
    for operator in architecture().rows:
        size = 1 if operator.operator == "GAP" else size // operator.stride
        assert (operator.in_channels, operator.size) == (channels, size)
        channels = operator.out_channels


def test_table_2_is_the_eight_scales_and_three_distilled() -> None:
    plain = [row.arch for row in table(2).rows if not row.distilled]
    assert plain == [f"PPLCNet_{scale_name(scale)}" for scale in SCALES]
    assert [row.arch for row in table(2).rows if row.distilled] == ["PPLCNet_x0_5", "PPLCNet_x1_0", "PPLCNet_x2_5"]


def test_ablation_rows_name_the_spec_that_their_label_says() -> None:
    for row in table(7).rows:
        assert row.label == f"SE {SPECS[row.arch or ''].se}"
    for row in table(8).rows:
        assert row.label == f"5x5 {SPECS[row.arch or ''].kernel5}"
    assert [SPECS[row.arch or ""] for row in table(6).rows] == [
        SPECS["PPLCNet_x0_5"].replace(**change)
        for change in ({"act": "relu"}, {"se": "0" * 13}, {"kernel5": "0" * 13}, {"last_width": 0, "dropout": 0.0}, {})
    ]


def test_table_9_adds_a_technique_at_each_step() -> None:
    specs = [SPECS[row.arch or ""] for row in table(9).rows]
    changed = [
        [f.name for f in dataclasses.fields(after) if getattr(after, f.name) != getattr(before, f.name)]
        for before, after in itertools.pairwise(specs)
    ]
    assert changed == [["act"], ["kernel5"], ["se"], ["last_width"], ["dropout"]]
    accuracies = [row.top1 or 0 for row in table(9).rows]
    assert accuracies == sorted(accuracies)


NETWORKS = {row.arch or "": row for t in (table(2), table(3)) for row in t.rows}
KNOWN = {(d.arch, d.field): d for d in table(3).known_differences}


def rounded(field: str, counted: Count) -> float:
    """A count as the tables print it: parameters with one decimal, FLOPs with none, in millions."""
    return round(counted.params / 1e6, 1) if field == "params_m" else float(round(counted.flops / 1e6))


@pytest.mark.parametrize("arch", mostly_slow(NETWORKS))
def test_counted_values_are_the_published_ones_or_a_known_difference(arch: str) -> None:
    counted = count(build_arch({"name": arch}), paddle.zeros([1, 3, 224, 224]))
    for field, exact in (("params_m", counted.params), ("flops_m", counted.flops)):
        published = getattr(NETWORKS[arch], field)
        known = KNOWN.get((arch, field))
        if known is None:
            assert rounded(field, counted) == published, (field, exact)
        else:
            assert (known.published, known.counted) == (published, exact)
            assert rounded(field, counted) != published, f"{field} is no difference any more"


def test_known_differences_have_a_reason_and_are_of_other_networks() -> None:
    assert len(KNOWN) == len(table(3).known_differences) == 4
    for difference in KNOWN.values():
        assert isinstance(difference, KnownDifference)
        assert difference.arch in {row.arch for row in table(3).rows}
        assert not difference.arch.startswith("PPLCNet")
        assert len(difference.reason) > 20


def parameters_with_running_statistics(model: paddle.nn.Layer) -> int:
    return sum(int(p.size) for p in model.parameters())


# What the reasons of the known differences claim of paddle.flops, in millions with PaddleClas's two decimals.
@pytest.mark.filterwarnings("ignore:Conversion of an array")  # by paddle.flops
@pytest.mark.parametrize(
    ("arch", "flops", "params"),
    [
        ("MobileNetV3_small_x0_35", "14.56", "1.67"),
        ("MobileNetV1", "578.88", "4.25"),
        ("MobileNetV2", "327.84", "3.54"),
    ],
)
def test_reasons_hold(arch: str, flops: str, params: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_arch({"name": arch})
    assert f"{parameters_with_running_statistics(model) / 1e6:.2f}" == params
    assert f"{paddle.flops(model, [1, 3, 224, 224]) / 1e6:.2f}" == flops
    capsys.readouterr()
    for difference in table(3).known_differences:
        if difference.arch == arch and difference.field == "flops_m":
            assert flops in difference.reason
        if difference.arch == arch and difference.field == "params_m":
            assert params in difference.reason
