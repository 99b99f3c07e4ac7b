"""`pplcnet configs`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppcls_ext.core.config import load_config, shipped_configs, shipped_studies
from ppcls_ext.core.display import out
from ppcls_ext.core.errors import UserError, nearest

STUDY_GROUP = "studies"

NAME = "configs"
HELP = "list the configs and studies that come with the package"
DESCRIPTION = (
    "List the configs that come with the package, task by task, and the studies. Each line has the name that -c takes, "
    "and says what it is."
)
EXAMPLES = (
    "pplcnet configs",
    "pplcnet configs MobileNet",
)


@dataclass(frozen=True)
class Shipped:
    """A config or study that comes with the package.

    Attributes:
        group: its task, or `studies`.
        what: the first paragraph of the file's opening comment.
    """

    name: str
    group: str
    what: str

    def matches(self, word: str) -> bool:
        """Whether the word is part of what is listed, in capitals or not."""
        return word.lower() in f"{self.group} {self.name} {self.what}".lower()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    group = parser.add_argument_group("what is listed")
    group.add_argument("word", nargs="?", default="", metavar="WORD", help="list only what has this word in its line")


def run(arguments: argparse.Namespace) -> int:
    """List; gives the exit status."""
    listed = all_shipped()
    found = [shipped for shipped in listed if shipped.matches(arguments.word)]
    if not found:
        raise UserError(f"no config has '{arguments.word}' in its line; {nearest(arguments.word, _words(listed))}")
    show(found)
    return 0


def all_shipped() -> list[Shipped]:
    """Everything that ships, by task, studies last."""
    configs = [
        Shipped(name, load_config(file).global_section.task, opening_line(file))
        for name, file in shipped_configs().items()
    ]
    studies = [Shipped(name, STUDY_GROUP, opening_line(file)) for name, file in shipped_studies().items()]
    return sorted(configs, key=lambda shipped: shipped.group) + studies


def opening_line(file: Path) -> str:
    """The first paragraph of the comment that a file opens with, on one line; "" where it has none."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        lines.append(text)
    return " ".join(lines)


def show(found: Sequence[Shipped]) -> None:
    """A line for each, below the name of its group."""
    width = max(len(shipped.name) for shipped in found)
    groups: Mapping[str, list[Shipped]] = {shipped.group: [] for shipped in found}
    for shipped in found:
        groups[shipped.group].append(shipped)
    for number, (group, members) in enumerate(groups.items()):
        command = "study" if group == STUDY_GROUP else "train"
        out.print(f"{chr(10) * (number > 0)}{group} (pplcnet {command} -c NAME)", markup=False, style="bold")
        for shipped in members:
            out.print(f"  {shipped.name:<{width}}  {shipped.what}".rstrip(), markup=False)


def _words(listed: Sequence[Shipped]) -> set[str]:
    """What somebody may have meant: names, groups and the parts of names."""
    names = {shipped.name for shipped in listed}
    parts = {part for name in names for part in re.split(r"[/_]", name) if len(part) > 3}
    return names | parts | {shipped.group for shipped in listed}
