"""Which arguments a network of PaddleClas takes: its factories pass `**kwargs` on, and some classes drop them."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from ppcls_ext.core.bounds import number
from ppcls_ext.core.registry import accepted_keys
from ppcls_ext.models.spec import LARGEST_SCALE

MOST_FORWARDED = 5  # factories that pass their arguments on to another
LARGEST = 100_000.0  # no number among the arguments may be larger


@functools.cache
def network_keys(factory: Callable[..., Any], depth: int = 0) -> frozenset[str] | None:
    """The keys that a factory or class takes, with those of what it passes `**kwargs` on to; None if it cannot be told.

    What a factory passes by name is decided by it and is not among them.
    """
    own = frozenset(accepted_keys(factory))
    if isinstance(factory, type):
        return own
    kinds = [parameter.kind for parameter in inspect.signature(factory).parameters.values()]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        return own
    keys = set(own)
    calls = _forwarding(factory)
    if not calls or depth == MOST_FORWARDED:
        return None
    for target, given in calls:
        theirs = network_keys(target, depth + 1)
        if theirs is None:
            return None
        keys |= theirs - given
    return frozenset(keys)


def _forwarding(factory: Callable[..., Any]) -> list[tuple[Callable[..., Any], set[str]]]:
    """What a function passes its `**kwargs` to, each with the names of the arguments that it gives by itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(factory)))
    except (OSError, TypeError, SyntaxError):
        return []
    found = []
    known = getattr(factory, "__globals__", {})
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not any(keyword.arg is None for keyword in node.keywords):
            continue
        target = known.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if not callable(target):
            return []
        positional = list(inspect.signature(target).parameters)[: len(node.args)]
        named = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
        found.append((target, {*positional, *named}))
    return found


def check_numbers(arguments: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a number that no network has a use for, before memory is taken for it."""
    for key, value in arguments.items():
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(part, (int, float)) and not isinstance(part, bool):
                high = LARGEST_SCALE if key == "scale" else LARGEST
                number(part, f"{where}.{key}", 0 if key == "scale" else -high, high, above=key == "scale")
