"""Lists of operations in a config, such as transforms or losses: `- ResizeImage: {resize_short: 256}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.registry import call_checked
from ppcls_ext.core.text import shown


class Operation(NamedTuple):
    """An entry of a list.

    Attributes:
        arguments: as the config gives them; the caller may take some out before it builds the operation.
        where: the entry's position in the config, such as `Loss.Train.0.CELoss`, for messages.
    """

    name: str
    arguments: dict[str, Any]
    where: str

    def build(
        self,
        known: Mapping[str, Callable[..., Any]],
        kind: str = "operation",
        given: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call what `known` has under this name with the arguments and with those that the program adds (`given`).

        Raises:
            UserError: an unknown name, or what `call_checked` raises.
        """
        if self.name not in known:
            raise UserError(f"{self.where}: no such {kind}; {nearest(self.name, known)}")
        return call_checked(known[self.name], self.arguments, self.where, given)


def read_operations(ops: Sequence[Any] | None, where: str) -> list[Operation]:
    """The entries of a list. Raises UserError if it is not a list of one-key mappings (or of bare names)."""
    if not isinstance(ops, (list, tuple)):
        raise UserError(f"{where}: expected a list of operations, got {shown(ops)}")
    operations = []
    for index, item in enumerate(ops):
        if isinstance(item, str):
            item = {item: None}
        if not isinstance(item, dict) or len(item) != 1:
            raise UserError(
                f"{where}.{index}: expected one operation, such as 'RandFlipImage: {{flip_code: 1}}', got {shown(item)}"
            )
        name, arguments = next(iter(item.items()))
        if not isinstance(name, str):
            raise UserError(f"{where}.{index}: expected the name of an operation, got {shown(name)}")
        if not isinstance(arguments, (dict, type(None))):
            raise UserError(f"{where}.{index}.{name}: expected arguments as key: value, got {shown(arguments)}")
        operations.append(Operation(name, dict(arguments or {}), f"{where}.{index}.{name}"))
    return operations
