"""A share of a list of images, the same on every machine, for programs that start a command many times."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from ppcls_ext.core.errors import UserError


@dataclass(frozen=True)
class Shard:
    """Share `index` of `count`, counted from 1. Every image is in exactly one of the shares.

    The share of an image depends on its name alone (see `ppcls_ext.core.images.named_images`), not on its index in the
    list: jobs of one array start at different times, and an image that came or went in between must not move the others
    to shares that are done already. Shares are therefore equal only on average.
    """

    index: int
    count: int

    def has(self, name: str) -> bool:
        """Whether the image of this name is in the share."""
        data = os.fsencode(name.replace(os.sep, "/"))  # the bytes of the file system, whatever the locale
        digest = hashlib.blake2b(data, digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def read_shard(text: str) -> Shard:
    """The share that `I/N` names.

    Raises:
        UserError: not two whole numbers, or I is not one of 1 ... N.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None:
        raise UserError(f"--shard {text}: expected I/N, share I of N, such as 1/4")
    shard = Shard(int(found[1]), int(found[2]))
    if not 1 <= shard.index <= shard.count:
        advice = "a job's number from 0 needs 1 added to it" if shard.index == 0 else f"give 1/{shard.count or 1} or so"
        raise UserError(f"--shard {text}: shares are counted from 1 to N; {advice}")
    return shard
