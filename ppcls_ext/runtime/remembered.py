"""What was found out on this machine and is worth remembering, in one file of the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.logs import log
from ppcls_ext.core.reading import Unreadable, read_json

MOST_ENTRIES = 500  # the oldest go
FORMAT = 1  # version of the file's layout


def cache_folder() -> Path:
    """The folder PPLCNET_CACHE, else `pplcnet` in XDG_CACHE_HOME (default ~/.cache)."""
    given = os.environ.get("PPLCNET_CACHE")
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "pplcnet"


def cache_file() -> Path:
    """`engines.json` in the cache folder."""
    return cache_folder() / "engines.json"


def recall(key: Mapping[str, Any]) -> Any:
    """What was remembered under a JSON-able key; None where there is nothing, it is too old, or the file is damaged."""
    entry = _read().get(_digest(key), {})
    until = entry.get("until")
    if until is not None and not (isinstance(until, (int, float)) and time.time() < until):
        return None
    return entry.get("value")


def remember(key: Mapping[str, Any], value: Any, seconds: float | None = None) -> None:
    """Remember a JSON-able value, for so many seconds or for good. Where the file cannot be written a line says so, and
    that is all.
    """
    entries = _read()
    entries.pop(_digest(key), None)
    entries[_digest(key)] = {"key": key, "value": value, "until": None if seconds is None else time.time() + seconds}
    kept = dict(list(entries.items())[-MOST_ENTRIES:])
    file = cache_file()
    try:
        atomic_write_text(file, json.dumps({"format": FORMAT, "entries": kept}, indent=1) + "\n")
    except (OSError, UserError) as error:  # the latter for a device or a folder in its place
        log.warning(
            "%s: the choice of an engine cannot be remembered there (%s); set PPLCNET_CACHE to a folder that can be "
            "written to",
            file,
            getattr(error, "strerror", None) or error,
        )


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _read() -> dict[str, dict[str, Any]]:
    try:
        content = read_json(cache_file())
    except Unreadable:
        return {}
    entries = content.get("entries") if isinstance(content, dict) and content.get("format") == FORMAT else None
    if not isinstance(entries, dict):
        return {}
    return {digest: entry for digest, entry in entries.items() if isinstance(entry, dict)}
