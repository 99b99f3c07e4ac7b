"""What a task is. Each of the three is a package of its own, and announces its class by an entry point."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import paddle
from paddle import nn

from ppcls_ext.core.config import Config, check_sections
from ppcls_ext.core.device import kernel_threads
from ppcls_ext.core.expect import read_expected
from ppcls_ext.data.faults import DataReport
from ppcls_ext.data.loader import Loader
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.tasks.data import TaskData
from ppcls_ext.tasks.deployment import Deployment
from ppcls_ext.tasks.export import ExportedModel, ExportSection
from ppcls_ext.tasks.step import Step
from ppcls_ext.upstream.glibc import keep_freed_memory


class Task(abc.ABC):
    """One config, understood. Constructing a task checks its sections; data is read when first needed."""

    name: ClassVar[str]
    sections: ClassVar[tuple[str, ...]]  # top-level sections of its configs
    primary: ClassVar[str]  # the metric that the best checkpoint maximises
    inference: ClassVar[type[Inference]]
    public_needs_new_head: ClassVar[bool] = False  # whether public weights are of the whole network, with other classes
    metric_names: ClassVar[tuple[str, ...]]  # all that `evaluate` may give, and so all that `Expect` may name
    export: ExportSection

    data: TaskData[Any, Any]  # set by the constructor of each task

    def __init__(self, config: Config) -> None:
        check_sections(config, self.sections)
        read_expected(config.get("Expect"), self.metric_names)
        self.config = config
        self.global_section = config.global_section

    @abc.abstractmethod
    def train_loader(self) -> Loader:
        """Batches to train on. Raises UserError for wrong data."""

    def eval_loader(self) -> Loader:
        """Batches to evaluate on, in order, none dropped. Raises UserError for wrong data."""
        return self.data.eval_loader

    def image_paths(self, split: str) -> Sequence[str]:
        """Every image file of the split 'Train' or 'Eval', to be checked before training."""
        return self.data.image_paths(split)

    @property
    def class_num(self) -> int:
        """The number of classes, by the config, by given names, or by the data."""
        return self.data.classes.count

    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in order of their numbers."""
        return self.data.classes.names

    def set_length(self, epochs: int, eval_interval: int, save_interval: int) -> None:
        """Fix how long the run is; called before the network is built. `resolved` then states it.

        Args:
            eval_interval, save_interval: in epochs.
        """
        length = {"epochs": epochs, "eval_interval": eval_interval, "save_interval": save_interval}
        self.config["Global"].update(length, least_steps=None)
        self.global_section = self.config.global_section

    def public_weights(self) -> str | None:
        """The address of public weights that the network or its backbone can start from, if there are any."""
        return None

    @abc.abstractmethod
    def build_model(self) -> nn.Layer:
        """The network of the config with initial weights."""

    @property
    def is_fast(self) -> bool:
        """Whether networks run with what is ours to speed them up (`Global.fast_cpu`, on a CPU)."""
        return bool(self.global_section.fast_cpu and paddle.get_device() == "cpu")

    def made_fast(self, model: nn.Layer) -> nn.Layer:
        """A network that is trained or evaluated in this process: with our kernels, where it `is_fast`."""
        if self.is_fast:
            from ppcls_ext.models import kernels as cpu_kernels  # imported only here, since it loads a compiler

            cpu_kernels.speed_up(model, kernel_threads())
        return model

    def keep_memory(self) -> None:
        """Have memory that is freed from now on stay with the process, where it `is_fast`.

        Who trains calls it after the first step: what that step leaves for good (gradients, the optimizer's state)
        would else lie in the middle of what it frees, and the next steps' tensors would not fit between.
        """
        if self.is_fast:
            keep_freed_memory()

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

    @property
    @abc.abstractmethod
    def evaluated_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what `evaluate` gives the network; -1 where images may have any size."""

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

    @abc.abstractmethod
    def exported(self, model: ExportedModel) -> nn.Layer:
        """An exported model, as the network that `evaluate` takes: its result must be the exported model's."""

    def drawn(self, model: nn.Layer) -> Deployment:
        """What `eval --draw` runs; it gives the results that `evaluate` counts."""
        return self.deployment(model)

    def resolved_with(self, class_num: int, path_keys: Sequence[str]) -> Config:
        """A copy of the config with the class count, without starting weights, and with absolute data paths.

        Args:
            path_keys: keys of `DataLoader.<split>.dataset` that hold paths, where `Global.data_root` is not given.
        """
        config = copy.deepcopy(self.config)
        config.path = self.config.path
        config.setdefault("Arch", {})["class_num"] = class_num
        section = config["Global"]
        section["pretrained_model"] = None
        if section["data_root"] is not None:
            section["data_root"] = str(Path(section["data_root"]).resolve())
        else:
            for loader in (config.get("DataLoader") or {}).values():
                for key in path_keys:
                    if loader["dataset"].get(key):
                        loader["dataset"][key] = str(Path(loader["dataset"][key]).resolve())
        return config
