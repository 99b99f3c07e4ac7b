"""What the core asks of a task. Classification is in the core; the other tasks are packages that announce theirs."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import paddle
from paddle import nn

from ppcls_ext import upstream
from ppcls_ext.core.config import LABELS, Config, Section, check_sections, in_run_folder, mapping, parse
from ppcls_ext.core.device import kernel_threads
from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.expect import read_expected
from ppcls_ext.core.pictures import save_image
from ppcls_ext.data.faults import DataReport
from ppcls_ext.data.loader import Loader

ENTRY_POINTS = "pplcnet.tasks"
SPLIT_NAMES = {"Train": "train", "Eval": "val"}  # in configs, and in folders and files of data


class Step(NamedTuple):
    """What one forward pass in training gives.

    Attributes:
        losses: scalars; `loss` is the one to minimise.
        stats: means over the batch to show beside the losses, as scalars.
        images: how many images the batch had.
        weight: of how many things (images, pixels) losses and stats are means, so that several processes can be put
            together; default: of images. Where losses are already normalised over all processes it is 1.
    """

    losses: Mapping[str, paddle.Tensor]
    stats: Mapping[str, paddle.Tensor | float]
    images: int
    weight: paddle.Tensor | float | None = None


class Input(NamedTuple):
    """An input of an exported network; -1 in `shape` is any size."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Deployment(NamedTuple):
    """What export needs: a layer that does all of inference in the graph, and what goes around it.

    Attributes:
        model: in eval mode; takes `inputs` in order and returns a tensor or a list of tensors.
        inputs: of the exported graph.
        outputs: their names, in order.
        recipe: pre- and postprocessing and labels, as plain data for `inference.yml`.
        samples: `samples(n)` gives realistic inputs of batch n, one array for each of `inputs`.
        compare: measures how far outputs are from those of dygraph (same order, one list of arrays each);
            must be at most `tolerance`.
        tolerance: of `compare`, in words and number.
        also: another form of the same network on the same inputs, which is exported, checked and thrown away: where
            `model` hides most of what it computes, as a class map the logits, or gives nothing where nothing is found.
    """

    model: nn.Layer
    inputs: Sequence[Input]
    outputs: Sequence[str]
    recipe: Mapping[str, Any]
    samples: Callable[[int], list[np.ndarray]]
    compare: Callable[[list[np.ndarray], list[np.ndarray]], float]
    tolerance: float
    also: Deployment | None = None


