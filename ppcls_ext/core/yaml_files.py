"""Reading YAML from unknown hands: nothing in it is executed, and whatever it says costs bounded time and memory.

What is read is plain data: mappings, lists, text, whole and finite numbers, booleans and null. Text that looks like a
date stays text. A value that is spelt out by an alias counts as often as it is used, so a short file cannot stand for
a billion values.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.reading import Unreadable, decoded, read_regular
from ppcls_ext.core.text import is_utf8, one_line

WHOLE = 2**64  # whole numbers are below this, and above it with the sign changed
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class YamlLimits:
    """What a YAML text may be.

    Attributes:
        size: bytes of the file.
        depth: levels of nesting, aliases followed.
        nodes: keys and values in all, aliases followed.
        scalar: characters of one key or value.
    """

    size: int
    depth: int
    nodes: int
    scalar: int


CONFIG = YamlLimits(size=2**20, depth=32, nodes=100_000, scalar=65_536)


class YamlFault(ValueError):
    """What is wrong with a YAML text, and the line; None where it is no single one."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem if line is None else f"line {line}: {problem}")
        self.problem, self.line = problem, line


# libyaml's parser, where PyYAML was built with it, reads a thousand labels in 5 ms in place of 100.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlLoader(_Base):  # type: ignore[misc]
    """YAML that reads 1e-4 as a number, as everyone who writes it means, and dates as text."""


_AS_TEXT = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")  # dates, and a bare `=`
YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _AS_TEXT]
    for first, known in _Base.yaml_implicit_resolvers.items()
}
YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}


