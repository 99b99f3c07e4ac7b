"""`pplcnet configs` lists what ships, with a line for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ppcls_ext.cli.configs import all_shipped, opening_line
from ppcls_ext.cli.main import main
from ppcls_ext.core.config import shipped_configs, shipped_studies

Fails = Callable[..., str]


def listed(word: list[str], capfd: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """The names that the command lists, by the group that they stand below."""
    assert main(["configs", *word]) == 0
    groups: dict[str, list[str]] = {}
    for line in filter(None, capfd.readouterr().out.splitlines()):
        if line.startswith(" "):
            groups[list(groups)[-1]].append(line.split()[0])
        else:
            groups[line.split()[0]] = []
    return groups


def test_everything_that_ships_is_listed_by_task(capfd: pytest.CaptureFixture[str]) -> None:
    groups = listed([], capfd)
    assert list(groups) == ["classification", "detection", "segmentation", "studies"]
    assert groups.pop("studies") == list(shipped_studies())
    assert sorted(name for names in groups.values() for name in names) == sorted(shipped_configs())
    assert all(name.startswith("det/") for name in groups["detection"])
    assert all(name.startswith("seg/") for name in groups["segmentation"])


@pytest.mark.parametrize("shipped", all_shipped(), ids=lambda shipped: shipped.name)
def test_every_file_says_what_it_is_in_a_line(shipped) -> None:
    assert 20 < len(shipped.what) <= 120
    assert shipped.what.endswith(".")


def test_a_word_filters_names_tasks_and_texts_in_capitals_or_not(capfd: pytest.CaptureFixture[str]) -> None:
    assert listed(["my_coco"], capfd) == {"detection": ["det/my_coco", "det/my_coco_from_coco"]}
    assert list(listed(["SEGMENTATION"], capfd)) == ["segmentation"]
    assert listed(["Squeeze-and"], capfd) == {"studies": ["studies/table7"]}


@pytest.mark.parametrize(("word", "nearest"), [("my_imagse", "my_images"), ("detectoin", "detection")])
def test_an_unknown_word_names_the_nearest(word: str, nearest: str, fails: Fails) -> None:
    assert fails("configs", word).endswith(f"no config has '{word}' in its line; did you mean '{nearest}'?")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# One\n# line.\n#\n# More.\nGlobal: {}\n", "One line."),
        ("# One.\nGlobal: {}\n", "One."),
        ("Global: {}\n# Later.\n", ""),
    ],
)
def test_the_opening_comment_ends_at_an_empty_line_or_a_key(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert opening_line(tmp_path / "c.yaml") == line
