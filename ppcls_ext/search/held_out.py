"""Images held out from training for a search to judge networks by: those of the evaluation stay unseen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.reading import Unreadable, read_text
from ppcls_ext.core.seeding import derive
from ppcls_ext.data.lists import LARGEST_FILE
from ppcls_ext.tasks.task import Task

SHARE = 0.2  # so many of the training images of each class are held out
LEAST = 50  # images to judge by; of fewer, a network more right than another is chance
HELD_OUT = 1_301  # the stream of random numbers


def check_task(task: Task) -> None:
    """Raise UserError for another task than classification."""
    if task.name != "classification":
        raise UserError(
            f"Global.task: a search knows classification, not {task.name}; search on images with labels, and give what "
            "it finds as Arch.backbone"
        )


def hold_out(task: Task, folder: Path) -> list[str]:
    """Write lists of the images to fit to and to judge by; gives the overrides with which a config takes them.

    Of each class the same share is held out, by the seed of the config. Those to judge by are in a random order,
    since of many a judge takes the first ones alone.
    Raises:
        UserError: images without labels, or too few of them.
    """
    split = task.data.train_split
    labels = np.asarray(split.labels)
    if (labels < 0).any():
        raise UserError(f"{split.source}: a search needs a label for every image; some have none")
    seed = task.global_section.seed
    held = _held(labels, seed)
    if held.sum() < LEAST:
        raise UserError(
            f"{split.source}: {len(labels)} images are too few for a search, which holds out {SHARE:.0%} of each class "
            f"and needs {LEAST} of them; take a scale that fits by pplcnet advise"
        )
    to_judge_by = np.random.default_rng(derive(seed, HELD_OUT)).permutation(np.flatnonzero(held))
    root = Path("/")
    names = folder / "classes.txt"
    atomic_write_text(names, "".join(f"{name}\n" for name in split.class_names))
    given = [f"DataLoader.{part}.dataset.class_names={json.dumps(str(names.resolve()))}" for part in ("Train", "Eval")]
    for part, chosen in (("Train", np.flatnonzero(~held)), ("Eval", to_judge_by)):
        file = folder / f"{part.lower()}_list.txt"
        paths = [Path(split.paths[k]).resolve().relative_to(root) for k in chosen]
        lines = [f"{path} {label}\n" for path, label in zip(paths, labels[chosen], strict=True)]
        atomic_write_text(file, "".join(lines))
        where = f"DataLoader.{part}.dataset"
        given += [
            f"{where}.name=ImageNetDataset",
            f"{where}.image_root={root}",
            f"{where}.cls_label_path={json.dumps(str(file.resolve()))}",
            f"{where}.delimiter=null",
        ]
    return given


def check_unseen(supernet: Path, folder: Path) -> None:
    """Raise UserError where the supernet in one search's folder was trained on images that another's would judge by."""
    file = supernet / "train_list.txt"
    try:
        trained = set(read_text(file, LARGEST_FILE).splitlines())
    except Unreadable as error:
        raise UserError(f"--supernet {supernet}: {file.name}: {error}; give the folder of a search") from error
    judged_by = set(read_text(folder / "eval_list.txt", LARGEST_FILE).splitlines())
    if trained & judged_by:
        raise UserError(
            f"--supernet {supernet}: it was trained on {len(trained & judged_by)} of the images that this search would "
            "judge by; give the data and the Global.seed of that search"
        )


def _held(labels: Sequence[int] | np.ndarray, seed: int) -> np.ndarray:
    """Which images are held out, bool."""
    labels, held = np.asarray(labels), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = np.random.default_rng(derive(seed, HELD_OUT, int(label))).permutation(np.flatnonzero(labels == label))
        held[own[: int(SHARE * len(own))]] = True
    return held
