"""The segmentation task: PaddleSeg's DeepLabV3+ and losses on our backbones; our data, evaluation and inference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ppcls_ext.core import distributed
from ppcls_ext.core.config import Config, parse
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.step import Step
from ppcls_ext.data.faults import DataReport
from ppcls_ext.data.lists import read_class_names
from ppcls_ext.data.loader import Loader
from ppcls_ext.models.spec import LARGEST_STRIDE
from ppcls_ext.models.weights import read_weights
from ppcls_ext.tasks.deployment import Deployment, Input
from ppcls_ext.tasks.splits import SPLIT_NAMES, by_split, parse_splits
from ppcls_ext.tasks.task import Task
from seg import cityscapes
from seg.checks import report_on
from seg.colours import palette
from seg.dataset import SegmentationDataset, collate
from seg.inference import EvaluatedNetwork, ExportedNetwork, SegmentationInference, difference, sample_inputs
from seg.masks import Rules, check_pairs, count_classes
from seg.metrics import METRICS, PixelConfusion, write_report
from seg.network import aspp_ratios, build_losses, build_network, is_whole, load_backbone, load_whole
from seg.sections import (
    IGNORE,
    ArchSection,
    EvalSection,
    ExportSection,
    InferSection,
    LoaderSection,
    MasksSection,
    NormalizeSection,
)
from seg.splits import PairList, find_cityscapes, find_pairs, read_pairs

# Largest share of pixels (or, of logits, relative difference) by which an export may differ from dygraph.
TOLERANCE = 1e-3


class Segmentation(Task):
    """See `Task`. Metrics: `mIoU`, `mDice`, `accuracy`, `mAccuracy`, as fractions."""

    name = "segmentation"
    sections = (
        "Global", "Arch", "Loss", "Optimizer", "AMP", "EMA", "DataLoader", "Masks", "Normalize", "Eval", "Infer",
        "Export", "Expect",
    )  # fmt: skip
    primary = "mIoU"
    metric_names = METRICS
    inference = SegmentationInference

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._loaders = parse_splits(config, LoaderSection)
        self._losses = by_split(config, "Loss")
        self.arch = parse(ArchSection, config.get("Arch"), "Arch")
        self.masks = parse(MasksSection, config.get("Masks"), "Masks")
        self.normalization = parse(NormalizeSection, config.get("Normalize"), "Normalize")
        self.eval = parse(EvalSection, config.get("Eval"), "Eval")
        self.infer = parse(InferSection, config.get("Infer"), "Infer")
        self.export = parse(ExportSection, config.get("Export"), "Export")
        if isinstance(self.arch.class_num, int) and not 2 <= self.arch.class_num < IGNORE:
            raise UserError(f"Arch.class_num: {self.arch.class_num} is not between 2 and {IGNORE - 1}")
        if self.export.size is not None and any(side % LARGEST_STRIDE for side in self.export.size):
            raise UserError(f"Export.size: sides must be multiples of {LARGEST_STRIDE}, got {list(self.export.size)}")
        if self.eval.mode == "sliding" and self.eval.stride is not None:
            window = self.eval.window or self.crop
            if any(s > w for s, w in zip(self.eval.stride, window, strict=True)):
                raise UserError(f"Eval.stride: {self.eval.stride} is more than the window {window}: it skips pixels")

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of training samples, and of evaluation windows where nothing else is said."""
        return self.run.image_shape[1], self.run.image_shape[2]

    @property
    def aspp_ratios(self) -> tuple[int, ...]:
        """Dilations of the network's ASPP; a run folder's config has them, so that they do not go with its crop."""
        return self.arch.aspp_ratios or aspp_ratios(self.crop, self.arch.output_stride)

    # Data

    def _read_split(self, split: str) -> PairList:
        dataset = self._loaders[split].dataset
        if dataset.name == "MaskList":
            if dataset.list_path is None:
                raise UserError(f"DataLoader.{split}.dataset.list_path is missing")
            list_path = self.rooted(dataset.list_path)
            root = list_path.parent if dataset.image_root is None else self.rooted(dataset.image_root)
            return read_pairs(list_path, root, dataset.delimiter)
        root = self.data_root()
        if dataset.name == "Cityscapes":
            return find_cityscapes(root, SPLIT_NAMES[split])
        return find_pairs(root, SPLIT_NAMES[split], dataset.val_fraction, dataset.delimiter)

    @functools.cached_property
    def train_pairs(self) -> PairList:
        return self._read_split("Train")

    @functools.cached_property
    def eval_pairs(self) -> PairList:
        return self._read_split("Eval")

    def _pairs(self, split: str) -> PairList:
        return self.train_pairs if split == "Train" else self.eval_pairs

    def _rules(self, pairs: PairList, class_num: int | None) -> Rules:
        return Rules(class_num, self.masks.ignore_index, self.masks.values or pairs.values)

    @functools.cached_property
    def _given_names(self) -> tuple[str, ...] | None:
        """Class names of the config, or of the run folder that it lies in."""
        if self.masks.class_names is not None:
            return read_class_names(self.rooted(self.masks.class_names))
        return self.saved_labels()

    @functools.cached_property
    def class_num(self) -> int:
        """By the config, else by the names that are given or lie beside the data, else by the training masks."""
        if isinstance(self.arch.class_num, int):
            return self.arch.class_num
        names = self._given_names or self.train_pairs.class_names
        if names is not None:
            return len(names)
        return count_classes(self.train_pairs, self._rules(self.train_pairs, None))

    def labels(self) -> tuple[str, ...]:
        names, source = self._given_names, self.masks.class_names or "the run folder's labels.txt"
        if names is None and "Train" in self._loaders and self._data_at_hand():
            names, source = self.train_pairs.class_names, "the file of class names beside the data"
        if names is None:
            return tuple(map(str, range(self.class_num)))
        if len(names) != self.class_num:
            raise UserError(f"Arch.class_num is {self.class_num}, but {source} names {len(names)} classes")
        return names

    def _data_at_hand(self) -> bool:
        """Whether names can come from the data: weights are exported where there are none, too."""
        dataset = self._loaders["Train"].dataset
        if dataset.name == "MaskList":
            return dataset.list_path is not None and self.rooted(dataset.list_path).is_file()
        return self.run.data_root is not None and Path(self.run.data_root).is_dir()

    def colours(self) -> list[tuple[int, int, int]]:
        return cityscapes.COLOURS if self.labels() == cityscapes.NAMES else palette(self.class_num)

    def _loader(self, split: str) -> Loader:
        section, pairs = self._loaders[split], self._pairs(split)
        rules = self._rules(pairs, self.class_num)
        sampler = section.sampler
        if split == "Train":
            augment = section.dataset.augment
            dataset = SegmentationDataset(pairs, rules, self.normalization, self.run.seed, augment, self.crop)
        else:
            dataset = SegmentationDataset(pairs, rules, self.normalization, self.run.seed)
            sampler = sampler.in_order()
        # Images are checked by the core before training; this is for what only masks can have wrong.
        check_pairs(pairs, rules, self.run.check_seconds / 4, self.run.seed)
        return Loader(dataset, sampler, section.loader, collate, self.run.seed)

    def train_loader(self) -> Loader:
        _ = self._train_losses  # a wrong Loss section is reported before any work begins
        return self._loader("Train")

    @functools.cached_property
    def _eval_loader(self) -> Loader:
        return self._loader("Eval")

    def eval_loader(self) -> Loader:
        return self._eval_loader

    def image_paths(self, split: str) -> Sequence[str]:
        return self._pairs(split).images

    def check_data(self) -> DataReport:
        splits: dict[str, PairList] = {}
        faults = []
        for split in self._loaders:
            try:
                splits[split] = self._pairs(split)
            except UserError as error:
                faults.append(str(error))
        try:
            names, colours = self.labels(), self.colours()
        except UserError as error:  # without a number of classes nothing else can be said about masks
            report = DataReport()
            for text in [*faults, *([] if str(error) in faults else [str(error)])]:
                report.error(text)
            return report
        rules = {split: self._rules(pairs, self.class_num) for split, pairs in splits.items()}
        report = report_on(splits, rules, names, colours, self.run.seed)
        report.errors[:0] = faults
        return report

    # Model and losses

    def build_model(self) -> nn.Layer:
        return build_network(self.arch, self.class_num, self.aspp_ratios)

    def load_pretrained(self, model: nn.Layer, path: str) -> list[str]:
        """A segmentation network's weights, or those of a classification network (or a detector) for the backbone."""
        weights = read_weights(path)
        if is_whole(weights):
            fresh = load_whole(model, weights, path, self.run.new_head)
            return [f"weights from {path}" + ("; new last layer" if fresh else "")]
        load_backbone(model, weights, path)
        return [f"backbone from {path}; the head starts anew"]

    def load_trained(self, model: nn.Layer, path: str) -> list[str]:
        weights = read_weights(path)
        if not is_whole(weights):
            raise UserError(
                f"weights {path}: they are not a segmentation network's; train from them first, "
                "with -o Global.pretrained_model=FILE"
            )
        load_whole(model, weights, path, new_head=False)
        return [f"weights from {path}"]

    @functools.cached_property
    def _train_losses(self) -> list[tuple[str, float, Callable[..., paddle.Tensor]]]:
        return build_losses(self._losses.get("Train"), "Loss.Train")

    def step(self, model: nn.Layer, batch: Sequence[paddle.Tensor]) -> Step:
        images, masks = batch
        labels = masks.astype("int64")
        (logits,) = model(images)
        losses = {name: coefficient * loss(logits, labels) for name, coefficient, loss in self._train_losses}
        losses["loss"] = functools.reduce(lambda a, b: a + b, losses.values())
        with paddle.no_grad():
            counted = labels != IGNORE
            hit = (logits.argmax(1) == labels).logical_and(counted).astype("float32").sum()
            pixels = counted.astype("float32").sum()
            accuracy = hit / pixels.clip(min=1.0)
        return Step(losses, {"accuracy": accuracy}, len(images), weight=pixels)

    # Evaluation

    def evaluate(self, model: nn.Layer, advance: Callable[[int], None], folder: Path | None) -> dict[str, float]:
        network = EvaluatedNetwork(model, self.eval, self.crop)
        network.eval()
        confusion = PixelConfusion(self.class_num)
        with paddle.no_grad():
            for images, masks in self.eval_loader().epoch():
                confusion.add(network(images).numpy(), masks.numpy())
                advance(len(images))
        confusion = PixelConfusion.total(distributed.gathered(confusion))
        if folder is not None:
            write_report(folder, confusion, self.labels(), len(self.eval_pairs))
        return confusion.metrics()

    # Config and deployment

    def resolved(self) -> Config:
        config = self.resolved_with(self.class_num, ("list_path", "image_root"))
        config["Arch"]["aspp_ratios"] = list(self.aspp_ratios)
        if self.run.data_root is None and self.masks.class_names:
            config["Masks"]["class_names"] = str(Path(self.masks.class_names).resolve())
        return config

    def notes(self) -> list[str]:
        if isinstance(self.arch.class_num, int):
            return []
        return [f"{self.class_num} classes found in {self.train_pairs.source}"]

    def deployment(self, model: nn.Layer) -> Deployment:
        export = self.export
        height, width = export.size or (-1, -1)
        recipe = {
            "preprocess": {
                "mean": list(self.normalization.mean),
                "std": list(self.normalization.std),
                "size": None if export.size is None else list(export.size),
                "max_side": self.infer.max_side,
                "multiple": LARGEST_STRIDE,
            },
            "postprocess": {"palette": [list(colour) for colour in self.colours()]},
            "labels": list(self.labels()),
        }

        def samples(count: int) -> list[np.ndarray]:
            return [sample_inputs(count, export.size)]

        deployment = Deployment(
            model=ExportedNetwork(model, export.argmax),
            inputs=[Input("x", (export.batch, 3, height, width), "float32")],
            outputs=["classes" if export.argmax else "logits"],
            recipe=recipe,
            samples=samples,
            compare=difference,
            tolerance=TOLERANCE,
        )
        if not export.argmax:
            return deployment
        return deployment._replace(also=deployment._replace(model=ExportedNetwork(model, argmax=False)))

    def drawn(self, model: nn.Layer) -> Deployment:
        exported = self.deployment(model)
        as_evaluated = {**exported.recipe["preprocess"], "size": None, "max_side": None, "multiple": 1}
        return exported._replace(
            model=EvaluatedNetwork(model, self.eval, self.crop),
            recipe={**exported.recipe, "preprocess": as_evaluated},
        )
