"""Knowledge distillation as SSLD does it: a student learns the soft outputs of a teacher, and needs no labels.

Source: Cui et al., "Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve
Backbones", 2021 (arXiv 2103.05959), and the public recipes of PaddleClas; the starred rows of the paper's Table 2.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import time
import tokenize
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import paddle
import pydantic
from paddle import nn
from paddle.nn import functional

from ppcls_ext.core.bounds import LARGEST_SEED, mapping
from ppcls_ext.core.config import BEST_WEIGHTS, LABELS, Section, in_run_folder, load_config
from ppcls_ext.core.display import bar, say
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text, regular_target
from ppcls_ext.core.reading import Unreadable, read_json
from ppcls_ext.core.system import NoLocks, lock, reserve
from ppcls_ext.data.lists import read_labels
from ppcls_ext.data.loader import Loader
from ppcls_ext.models.factory import build_arch
from ppcls_ext.models.weights import find_weights, head_names, load_into, read_weights
from ppcls_ext.runtime.choice import AUTO, FIRST

SAVE_SECONDS = 30.0  # between two notes of how far a cache is filled: what a kill can cost


def _engine_of_earlier_configs(engine: object) -> object:
    return FIRST if engine == AUTO else engine


class DistillSection(Section):
    """The `Distill` section.

    teacher: a run folder (its best weights), or an `Arch` section of any network with the path of its weights as
        `pretrained`. It has the student's classes, in the same order.
    divergence: `symmetric_kl`, half the sum of both Kullback-Leibler divergences, is what the public SSLD recipes
        compute and call JS divergence; `js` is the Jensen-Shannon divergence proper, whose gradients are smaller.
    ground_truth: weight of `Loss.Train` beside it. At 0, as in the public recipes, images need no label.
    cache: folder for the teacher's outputs, which are then computed once and shared by every student with the same
        images and transforms. Crops are then drawn from `crop_seed` instead of `Global.seed`, and those of
        `cache_epochs` epochs are repeated: float16 [cache_epochs, images, classes] on disk.
    engine: of the runtime, which runs the teacher on a CPU; `first` takes the first of
        `ppcls_ext.runtime.choice.PREFERRED` that gives what Paddle gives, `paddle` none.
    """

    teacher: str | dict[str, Any]
    divergence: Literal["symmetric_kl", "js"] = "symmetric_kl"
    weight: float = pydantic.Field(default=1.0, gt=0, le=1e4)
    ground_truth: float = pydantic.Field(default=0.0, ge=0, le=1e4)
    cache: str | None = None
    cache_epochs: int = pydantic.Field(default=1, ge=1, le=10_000)
    engine: Annotated[str, pydantic.BeforeValidator(_engine_of_earlier_configs)] = FIRST
    crop_seed: int = pydantic.Field(default=0, ge=0, le=LARGEST_SEED)


def symmetric_kl(student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    """(KL(p || q) + KL(q || p)) / 2 of the softmax of two logits float32 [N, C], as mean over N.

    Source: `DMLLoss` of PaddleClas's SSLD recipes. Written as (p - q)(log p - log q) it needs no epsilon.
    """
    log_p, log_q = functional.log_softmax(student), functional.log_softmax(teacher)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean() / 2


def jensen_shannon(student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    """(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, of the softmax of two logits float32 [N, C]; mean over N."""
    log_p, log_q = functional.log_softmax(student), functional.log_softmax(teacher)
    log_m = paddle.logsumexp(paddle.stack([log_p, log_q]), 0) - float(np.log(2))
    return (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1).mean() / 2


DIVERGENCES: dict[str, Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]] = {
    "symmetric_kl": symmetric_kl,
    "js": jensen_shannon,
}


class TeacherFiles(NamedTuple):
    """Where a teacher comes from."""

    arch: Mapping[str, Any]  # an `Arch` section without `pretrained` and `class_num`
    weights: Path
    labels: tuple[str, ...] | None  # class names of the teacher, where they are known


def find_teacher(teacher: str | Mapping[str, Any]) -> TeacherFiles:
    """What `Distill.teacher` names.

    Raises:
        UserError: no such run folder, no such weights, or weights that are not given.
    """
    if isinstance(teacher, str):
        folder = Path(teacher)
        if not in_run_folder(folder / "config.yaml") or not (folder / BEST_WEIGHTS).is_file():
            raise UserError(
                f"Distill.teacher {teacher}: not a run folder with {BEST_WEIGHTS}; for other weights give "
                "{name: NETWORK, pretrained: FILE}"
            )
        config = load_config(folder)
        if config.global_section.task != "classification":
            raise UserError(
                f"Distill.teacher {teacher}: a run of {config.global_section.task}; the teacher has to classify"
            )
        arch, weights = dict(mapping(config.get("Arch"), f"Distill.teacher {teacher}: Arch")), folder / BEST_WEIGHTS
        labels = read_labels(folder / LABELS)
        arch.pop("pretrained", None)
    else:
        arch = dict(teacher)
        given = arch.pop("pretrained", None)
        if not isinstance(given, str):
            raise UserError(
                "Distill.teacher.pretrained: give the path of the teacher's weights; untrained it teaches noise"
            )
        if not isinstance(arch.get("name"), str):
            raise UserError(
                "Distill.teacher.name is missing: say which network the weights are of, such as ResNet50_vd"
            )
        weights, labels = find_weights(given), None
    arch.pop("class_num", None)
    return TeacherFiles(arch, weights, labels)


class Teacher:
    """A trained network whose outputs a student learns. It is built when it is first asked."""

    def __init__(
        self,
        files: TeacherFiles,
        labels: Sequence[str],
        frozen: Callable[[nn.Layer], nn.Layer],
    ) -> None:
        """`frozen` makes the network fast, which is not trained any more."""
        self.files, self.class_num, self._frozen = files, len(labels), frozen
        numbers = tuple(map(str, range(len(labels))))  # the names of classes that have none
        if files.labels is not None and numbers not in (files.labels, tuple(labels)) and files.labels != tuple(labels):
            raise UserError(
                f"Distill.teacher {files.weights.parent}: its classes are {', '.join(files.labels[:5])} ..., those of "
                f"the data {', '.join(labels[:5])} ...; both need the same ones in the same order"
            )

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the weights file."""
        return hashlib.sha256(self.files.weights.read_bytes()).hexdigest()

    @functools.cached_property
    def model(self) -> nn.Layer:
        """The network with its weights, in eval mode. Raises UserError if they do not fit."""
        weights = read_weights(self.files.weights)
        with paddle.utils.unique_name.guard():  # does not count among the student's parameter names
            try:
                model = build_arch(self.files.arch, self.class_num)
            except UserError as error:
                raise UserError(f"Distill.teacher: {error}") from error
        for name in head_names(model):
            if name in weights and weights[name].ndim and weights[name].shape[-1] != self.class_num:
                raise UserError(
                    f"Distill.teacher {self.files.weights}: it has {weights[name].shape[-1]} classes, the student "
                    f"{self.class_num}; both need the same ones in the same order"
                )
        load_into(model, weights, f"of Distill.teacher {self.files.weights}")
        model.eval()
        return self._frozen(model)

    def logits(self, images: paddle.Tensor) -> paddle.Tensor:
        """float32 [N, C] for images float32 [N, 3, H, W], without gradient."""
        with paddle.no_grad():
            return self.model(images)

    def describe(self) -> str:
        """Its name and weights, for the user."""
        return f"{self.files.arch['name']}, {self.files.weights}"


class Cache:
    """A teacher's outputs on disk: `logits.npy`, float16 [epochs, images, classes], memory-mapped, and `key.json`.

    Of each image the largest logit is taken off, so that float16 is finest where the probability is.
    A sample is keyed by (crop epoch, index); the key file says of which images, transforms and teacher.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], shape: tuple[int, int, int]) -> None:
        self.folder, self.key, self.shape = folder, {**key, "shape": list(shape)}, shape
        self._file, self._key_file = folder / "logits.npy", folder / "key.json"
        self._logits: np.ndarray | None = None

    def _done(self) -> int:
        """How many images are filled, over all epochs. Raises UserError for a cache of something else."""
        if not self._key_file.is_file():
            return 0
        try:
            found = read_json(self._key_file)
        except Unreadable as error:
            raise UserError(f"Distill.cache {self.folder}: key.json is damaged ({error}); remove the folder") from error
        done = found.get("done") if isinstance(found, dict) else None
        if type(done) is not int or not 0 <= done <= self.shape[0] * self.shape[1]:
            raise UserError(f"Distill.cache {self.folder}: key.json is damaged; remove the folder")
        for name, value in self.key.items():
            if found.get(name) != value:
                raise UserError(
                    f"Distill.cache {self.folder}: made with another {name} ({found.get(name)!s:.80}, now "
                    f"{value!s:.80}); give another folder, or remove this one"
                )
        return done

    def _note(self, done: int) -> None:
        atomic_write_text(self._key_file, json.dumps({**self.key, "done": done}, indent=1) + "\n")

    def fill(self, teacher: Teacher, loader: Loader) -> None:
        """Compute what is missing. `loader` gives images, labels and sample keys in order of the index.

        One process fills at a time, others wait. Stopped at any moment, it goes on near there.
        Raises:
            UserError: a cache of another teacher, other images or other transforms; a folder that cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = open(regular_target(self.folder / "lock"), "w")  # noqa: SIM115  (closed below)
        except OSError as error:
            raise UserError(
                f"Distill.cache {self.folder}: cannot be written ({error.strerror}); give another folder"
            ) from error
        with held:
            try:
                lock(held)
            except NoLocks as error:
                say(f"Distill.cache {self.folder}: no lock there ({error.strerror}); let one run at a time fill it")
            self._fill(teacher, loader, self._done())

    def _fill(self, teacher: Teacher, loader: Loader, done: int) -> None:
        epochs, images, _ = self.shape
        if done == epochs * images:
            return
        _ = teacher.model  # wrong weights are found before a file is made
        logits = self._mapped("r+") if done else self._made()
        noted = time.monotonic()
        with bar(epochs * images, "teacher") as progress:
            progress.advance(done)
            try:
                for epoch in range(done // images, epochs):
                    for batch, _, keys in loader.epoch(epoch, skip=done % images // loader.sampler.batch_size):
                        output = teacher.logits(batch).numpy()
                        logits[epoch, keys.numpy()[:, 1]] = output - output.max(-1, keepdims=True)
                        reached = epoch * images + int(keys[-1, 1]) + 1
                        progress.advance(reached - done)
                        done = reached
                        if time.monotonic() - noted > SAVE_SECONDS:
                            logits.flush()
                            self._note(done)
                            noted = time.monotonic()
            finally:
                logits.flush()
                self._note(done)

    def _made(self) -> np.memmap[Any, Any]:
        """A file of the cache's size, whose space is taken at once: a full disk would end a process that writes to
        a mapped file without a word."""
        needed = 2 * math.prod(self.shape)
        self._key_file.unlink(missing_ok=True)
        try:
            logits = np.lib.format.open_memmap(regular_target(self._file), "w+", np.float16, self.shape)
            reserve(self._file)
        except OSError as error:
            self._file.unlink(missing_ok=True)
            raise UserError(
                f"Distill.cache {self.folder}: it needs {needed / 1e9:.1f} GB of free space ({error.strerror})"
            ) from error
        self._note(0)
        return logits

    def _mapped(self, mode: Literal["r", "r+"]) -> np.memmap[Any, Any]:
        """The file, whose size and type must be those that the key states."""
        try:
            logits = np.lib.format.open_memmap(self._file, mode)
        except (OSError, ValueError, SyntaxError, EOFError, tokenize.TokenError, OverflowError) as error:
            reason = " ".join(str(error).split())[:100]
            raise UserError(
                f"Distill.cache {self.folder}: logits.npy cannot be read ({reason}); remove the folder"
            ) from error
        if logits.shape != self.shape or logits.dtype != np.float16:
            raise UserError(f"Distill.cache {self.folder}: logits.npy is not the one of key.json; remove the folder")
        return logits

    def logits(self, keys: np.ndarray) -> np.ndarray:
        """float32 [N, C] for sample keys int64 [N, 3] (epoch, index, first of the batch)."""
        if self._logits is None:
            self._logits = self._mapped("r")
        return self._logits[keys[:, 0] % self.shape[0], keys[:, 1]].astype(np.float32)


def digest_of_paths(paths: Sequence[str]) -> str:
    """SHA-256 of the paths below their common folder, so that a list has the same one wherever its images lie."""
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return hashlib.sha256(os.fsencode("\n".join(os.path.relpath(path, root) for path in paths))).hexdigest()
