"""Images held out from training for a search to judge networks by: those of the evaluation stay unseen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.reading import Unreadable, read_text
from ppcls_ext.core.seeding import derive
from ppcls_ext.core.text import fault_of_name, one_line
from ppcls_ext.data.lists import LARGEST_FILE
from ppcls_ext.tasks.task import Task

SHARE = 0.2  # so many of the training images of each class are held out, rounded down, but one of two to four
LEAST = 50  # images to judge by; of fewer, a network more right than another is chance
HELD_OUT = 1_301  # the stream of random numbers
TRAIN_LIST, EVAL_LIST = "train_list.txt", "eval_list.txt"  # of the images to fit to, and to judge by


def check_task(task: Task) -> None:
    """Raise UserError for another task than classification."""
    if task.name != "classification":
        raise UserError(
            f"Global.task: a search knows classification, not {task.name}; search on images with labels, and give what "
            "it finds as Arch.backbone"
        )


@dataclass(frozen=True)
class HeldOut:
    """The lists of images to fit to and to judge by; nothing is written before `write`.

    Attributes:
        texts: what each list holds, by its file.
        overrides: with which a config takes the lists.
    """

    texts: Mapping[Path, str]
    overrides: Sequence[str]

    def check_same(self) -> None:
        """Raise UserError where the files are there with other images: what was trained on those is of no use."""
        for file, text in self.texts.items():
            try:
                earlier = read_text(file, LARGEST_FILE) if file.exists() else text
            except Unreadable as error:
                raise UserError(f"{file}: {error}; give another --out") from error
            if earlier != text:
                raise UserError(
                    f"{file}: it is of a search on other images, or another part of them; give another --out, or "
                    "remove that folder"
                )

    def write(self) -> None:
        """Write the lists."""
        for file, text in self.texts.items():
            atomic_write_text(file, text)

    def check_supernet(self, folder: Path) -> None:
        """Raise UserError where another search's supernet was not trained on exactly the images to fit to.

        One that has seen images to judge by overrates what it gives for them; one with other classes, or other numbers
        of them, takes each for another.
        """
        for file, text in self.texts.items():
            try:
                earlier = read_text(folder / file.name, LARGEST_FILE)
            except Unreadable as error:
                raise UserError(f"--supernet {folder}: {file.name}: {error}; give the folder of a search") from error
            if earlier != text:
                raise UserError(
                    f"--supernet {folder}: {file.name} differs, so it was trained on other images than this search "
                    "would fit to; give the data and the Global.seed of that search, or leave --supernet out"
                )


def hold_out(task: Task, folder: Path) -> HeldOut:
    """Lists of the images to fit to and to judge by, for a folder.

    Of each class the same share is held out, by the seed of the config. An image that is listed more than once judges
    once, or is fitted to as often as it is listed. Those to judge by are in a random order, since of many a judge takes
    the first ones alone.
    Raises:
        UserError: images without labels, too few of them, or one whose path no list can hold.
    """
    split = task.data.train_split
    labels = np.asarray(split.labels)
    if (labels < 0).any():
        raise UserError(f"{split.source}: a search needs a label for every image; some have none")
    seed, root = task.global_section.seed, Path("/")
    paths = [Path(path).resolve().relative_to(root) for path in split.paths]
    for path in paths:
        fault = fault_of_name(str(path))
        if fault is not None:
            raise UserError(
                f"image {one_line(root / path)}: its path {fault}, but a search keeps lists of images, a line each; "
                "rename it"
            )
    first: dict[Path, int] = {}
    for number, path in enumerate(paths):
        first.setdefault(path, number)
    once = np.array(list(first.values()))
    to_judge_by = once[_held(labels[once], seed)]
    if len(to_judge_by) < LEAST:
        raise UserError(
            f"{split.source}: {len(once)} images are too few for a search, which holds out {SHARE:.0%} of each class "
            f"and needs {LEAST} of them; take a scale that fits by pplcnet advise"
        )
    held = {paths[k] for k in to_judge_by}
    to_fit_to = [k for k, path in enumerate(paths) if path not in held]
    to_judge_by = np.random.default_rng(derive(seed, HELD_OUT)).permutation(to_judge_by)
    names = folder / "classes.txt"
    texts = {names: "".join(f"{name}\n" for name in split.class_names)}
    given = [f"DataLoader.{part}.dataset.class_names={json.dumps(str(names.resolve()))}" for part in ("Train", "Eval")]
    for part, name, chosen in (("Train", TRAIN_LIST, to_fit_to), ("Eval", EVAL_LIST, to_judge_by)):
        file = folder / name
        texts[file] = "".join(f"{paths[k]} {labels[k]}\n" for k in chosen)
        where = f"DataLoader.{part}.dataset"
        given += [
            f"{where}.name=ImageNetDataset",
            f"{where}.image_root={root}",
            f"{where}.cls_label_path={json.dumps(str(file.resolve()))}",
            f"{where}.delimiter=null",
        ]
    return HeldOut(texts, given)


def _held(labels: Sequence[int] | np.ndarray, seed: int) -> np.ndarray:
    """Which images are held out, bool."""
    labels, held = np.asarray(labels), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = np.random.default_rng(derive(seed, HELD_OUT, int(label))).permutation(np.flatnonzero(labels == label))
        held[own[: max(int(SHARE * len(own)), min(1, len(own) - 1))]] = True
    return held