class Inference(abc.ABC):
    """What goes around an exported network: from an image to arrays, from arrays to a result.

    Built from `inference.yml` alone, so it works where neither the config nor the training data are.
    """

    columns: ClassVar[tuple[str, ...]]  # of `rows`
    forms: ClassVar[tuple[str, ...]] = ("table", "json", "csv")  # what `infer --format` may be

    @abc.abstractmethod
    def __init__(self, recipe: Mapping[str, Any]) -> None:
        """Further keyword arguments of a task's own are flags of `infer` (`--topk`, `--threshold`)."""

    @abc.abstractmethod
    def prepare(self, image: np.ndarray) -> list[np.ndarray]:
        """The network's inputs, without the batch axis, for uint8 RGB [H, W, 3]."""

    def split(self, outputs: Sequence[np.ndarray], images: int) -> list[list[np.ndarray]]:
        """The outputs of a batch as one list for each image, without the batch axis."""
        return [[output[k] for output in outputs] for k in range(images)]

    @abc.abstractmethod
    def result(self, outputs: Sequence[np.ndarray], image: np.ndarray) -> dict[str, Any]:
        """The JSON-able result for one image from its outputs, without the batch axis."""

    @abc.abstractmethod
    def rows(self, result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The result as table rows."""

    @abc.abstractmethod
    def draw(self, image: np.ndarray, result: Mapping[str, Any]) -> np.ndarray:
        """A picture of the result, uint8 RGB."""

    def write(self, folder: Path, name: str, image: np.ndarray, result: Mapping[str, Any]) -> None:
        """Write the files that `infer --draw` leaves for an image."""
        save_image(folder / f"{name}.png", self.draw(image, result))

    def document(self, form: str, results: Sequence[Mapping[str, Any]]) -> Any:
        """All results as one JSON-able document; each has its file under `image`."""
        return list(results)


S = TypeVar("S", bound=Section)


class Splits(dict[str, S]):
    """The `DataLoader` section: a typed section for each split it has. One it does not have is a UserError."""

    def __missing__(self, split: str) -> S:
        raise UserError(f"DataLoader.{split} is missing")


def parse_splits(config: Config, kind: type[S]) -> Splits[S]:
    """The `DataLoader` section as a typed section for each split.

    Raises:
        UserError: an unknown split, or what `parse` raises.
    """
    loaders = by_split(config, "DataLoader")
    return Splits({name: parse(kind, values, f"DataLoader.{name}") for name, values in loaders.items()})


def by_split(config: Config, section: str) -> Mapping[str, Any]:
    """A section whose keys are splits. Raises UserError for another key."""
    values = mapping(config.get(section), section)
    for name in values:
        if name not in SPLIT_NAMES:
            raise UserError(f"{section}.{name}: unknown split; {nearest(name, SPLIT_NAMES)}")
    return values


def check_class_count(given: int | None, found: int, source: object) -> None:
    """Raise UserError if `Arch.class_num` is a number other than that of the classes in the data."""
    if given is not None and given != found:
        raise UserError(
            f"Arch.class_num is {given}, but {source} has {found} classes; "
            "-o Arch.class_num=auto takes the number from the data"
        )


class Task(abc.ABC):
    """One config, understood. Constructing a task checks its sections; data is read when first needed."""

    name: ClassVar[str]
    sections: ClassVar[tuple[str, ...]]  # top-level sections of its configs
    primary: ClassVar[str]  # the metric that the best checkpoint maximises
    inference: ClassVar[type[Inference]]
    metric_names: ClassVar[tuple[str, ...]]  # all that `evaluate` may give, and so all that `Expect` may name

    def __init__(self, config: Config) -> None:
        check_sections(config, self.sections)
        read_expected(config.get("Expect"), self.metric_names)
        self.config = config
        self.run = config.run

    @abc.abstractmethod
    def train_loader(self) -> Loader:
        """Batches to train on. Raises UserError for wrong data."""

    @abc.abstractmethod
    def eval_loader(self) -> Loader:
        """Batches to evaluate on, in order, none dropped. Raises UserError for wrong data."""

    @abc.abstractmethod
    def image_paths(self, split: str) -> Sequence[str]:
        """Every image file of the split 'Train' or 'Eval', to be checked before training."""

    @abc.abstractmethod
    def build_model(self) -> nn.Layer:
        """The network of the config with initial weights."""

    def made_fast(self, model: nn.Layer) -> nn.Layer:
        """A network that is trained or evaluated in this process: on a CPU with our kernels (`Global.fast_cpu`)."""
        if self.run.fast_cpu and paddle.get_device() == "cpu":
            from ppcls_ext.models import kernels as cpu_kernels  # where it is needed: it loads a compiler

            upstream.keep_freed_memory()
            cpu_kernels.speed_up(model, kernel_threads())
        return model

    @abc.abstractmethod
    def load_pretrained(self, model: nn.Layer, path: str) -> list[str]:
        """Load `Global.pretrained_model`; returns notes on what it left out. Raises UserError if it does not fit."""

    def load_trained(self, model: nn.Layer, path: str) -> list[str]:
        """The same for weights to evaluate or export; a task that can also start from a trunk refuses one here."""
        return self.load_pretrained(model, path)

    def prepare(self) -> None:  # noqa: B027  (most tasks have nothing to do)
        """What has to be done once between checking the data and the first step."""

    def fingerprint(self) -> dict[str, Any]:
        """JSON-able values of a task's own that an exact resume must find again."""
        return {}

    @abc.abstractmethod
    def step(self, model: nn.Layer, batch: Sequence[paddle.Tensor]) -> Step:
        """Forward pass and losses of one training batch."""

    @abc.abstractmethod
    def evaluate(self, model: nn.Layer, advance: Callable[[int], None], folder: Path | None) -> dict[str, float]:
        """Metrics of `model` on the evaluation split.

        Args:
            advance: called with the number of images after each batch.
            folder: where to write the report (see `ppcls_ext.tasks.eval_report`); None writes nothing.
        """

    @abc.abstractmethod
    def check_data(self) -> DataReport:
        """Look through both splits for everything that is wrong with them, not only the first fault."""

    @abc.abstractmethod
    def resolved(self) -> Config:
        """The config with everything that was found from the data filled in, and paths made absolute."""

    @abc.abstractmethod
    def notes(self) -> list[str]:
        """What was decided for the user (class count, learning rate), a line each."""

    @abc.abstractmethod
    def deployment(self, model: nn.Layer) -> Deployment:
        """How to export `model`, by the `Export` section."""

    def drawn(self, model: nn.Layer) -> Deployment:
        """What `eval --draw` runs; it gives the results that `evaluate` counts."""
        return self.deployment(model)

    @abc.abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in order of their numbers."""

    def rooted(self, path: str) -> Path:
        """A path of the config: relative to `Global.data_root`, where that is given."""
        return Path(self.run.data_root or "", path)

    def data_root(self) -> Path:
        """`Global.data_root`. Raises UserError if it is not given or no folder."""
        if self.run.data_root is None:
            raise UserError("Global.data_root is missing: say where the data are with -o Global.data_root=FOLDER")
        root = Path(self.run.data_root)
        if not root.is_dir():
            raise UserError(f"Global.data_root {root}: no such folder")
        return root

    def resolved_with(self, class_num: int, path_keys: Sequence[str]) -> Config:
        """A copy of the config with the class count, without starting weights, and with absolute data paths.

        Args:
            path_keys: keys of `DataLoader.<split>.dataset` that hold paths, where `Global.data_root` is not given.
        """
        config = copy.deepcopy(self.config)
        config.path = self.config.path
        config.setdefault("Arch", {})["class_num"] = class_num
        run = config["Global"]
        run["pretrained_model"] = None
        if run["data_root"] is not None:
            run["data_root"] = str(Path(run["data_root"]).resolve())
        else:
            for loader in (config.get("DataLoader") or {}).values():
                for key in path_keys:
                    if loader["dataset"].get(key):
                        loader["dataset"][key] = str(Path(loader["dataset"][key]).resolve())
        return config

    def saved_labels(self) -> tuple[str, ...] | None:
        """The class names in the run folder that the config lies in, if it does."""
        file = self.config.path.parent / LABELS
        if not in_run_folder(self.config.path) or not file.is_file():
            return None
        return tuple(file.read_text(encoding="utf-8").splitlines())


def load_task(name: str) -> type[Task]:
    """The class of the task that a config names in `Global.task`.

    Raises:
        UserError: no installed package announces it.
    """
    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        raise UserError(f"Global.task: no task '{name}'; {nearest(name, found)}")
    task = found[name].load()
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise TypeError(f"entry point {ENTRY_POINTS}:{name} gives {task!r}, not a Task")
    return task


def make_task(config: Config) -> Task:
    return load_task(config.run.task)(config)
