"""Sections of a config that have a part for each split of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ppcls_ext.core.bounds import mapping
from ppcls_ext.core.config import Config, Section, parse
from ppcls_ext.core.errors import UserError, nearest

SPLIT_NAMES = {"Train": "train", "Eval": "val"}  # name in configs: name in folders and files of data


S = TypeVar("S", bound=Section)


class Splits(dict[str, S]):
    """The `DataLoader` section: a typed section for each split it has. One it does not have is a UserError."""

    def __missing__(self, split: str) -> S:
        raise UserError(f"DataLoader.{split} is missing")


def parse_splits(config: Config, kind: type[S]) -> Splits[S]:
    """The `DataLoader` section as a typed section for each split.

    Raises:
        UserError: an unknown split, or what `parse` raises.
    """
    loaders = by_split(config, "DataLoader")
    return Splits({name: parse(kind, values, f"DataLoader.{name}") for name, values in loaders.items()})


def by_split(config: Config, section: str) -> Mapping[str, Any]:
    """A section whose keys are splits. Raises UserError for another key."""
    values = mapping(config.get(section), section)
    for name in values:
        if name not in SPLIT_NAMES:
            raise UserError(f"{section}.{name}: unknown split; {nearest(name, SPLIT_NAMES)}")
    return values
