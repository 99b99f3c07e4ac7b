"""The classes of a data set: their number and names, by the config, the run folder or the data."""

from __future__ import annotations

from ppcls_ext.core.errors import UserError


def check_class_count(given: int | None, found: int, source: object) -> None:
    """Raise UserError if `Arch.class_num` is a number other than that of the classes in the data."""
    if given is not None and given != found:
        raise UserError(
            f"Arch.class_num is {given}, but {source} has {found} classes; "
            "-o Arch.class_num=auto takes the number from the data"
        )
