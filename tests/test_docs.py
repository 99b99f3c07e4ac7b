"""README, CONTRIBUTING and docs/: what they name exists, and what they tell to type is understood."""

from __future__ import annotations

import ast
import functools
import itertools
import re
import shlex
from collections.abc import Iterator
from configparser import ConfigParser
from distutils.core import run_setup
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppcls_ext.cli.main import build_parser
from ppcls_ext.core.config import Global, load_config, shipped_configs, shipped_studies
from tests.helpers.processes import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README_LINES = 130
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SHELL = {"", "bash", "sh"}  # languages of fences whose lines are typed into a shell
COMMAND = re.compile(r"(?:pplcnet|python tools/\w+\.py|python -m paddle\.distributed\.launch)\b")
OTHER_PEOPLES = (
    "ResolutionImpossible",
    "Cannot install",
    "HASHES",
    "command not found",
    "No module named",
    "input should be",
)
PACKAGES = "ppcls_ext|det|seg|tests"
FOLDERS = f"{PACKAGES}|configs|tools|docs|results|studies"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def without_fences(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def shell_lines(page: Path) -> Iterator[str]:
    """The lines of a page's fenced shell blocks, and its code spans."""
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in SHELL:
            yield from block.replace("\\\n", " ").splitlines()
    yield from SPAN.findall(without_fences(page))


def command_lines(page: Path) -> Iterator[list[str]]:
    """The arguments of `pplcnet` in each command that a page tells to type, however it is started."""
    for line in shell_lines(page):
        for part in line.split("&&"):
            if not COMMAND.match(part.strip()):
                continue
            words = shlex.split(part, comments=True)
            script = next((word for word in words if re.fullmatch(r"tools/\w+\.py", word)), None)
            if words[0] == "pplcnet":
                yield words[1:]
            elif script is not None:
                assert (ROOT / script).is_file(), part
                rest = words[words.index(script) + 1 :]
                yield [Path(script).stem.replace("_", "-"), *rest]


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_fences(page), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)


@functools.cache
def names_in(module: Path) -> frozenset[str]:
    """What a module defines at its top, its classes' own names included."""
    found: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return frozenset(found)


