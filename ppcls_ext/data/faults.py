"""Looking through a data set before training on it: what all tasks have in common, and the report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.display import bar
from ppcls_ext.core.images import BrokenImage, read_rgb

SHOWN = 20  # findings of one kind are shown; the others are only counted
SMALL_CLASS = 10  # training images (or objects) below which a class is pointed out
IMBALANCE = 20.0  # largest over smallest class, above which it is pointed out


@dataclass
class DataReport:
    """Errors (training would fail or learn nonsense), warnings, tables, and pictures of samples."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[tuple[str, Sequence[str], list[Any]]] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)
    cell: int = 150  # pixels of a sample's square in the picture

    def error(self, text: str) -> None:
        """Add something that would make training fail or learn nonsense."""
        self.errors.append(text)

    def warning(self, text: str) -> None:
        """Add something that is worth a look."""
        self.warnings.append(text)

    def check_files(self, splits: Mapping[str, Sequence[str]]) -> None:
        """Decode every image of the splits; find files listed twice, and the same content in two splits."""
        seen: dict[bytes, tuple[str, str]] = {}
        with bar(sum(map(len, splits.values())), "check") as progress:
            for split, paths in splits.items():
                listed: set[str] = set()
                for path in paths:
                    progress.advance()
                    if path in listed:
                        self.warning(f"{split}: {path} is listed more than once")
                        continue
                    listed.add(path)
                    try:
                        read_rgb(path)
                    except BrokenImage as error:
                        self.error(f"{split}: {error}")
                        continue
                    digest = hashlib.sha256(Path(path).read_bytes()).digest()
                    other_split, other_path = seen.setdefault(digest, (split, path))
                    if other_split != split:
                        self.error(f"{split}: {path} is the same picture as {other_path} of {other_split} (leakage)")
                    elif other_path != path:
                        self.warning(f"{split}: {path} is the same picture as {other_path}")

    def check_balance(
        self, names: Sequence[str], counts: Sequence[int] | np.ndarray, what: str = "training examples"
    ) -> None:
        """Point out classes with no or few training examples, and a large imbalance between the others."""
        present = [int(c) for c in counts if c]
        absent = [name for name, count in zip(names, counts, strict=True) if not count]
        few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if 0 < count < SMALL_CLASS]
        for classes, how_many in ((absent, "no"), (few, f"fewer than {SMALL_CLASS}")):
            if classes:
                shown = ", ".join(classes[:SHOWN]) + (", ..." if len(classes) > SHOWN else "")
                self.warning(f"classes with {how_many} {what}: {shown}")
        if present and max(present) / min(present) > IMBALANCE:
            self.warning(f"the largest class has {max(present) / min(present):.0f} times the examples of the smallest")

    def sample(self, path: str, picture: Callable[[np.ndarray], np.ndarray]) -> None:
        """Add a picture made from an image; one that cannot be read is reported elsewhere."""
        try:
            image = read_rgb(path)
        except BrokenImage:
            return
        self.samples.append(picture(image))
