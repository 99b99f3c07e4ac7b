"""The two ways a command ends badly on purpose: bad input, and a check that did not hold."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_NAME = 100  # characters; only so many of a name are compared with known names
MOST_NAMES = 2000  # a name is compared with no more known names


class UserError(Exception):
    """Bad input. Its text is one line: what is wrong, where, and what to do. Commands exit with status 2."""

    exit_status = 2


class WrongModel(UserError):
    """A model that does not fit what its folder says of it: no image is to blame, and none of them gets a result."""


class CheckFailed(Exception):
    """A stated expectation does not hold (parity, expected accuracy). Commands exit with status 1."""

    exit_status = 1


class PeerLost(CheckFailed):
    """Another process of this job ended without a word, so this one cannot go on."""

    BEGINNING = "another process of this job ended, so this one stops too"  # every message begins with it


def nearest(name: str, known: Iterable[str], shown: int = 12) -> str:
    """Phrase that helps someone who wrote `name`: the nearest of `known`, or the list of them."""
    names = sorted(str(k) for k in known)
    # What is compared is bounded, since comparing takes the product of the lengths.
    close = difflib.get_close_matches(str(name)[:LONGEST_NAME], names[:MOST_NAMES], n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    if not names:
        return "nothing is accepted here"
    more = f", ... ({len(names)} in all)" if len(names) > shown else ""
    return f"known: {', '.join(names[:shown])}{more}"
