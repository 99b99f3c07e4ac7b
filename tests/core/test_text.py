"""`ppcls_ext.core.text`: text of users on one line, and what can be stored as a line."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from ppcls_ext.core import display
from ppcls_ext.core.config import override
from ppcls_ext.core.text import assignment, command_line, fault_of_name, is_digits, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a b"),
        ("größe 猫", "größe 猫"),
        ("a\nb\r\x1b[31m", "a\\nb\\r\\x1b[31m"),
        ("a\u2028b\u202ec", "a\\u2028b\\u202ec"),
        ("photo\udcff.jpg", "photo\\xff.jpg"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_obeys_is_escaped(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_a_long_text_is_cut() -> None:
    assert one_line("x" * 50, 10) == "xxxxxxxxxx ... (50 characters)"


def test_digits_are_those_that_int_reads() -> None:
    assert [text for text in ("0", "12", "²", "١", "-1", "", "9" * 19) if is_digits(text)] == ["0", "12"]


def test_a_name_is_a_line() -> None:
    assert fault_of_name("red fox\t2") is None
    for name in ("a\nb", "a\u2028b", "a\0", "a\x85b"):
        assert fault_of_name(name) == "has a line break or another control character"
    assert fault_of_name("a\udcff") == "is not UTF-8"
    assert fault_of_name("\ufeffa") == "begins with an invisible byte order mark"
    assert fault_of_name("a\ufeff") is None


def test_names_of_users_are_no_markup(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(display, "out", Console(highlight=False, width=80))
    display.show_table("[b]title", ("[/b]", "n"), [("[/b]", 1), ("a\nb", 2)])
    shown = capsys.readouterr().out
    assert "[b]title" in shown
    assert shown.count("[/b]") == 2
    assert "a\\nb" in shown


@pytest.mark.parametrize("value", ["a #b", "null", "a: b", "on", "[x]", "1e3", "plain", 'quote"d', "back\\slash"])
def test_a_text_in_an_override_stays_what_it_is(value: str) -> None:
    config: dict[str, Any] = {"Global": {}}
    override(config, assignment("Global.output_dir", value))
    assert config["Global"]["output_dir"] == value


@pytest.mark.parametrize("program", ["/bin/pplcnet", "/x/ppcls_ext/cli/__main__.py"])
def test_a_command_line_can_be_given_to_a_shell(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [program, "train", "-c", "my config"])
    assert command_line() == "pplcnet train -c 'my config'"
