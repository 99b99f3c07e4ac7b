"""The backbone that a section of a config describes, for the tasks that have a network around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddle import nn

from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.registry import Registry, call_checked
from ppcls_ext.models.keys import check_numbers

WHERE = "Arch.backbone"


def build_from(backbones: Registry, section: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> nn.Layer:
    """Build the network of `Arch.backbone`.

    Args:
        backbones: those of the task.
        section: `name` and the arguments of that backbone.
        given: arguments that the task sets, and the section may not.
    Raises:
        UserError: no name, an unknown name or key, or a value that the network refuses.
    """
    arguments = dict(section)
    name = arguments.pop("name", None)
    if name is None:
        raise UserError(f"{WHERE}.name is missing: say which backbone to use, such as PPLCNet (with a scale)")
    if not isinstance(name, str) or name not in backbones:
        raise UserError(f"{WHERE}.name: no backbone '{name}'; {nearest(str(name), backbones)}")
    check_numbers(arguments, WHERE)
    return call_checked(backbones[name], arguments, WHERE, given)
