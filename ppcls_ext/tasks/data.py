"""The data of a task's config: its two splits, their classes, and what reads batches of them."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from ppcls_ext.core.config import LABELS, Config, Section, in_run_folder
from ppcls_ext.core.errors import UserError
from ppcls_ext.data.lists import read_labels
from ppcls_ext.data.loader import Loader
from ppcls_ext.tasks.classes import Classes, Names
from ppcls_ext.tasks.splits import parse_splits

L = TypeVar("L", bound=Section)  # the typed section of a split's loader
T = TypeVar("T")  # what a split is once it is read


class TaskData(abc.ABC, Generic[L, T]):
    """The splits of one config. Each is read when it is first needed, and only once.

    Args:
        section: the type of `DataLoader.<split>`.
        class_num: `Arch.class_num`.
        hint: see `Classes`.
    """

    def __init__(self, config: Config, section: type[L], class_num: Any, hint: str = "") -> None:
        self.config, self.global_section = config, config.global_section
        self.loaders = parse_splits(config, section)
        self.classes = Classes(class_num, self.given_names, self.found_names, hint)

    @abc.abstractmethod
    def read_split(self, split: str, names: tuple[str, ...] | None) -> T:
        """Read the split 'Train' or 'Eval'.

        Args:
            names: the classes in order, where something fixes them.
        Raises:
            UserError: wrong data.
        """

    @abc.abstractmethod
    def names_of(self, split: T) -> tuple[str, ...] | None:
        """The class names that a split has."""

    @abc.abstractmethod
    def paths_of(self, split: T) -> Sequence[str]:
        """Every image file of a split."""

    @abc.abstractmethod
    def found_names(self) -> tuple[str, ...] | None:
        """The class names that the data has; None where there is no data at hand, or it names no classes."""

    def given_names(self) -> Names | None:
        """The class names that something other than the data fixes: the run folder that the config lies in."""
        return self.saved_names()

    @functools.cached_property
    def train_split(self) -> T:
        """The split to train on. Raises UserError for wrong data."""
        return self.read_split("Train", self.classes.given)

    @functools.cached_property
    def eval_split(self) -> T:
        """The split to evaluate on; its classes are those of the training split, where nothing else fixes them.

        Raises:
            UserError: wrong data.
        """
        names = self.classes.given
        if names is None and self.classes.fixed is None:
            names = self.names_of(self.train_split)
        return self.read_split("Eval", names)

    def split(self, name: str) -> T:
        """The split 'Train' or 'Eval'."""
        return self.train_split if name == "Train" else self.eval_split

    def splits_read(self) -> list[T]:
        """The splits that have been read by now, the training split first."""
        return [vars(self)[name] for name in ("train_split", "eval_split") if name in vars(self)]

    def image_paths(self, split: str) -> Sequence[str]:
        """Every image file of the split 'Train' or 'Eval'."""
        return self.paths_of(self.split(split))

    @functools.cached_property
    def eval_loader(self) -> Loader:
        """Batches to evaluate on, in order, none dropped."""
        return self.make_eval_loader()

    @abc.abstractmethod
    def make_eval_loader(self) -> Loader:
        """Make the loader that `eval_loader` keeps. Raises UserError for wrong data."""

    def rooted(self, path: str) -> Path:
        """A path of the config: relative to `Global.data_root`, where that is given."""
        return Path(self.global_section.data_root or "", path)

    def root(self) -> Path:
        """`Global.data_root`. Raises UserError if it is not given or no folder."""
        if self.global_section.data_root is None:
            raise UserError("Global.data_root is missing: say where the data are with -o Global.data_root=FOLDER")
        root = Path(self.global_section.data_root)
        if not root.is_dir():
            raise UserError(f"Global.data_root {root}: no such folder")
        return root

    def saved_names(self) -> Names | None:
        """The class names in the run folder that the config lies in, if it does."""
        file = self.config.path.parent / LABELS
        if not in_run_folder(self.config.path) or not file.is_file():
            return None
        return Names(read_labels(file), f"the run folder's {LABELS}")