def is_module_or_name(dotted: str) -> bool:
    """Whether a dotted name, such as `det.transforms.TRANSFORMS`, is a module of the project or stands in one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:end])
        module = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
        if module.is_file():
            return end == len(parts) or parts[end] in names_in(module)
    return False


@functools.cache
def words_of_the_code() -> str:
    """All text constants of the packages and of the Makefile, in which messages are looked up."""
    files = [file for package in ("ppcls_ext", "det", "seg") for file in (ROOT / package).rglob("*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join([*texts, (ROOT / "Makefile").read_text(encoding="utf-8")])


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_the_pages_tell_commands_of_every_kind() -> None:
    """The scan below finds something, whatever the form."""
    told = {tuple(words[:1]) for page in PAGES for words in command_lines(page)}
    assert {("train",), ("infer",), ("reproduce",), ("configs",), ("study",)} <= told


def status_of(words: list[str]) -> int | str | None:
    """The exit status with which the command line refuses arguments, or shows help; None where it takes them."""
    try:
        build_parser().parse_args(words)
    except SystemExit as ended:
        return ended.code
    return None


@each_page
def test_commands_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in command_lines(page):
        if not words or words[0].startswith("COMMAND"):
            continue
        line = words if words[1:] or words == ["configs"] else [*words, "--help"]  # a command that is only named
        refused = status_of(line)
        assert not refused, f"{page.name}: pplcnet {' '.join(words)}: {capsys.readouterr().err}"


def lists_in(value: Any) -> Iterator[list[Any]]:
    """Every list in nested lists and dictionaries."""
    if isinstance(value, list):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from lists_in(inner)


def test_units_and_manifests_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """What systemd and Kubernetes are told to start is a command line that `pplcnet` takes."""
    commands: list[list[str]] = []
    for language, block in itertools.chain.from_iterable(FENCE.findall(page.read_text("utf-8")) for page in PAGES):
        if language == "yaml":
            manifest = yaml.safe_load(block)
            commands += [words for words in lists_in(manifest) if words[:1] == ["pplcnet"]]
        elif language == "ini":
            unit = ConfigParser(interpolation=None)
            unit.optionxform = str  # type: ignore[assignment]  # keys of units have capitals
            unit.read_string(block)
            commands.append(shlex.split(unit["Service"]["ExecStart"].replace("%i", "8000")))
    assert {Path(words[0]).name for words in commands} == {"pplcnet"}
    assert len(commands) >= 2
    for words in commands:
        assert status_of(words[1:]) is None, f"{words}: {capsys.readouterr().err}"


@each_page
def test_configs_that_commands_name_ship_or_are_the_reader_s(page: Path) -> None:
    shipped = {**shipped_configs(), **shipped_studies()}
    for words in command_lines(page):
        overrides = [value for flag, value in itertools.pairwise(words) if flag == "-o"]
        for flag, name in itertools.pairwise(words):
            if flag not in ("-c", "--config", "--base"):
                continue
            own = name.startswith("output/") or name.isupper() or (name.endswith(".yaml") and "configs/" not in name)
            assert own or name in shipped or (ROOT / name).is_file(), f"{page.name}: {flag} {name}"
            if name in shipped_configs() and words[0] != "study":
                load_config(name, overrides)  # reads the overrides as the command does


@each_page
def test_keys_of_global_exist(page: Path) -> None:
    keys = set(re.findall(r"\bGlobal\.([a-z_]+)", page.read_text(encoding="utf-8")))
    assert keys <= set(Global.model_fields), keys - set(Global.model_fields)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(without_fences(page)):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}; known: {sorted(anchors(target))}"


@each_page
def test_files_modules_and_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = "\n".join([*SPAN.findall(without_fences(page)), *(block for _, block in FENCE.findall(text))])
    shipped = {**shipped_configs(), **shipped_studies()}
    for path in re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w/.*-]*)", code):
        whole = path.rstrip(".")
        there = any(ROOT.glob(whole.rstrip("/"))) or any((ROOT / "configs").glob(f"{whole}.yaml"))
        assert there or whole in shipped, f"{page.name}: {path}"
    for dotted in re.findall(r"(?<![\w/.])((?:ppcls_ext|det|seg)(?:\.[A-Za-z_]\w*)+)", code):
        assert is_module_or_name(dotted), f"{page.name}: {dotted}"
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, f"{page.name}: make {target}"


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(without_fences(index))}
    assert {page.resolve() for page in PAGES} - {index} <= linked


def test_the_page_of_configs_has_every_key_of_the_global_section_with_its_default() -> None:
    page = (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")
    table = page.partition("## The Global section")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*?) ?\|$", table, re.MULTILINE))
    assert set(rows) == set(Global.model_fields)
    for key, field in Global.model_fields.items():
        if isinstance(field.default, (int, float)):
            assert yaml.safe_load(rows[key]) == field.default, key


def test_contents_of_the_troubleshooting_page_are_its_headings() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert re.findall(r"^- \[(.+?)\]", page, re.MULTILINE) == re.findall(r"^## (.+)$", page, re.MULTILINE)


def test_messages_of_the_troubleshooting_page_are_in_the_code() -> None:
    """What stands between the dots of each message in the first column, but for other people's messages."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").partition("## Crashes of Paddle")[0]
    code = words_of_the_code()
    messages = [cell for row in re.findall(r"^\| (`.+?) \|", page, re.MULTILINE) for cell in SPAN.findall(row)]
    assert len(messages) > 50
    own = [m for m in messages if not any(word in m for word in OTHER_PEOPLES)]
    parts = [part.strip(" :") for message in own for part in message.split("...")]
    assert [part for part in parts if part not in code] == []


def test_the_description_of_the_package_has_no_relative_links() -> None:
    """It is the README, read where the files of the checkout are not."""
    text = run_setup(str(ROOT / "setup.py"), stop_after="init").metadata.long_description
    assert "PP-LCNet toolkit" in text
    assert [link for link in LINK.findall(text) if "://" not in link] == []


def test_the_scan_of_names_finds_what_is_gone() -> None:
    assert is_module_or_name("ppcls_ext.models.spec.SPECS")
    assert not is_module_or_name("ppcls_ext.lcnet.PPLCNet")
    assert not is_module_or_name("det.transforms.Nothing")