def parse_yaml(text: str, limits: YamlLimits = CONFIG) -> Any:
    """The value of a YAML text.

    Raises:
        YamlFault: not YAML, not plain data, or beyond the limits.
    """
    if len(text) > limits.size:
        raise YamlFault(f"it is longer than {limits.size} characters")
    with _faults(text):
        _check_events(text, limits)  # before anything recursive sees it
        loader = YamlLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _Checker(loader, limits).check(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()


@contextlib.contextmanager
def _faults(text: str) -> Iterator[None]:
    """Raise what PyYAML raises as YamlFault."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "it cannot be parsed"
        raise YamlFault(f"not valid YAML: {one_line(problem, 200)}", mark.line + 1 if mark else None) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise YamlFault("not valid YAML: control characters are not allowed", line) from error
    except UnicodeEncodeError as error:  # half a character, as paths that are not UTF-8 have in Python
        raise YamlFault("not UTF-8 text", text.count("\n", 0, error.start) + 1) from error
    except yaml.YAMLError as error:
        raise YamlFault(f"not valid YAML: {one_line(error, 200)}") from error


def _line(mark: Any) -> int:
    return int(mark.line) + 1


def _check_events(text: str, limits: YamlLimits) -> None:
    depth = nodes = 0
    for event in yaml.parse(text, Loader=YamlLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        nodes += isinstance(event, yaml.NodeEvent)
        line = _line(event.start_mark)
        if depth > limits.depth:
            raise YamlFault(f"nested more than {limits.depth} levels deep", line)
        if nodes > limits.nodes:
            raise YamlFault(f"more than {limits.nodes} keys and values", line)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > limits.scalar:
            raise YamlFault(f"a value of more than {limits.scalar} characters", line)


class _Checker:
    """Looks at every node before values are made of them."""

    def __init__(self, loader: Any, limits: YamlLimits) -> None:
        self._loader, self._limits = loader, limits
        self._open: set[int] = set()
        self._done: dict[int, tuple[int, int]] = {}

    def check(self, node: yaml.Node) -> tuple[int, int]:
        """How many nodes a node stands for, and how deep it is, with its aliases followed. Raises YamlFault."""
        line = _line(node.start_mark)
        if id(node) in self._open:
            raise YamlFault("an alias stands for what it is a part of", line)
        if id(node) not in self._done:
            self._open.add(id(node))
            self._done[id(node)] = self._whole(node, line)
            self._open.remove(id(node))
        return self._done[id(node)]

    def _whole(self, node: yaml.Node, line: int) -> tuple[int, int]:
        if node.tag not in _PLAIN:
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            raise YamlFault(f"not valid YAML here: the tag {one_line(kind, SHOWN)} is no plain data", line)
        expected = {"map": yaml.MappingNode, "seq": yaml.SequenceNode}.get(node.tag.rpartition(":")[2], yaml.ScalarNode)
        if not isinstance(node, expected):
            kinds = {yaml.MappingNode: "mapping", yaml.SequenceNode: "list", yaml.ScalarNode: "value"}
            raise YamlFault(f"not valid YAML: a {kinds[type(node)]} cannot be a {node.tag.rpartition(':')[2]}", line)
        if isinstance(node, yaml.ScalarNode):
            self._scalar(node, line)
            return 1, 0
        if isinstance(node, yaml.MappingNode):
            self._keys(node)
        parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        found = [self.check(part) for part in parts]
        nodes, depth = 1 + sum(n for n, _ in found), 1 + max((d for _, d in found), default=0)
        if nodes > self._limits.nodes:
            raise YamlFault(f"more than {self._limits.nodes} keys and values, with its aliases followed", line)
        if depth > self._limits.depth:
            raise YamlFault(f"nested more than {self._limits.depth} levels deep, with its aliases followed", line)
        return nodes, depth

    def _scalar(self, node: yaml.ScalarNode, line: int) -> None:
        kind = node.tag.rpartition(":")[2]
        shown = one_line(node.value, SHOWN)
        try:
            value = self._loader.construct_object(node) if kind in ("int", "float", "bool", "null") else None
        except (ValueError, KeyError, IndexError, OverflowError) as error:
            if len(node.value) < 1000:
                raise YamlFault(f"'{shown}' is no {kind}", line) from error
            raise YamlFault(f"{shown} has too many digits", line) from error
        fault = fault_of_number(value)
        if fault is not None:
            raise YamlFault(f"{shown} {fault}", line)
        fault = fault_of_text(node.value)
        if fault is not None:
            raise YamlFault(f"'{shown}' {fault}", line)

    def _keys(self, node: yaml.MappingNode) -> None:
        seen: set[Any] = set()
        for key, value in node.value:
            line = _line(key.start_mark)
            if key.tag == "tag:yaml.org,2002:merge":
                self._merged(value)
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise YamlFault("a key must be a word or a number, not a list or a mapping", line)
            self.check(key)
            read = self._loader.construct_object(key)
            if not isinstance(read, str) and type(read) is not int:
                raise YamlFault(f"the key '{one_line(key.value, SHOWN)}' is read as {read!r}: put it in quotes", line)
            if read in seen:
                raise YamlFault(f"the key '{one_line(key.value, SHOWN)}' is given twice", line)
            seen.add(read)

    @staticmethod
    def _merged(value: yaml.Node) -> None:
        each = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(part, yaml.MappingNode) for part in each):
            raise YamlFault("not valid YAML: << takes a mapping or a list of them", _line(value.start_mark))


def fault_of_number(value: Any) -> str | None:
    """Why a value that was read is no number to work with, as the end of a sentence; None where it is one, or none."""
    if isinstance(value, float) and not math.isfinite(value):
        return "is not finite"
    if isinstance(value, int) and not -WHOLE < value < WHOLE:
        return "has more than 64 bits"
    return None


def fault_of_text(text: str) -> str | None:
    """Why a text can be no name of a file, as the end of a sentence; None where it can."""
    if "\0" in text:
        return "has a NUL character"
    return None if is_utf8(text) else "is not UTF-8 text"


def read_yaml(path: Path, limits: YamlLimits = CONFIG) -> dict[str, Any]:
    """Read a mapping from a YAML file; nothing in it is executed.

    Raises:
        UserError: unreadable, not YAML (with the line), beyond the limits, or not a mapping.
    """
    try:
        content = parse_yaml(decoded(read_regular(path, limits.size)), limits)
    except YamlFault as error:
        raise UserError(f"config {path}{', ' if error.line else ': '}{error}") from error
    except Unreadable as error:
        raise UserError(f"config {path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"config {path}: expected sections such as Global and Arch, got {type(content).__name__}")
    return content
