"""Lists of operations are read entry by entry, and a wrong one is named by its position."""

from __future__ import annotations

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.operations import read_operations


def test_the_config_is_left_as_it_is() -> None:
    ops = [{"A": {"x": 1}}]
    read_operations(ops, "ops")[0].arguments["x"] = 2
    assert ops == [{"A": {"x": 1}}]


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ({"A": None}, r"Ops: expected a list of operations"),
        ([{"A": None, "B": None}], r"Ops\.0: expected one operation"),
        (["A", {"B": 3}], r"Ops\.1\.B: expected arguments as key: value, got 3"),
    ],
)
def test_a_wrong_entry_is_named_by_its_position(ops: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_operations(ops, "Ops")


def test_an_operation_is_built_from_what_is_known() -> None:
    (operation,) = read_operations([{"pair": {"a": 1}}], "Ops")
    assert operation.build({"pair": lambda a, b: (a, b)}, given={"b": 2}) == (1, 2)
    with pytest.raises(UserError, match=r"Ops\.0\.pair: no such loss; did you mean 'pairs'"):
        operation.build({"pairs": dict}, "loss")
