"""`pplcnet export` offers what the export can write."""

from __future__ import annotations

from ppcls_ext.cli.export import FORMAT_CHOICES
from ppcls_ext.deploy.export import CHOICES
from ppcls_ext.runtime.engines.base import FLOAT_FORMATS
from tests.helpers.help import help_of


def test_the_choices_are_those_of_the_export() -> None:
    assert list(FORMAT_CHOICES) == list(CHOICES)


def test_the_help_names_every_format() -> None:
    shown = help_of("export").partition("--formats FORMAT write ")[2].partition("(default: both)")[0]
    assert all(name in shown for name in FLOAT_FORMATS)
