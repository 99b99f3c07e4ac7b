"""What goes around an exported network: from an image to arrays, from arrays to a result. And finding it for a task."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.registry import accepted_keys, load_announced
from ppcls_ext.runtime.checks import shown
from ppcls_ext.runtime.results import Result
from ppcls_ext.runtime.sources import Size

ENTRY_POINTS = "pplcnet.inference"


class Inference(abc.ABC):
    """What goes around an exported network: from an image to arrays, from arrays to a result.

    Built from `inference.yml` alone, so it works where neither the config nor the training data are. The recipe may
    come from anywhere: a constructor checks what it reads of `preprocess` and `postprocess`. Threads may share one:
    methods change nothing in it.
    """

    columns: ClassVar[tuple[str, ...]]  # names of the columns of `Result.rows`
    column_types: ClassVar[tuple[type, ...]]  # str, int or float, of each
    forms: ClassVar[tuple[str, ...]] = ("table", "json", "csv", "jsonl", "parquet")  # what `infer --format` may be
    result_type: ClassVar[type[Result]]
    labels: Sequence[str]
    palette: Sequence[Sequence[int]] = ()  # the RGB colour of each class, where results have a map of classes

    @abc.abstractmethod
    def __init__(self, recipe: Mapping[str, Any]) -> None:
        """Further keyword arguments of a task's own are flags of `infer` (`--topk`, `--threshold`).

        Raises UserError for a recipe that is not as export writes it.
        """

    def resized(self, size: Size) -> Size | None:
        """Width and height to which `prepare` resizes an image of this width and height before it does anything else.
        None: it begins with something else, so the image must be there in full.
        """
        return None

    @abc.abstractmethod
    def prepare(self, image: np.ndarray, size: Size | None = None) -> list[np.ndarray]:
        """The network's inputs, without the batch axis.

        Args:
            image: uint8 RGB [H, W, 3]; decoded at reduced scale, where `resized` allows that.
            size: width and height of the whole image; None: it is the whole one.
        """

    def split(self, outputs: Sequence[np.ndarray], images: int) -> list[list[np.ndarray]]:
        """The outputs of a batch as one list for each image, without the batch axis."""
        return [[output[k] for output in outputs] for k in range(images)]

    @abc.abstractmethod
    def check_outputs(self, outputs: Sequence[np.ndarray]) -> None:
        """Raise UserError if outputs of a batch cannot be of this recipe: another number of classes than labels."""

    @abc.abstractmethod
    def difference(self, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
        """How far the outputs of a batch are from those expected, on the scale of the tolerance that export records."""

    @abc.abstractmethod
    def result(self, outputs: Sequence[np.ndarray], *, size: Size, **about: Any) -> Result:
        """The result for one image from its outputs, without the batch axis.

        Args:
            size: width and height of the whole image.
            about: further fields of `Result`, which it carries along.
        """

    def document(self, form: str, results: Sequence[Result]) -> Any:
        """All results as one JSON-able document, of one of `forms`."""
        return [{"image": result.source, **result.content()} for result in results]


def takes_pixels(preprocess: Mapping[str, Any]) -> bool:
    """Whether the network takes uint8 RGB [H, W, 3] and normalises in its graph, by the `preprocess` of a recipe.

    Raises:
        UserError: neither that nor float32, which exports of earlier versions do not mention.
    """
    kind = preprocess.get("input", "float32")
    if kind not in ("float32", "uint8"):
        raise UserError(f"preprocess.input: expected float32 or uint8, got {shown(kind)}")
    return bool(kind == "uint8")


def labels_do_not_fit(labels: Sequence[str], classes: int) -> UserError:
    """What to raise where the network has another number of classes than there are labels."""
    return UserError(f"labels: {len(labels)} for a network of {classes} classes; export again")


def load_inference(task: str) -> type[Inference]:
    """What goes around the networks of a task, by the task's name. The package that announces it names the module;
    a recipe never does.

    Raises:
        UserError: no installed package announces it.
    """
    missing = f"task: no installed package runs task '{task}'"
    return load_announced(ENTRY_POINTS, task, Inference, missing)  # type: ignore[type-abstract]


def check_options(task: str, options: Iterable[str], named: str = "{}") -> None:
    """Raise UserError for an option that the task does not have.

    Args:
        options: names of keyword arguments of the task's own.
        named: what the caller's users call an option, with `{}` for its name, such as `--{}`.
    """
    known = accepted_keys(load_inference(task)) - {"recipe"}
    for name in options:
        if name not in known:
            has = f"; it has {', '.join(named.format(flag) for flag in sorted(known))}" if known else ""
            kind = "flag" if named.startswith("-") else "argument"
            raise UserError(f"{named.format(name)}: not a{'n' * (kind == 'argument')} {kind} of {task}{has}")


def build_inference(task: str, recipe: Mapping[str, Any], options: Mapping[str, Any]) -> Inference:
    """What goes around a network of a task, built from a recipe.

    Raises:
        UserError: an option that the task does not have, or a recipe that is not as export writes it.
    """
    check_options(task, options)
    return load_inference(task)(recipe, **options)
