"""The classes of a data set: their number and names, by the config, by a file of names, or by the data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from ppcls_ext.core.bounds import MOST_CLASSES
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.text import shown


class Names(NamedTuple):
    """Class names that something other than the data fixes, and what that is, for messages."""

    names: tuple[str, ...]
    source: str


class Classes:
    """How many classes there are and what they are called; nothing is read before it is asked for.

    Args:
        class_num: `Arch.class_num` of the config: a number, or `auto` or null, which leave it to names or data.
        given: reads the names that the config or its run folder fixes; None where neither does.
        found: reads the names that the data has; None where there is no data at hand, or it names no classes.
        hint: what to do where the given names are not as many as `class_num`.
    """

    def __init__(
        self,
        class_num: Any,
        given: Callable[[], Names | None],
        found: Callable[[], tuple[str, ...] | None],
        hint: str = "",
    ) -> None:
        self._class_num, self._given, self._found, self._hint = class_num, given, found, hint

    @functools.cached_property
    def fixed(self) -> int | None:
        """The number that the config states; None leaves it to names or data. Raises UserError for anything else."""
        number = self._class_num
        if number in ("auto", None):
            return None
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST_CLASSES:
            raise UserError(
                f"Arch.class_num: expected a number of classes or auto, got {shown(number)}; at most {MOST_CLASSES}"
            )
        return number

    @functools.cached_property
    def given(self) -> tuple[str, ...] | None:
        """The names that the config or its run folder fixes. Raises UserError if there are not `fixed` of them."""
        given = self._given()
        if given is None:
            return None
        if self.fixed not in (None, len(given.names)):
            raise UserError(
                f"Arch.class_num is {self.fixed}, but {given.source} names {len(given.names)} classes{self._hint}"
            )
        return given.names

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Given names, else those of the data, else the numbers as text.

        Raises:
            UserError: the data is wrong, or it is asked and not there.
        """
        names = self.given if self.given is not None else self._found()
        return names if names is not None else tuple(map(str, range(self.fixed or 0)))

    @property
    def count(self) -> int:
        """The number of classes; reads names or data only where the config leaves it to them."""
        return self.fixed or len(self.names)

    def check_found(self, found: int, source: object) -> None:
        """Raise UserError if the config states another number of classes than the `found` ones of `source`."""
        if self.fixed is not None and self.fixed != found:
            raise UserError(
                f"Arch.class_num is {self.fixed}, but {source} has {found} classes; "
                "-o Arch.class_num=auto takes the number from the data"
            )
