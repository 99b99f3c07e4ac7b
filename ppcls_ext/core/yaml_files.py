"""Reading YAML files. Nothing in them is executed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.core.errors import UserError


class YamlLoader(yaml.SafeLoader):
    """YAML that reads 1e-4 as a number, as everyone who writes it means."""


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file; nothing in it is executed.

    Raises:
        UserError: unreadable, not YAML (with the line), or not a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=YamlLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(f"config {path}, line {line}: not valid YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"config {path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"config {path}: expected sections such as Global and Arch, got {type(content).__name__}")
    return content


# libyaml's parser, where PyYAML was built with it, reads a thousand labels in 5 ms in place of 100.
_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEEPEST = 32  # levels of nesting


def parse_untrusted_yaml(text: str) -> Any:
    """Read YAML from an unknown hand, sooner than `read_yaml` does.

    Raises:
        yaml.YAMLError: not YAML, or nested so deeply that building it would overflow the stack of libyaml's parser.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_FAST):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.YAMLError(f"nested more than {DEEPEST} levels deep")
    return yaml.load(text, Loader=_FAST)
