"""The segmentation task: PaddleSeg's DeepLabV3+ and losses on our backbones; our data, evaluation and inference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from typing_extensions import override

from ppcls_ext.core import distributed
from ppcls_ext.core.config import Config, parse
from ppcls_ext.core.errors import UserError
from ppcls_ext.data.faults import DataReport
from ppcls_ext.data.loader import Loader
from ppcls_ext.models.network_spec import LARGEST_STRIDE
from ppcls_ext.models.weights import read_weights
from ppcls_ext.tasks.deployment import Deployment, Input, from_pixels
from ppcls_ext.tasks.export import ExportedModel
from ppcls_ext.tasks.splits import by_split
from ppcls_ext.tasks.step import Step
from ppcls_ext.tasks.task import Task
from ppcls_ext.upstream.paddleclas import public_backbone
from seg.checks import check_data
from seg.data import SegmentationData
from seg.deployment import EvaluatedNetwork, ExportedNetwork, sample_inputs
from seg.inference import SegmentationInference, output_difference
from seg.metrics import METRICS, PixelConfusion, write_report
from seg.network import ExportedLogits, aspp_ratios, build_losses, build_network, is_whole, load_backbone, load_whole
from seg.sections import (
    IGNORE,
    ArchSection,
    EvalSection,
    ExportSection,
    InferSection,
    MasksSection,
    NormalizeSection,
)

# Largest share of pixels (or, of logits, relative difference) by which an export may differ from dygraph.
PARITY_TOLERANCE = 1e-3


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
    export: ExportSection
    data: SegmentationData

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._losses = by_split(config, "Loss")
        self.arch = parse(ArchSection, config.get("Arch"), "Arch")
        self.masks = parse(MasksSection, config.get("Masks"), "Masks")
        self.normalization = parse(NormalizeSection, config.get("Normalize"), "Normalize")
        self.data = SegmentationData(config, self.arch, self.masks, self.normalization)
        self.eval = parse(EvalSection, config.get("Eval"), "Eval")
        self.infer = parse(InferSection, config.get("Infer"), "Infer")
        self.export = parse(ExportSection, config.get("Export"), "Export")
        if isinstance(self.arch.class_num, int) and not 2 <= self.arch.class_num < IGNORE:
            raise UserError(f"Arch.class_num: {self.arch.class_num} is not between 2 and {IGNORE - 1}")
        if self.export.size is not None and any(side % LARGEST_STRIDE for side in self.export.size):
            raise UserError(f"Export.size: sides must be multiples of {LARGEST_STRIDE}, got {list(self.export.size)}")
        if self.export.input == "uint8" and self.export.size is None:
            raise UserError("Export.input: uint8 needs Export.size: free sizes are padded once they are normalised")
        if self.eval.mode == "sliding" and self.eval.stride is not None:
            window = self.eval.window or self.crop
            if any(s > w for s, w in zip(self.eval.stride, window, strict=True)):
                raise UserError(f"Eval.stride: {self.eval.stride} is more than the window {window}: it skips pixels")

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of training samples, and of evaluation windows where nothing else is said."""
        return self.data.crop

    @property
    def aspp_ratios(self) -> tuple[int, ...]:
        """Dilations of the network's ASPP; a run folder's config has them, so that they do not go with its crop."""
        return self.arch.aspp_ratios or aspp_ratios(self.crop, self.arch.output_stride)

    # Data

    @override
    def train_loader(self) -> Loader:
        _ = self._train_losses  # a wrong Loss section is reported before any work begins
        return self.data.make_loader("Train")

    @override
    def check_data(self) -> DataReport:
        return check_data(self.data)

    # Model and losses

    @override
    def build_model(self) -> nn.Layer:
        return build_network(self.arch, self.class_num, self.aspp_ratios)

    @override
    def public_weights(self) -> str | None:
        return public_backbone(self.arch.backbone)

    @override
    def load_pretrained(self, model: nn.Layer, path: str) -> list[str]:
        """A segmentation network's weights, or those of a classification network (or a detector) for the backbone."""
        weights = read_weights(path)
        if is_whole(weights):
            fresh = load_whole(model, weights, path, self.global_section.new_head)
            return [f"weights from {path}" + ("; new last layer" if fresh else "")]
        load_backbone(model, weights, path)
        return [f"backbone from {path}; the head starts anew"]

    @override
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

    @override
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

    @override
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
            write_report(folder, confusion, self.labels(), len(self.data.eval_split))
        return confusion.metrics()

    @property
    @override
    def evaluated_shape(self) -> tuple[int, int, int]:
        return 3, -1, -1

    # Config and deployment

    @override
    def resolved(self) -> Config:
        config = self.resolved_with(self.class_num, ("list_path", "image_root"))
        config["Arch"]["aspp_ratios"] = list(self.aspp_ratios)
        if self.global_section.data_root is None and self.masks.class_names:
            config["Masks"]["class_names"] = str(Path(self.masks.class_names).resolve())
        return config

    @override
    def notes(self) -> list[str]:
        if self.data.classes.fixed is not None:
            return []
        return [f"{self.class_num} classes found in {self.data.train_split.source}"]

    @override
    def deployment(self, model: nn.Layer) -> Deployment:
        deployment = self._of_floats(model)
        if self.export.input == "float32":
            return deployment
        return from_pixels(deployment, self.normalization.mean, self.normalization.std)

    def _of_floats(self, model: nn.Layer) -> Deployment:
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
            "postprocess": {"palette": [list(colour) for colour in self.data.colours()]},
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
            difference=output_difference,
            tolerance=PARITY_TOLERANCE,
        )
        if export.argmax:
            deployment = deployment._replace(also=deployment._replace(model=ExportedNetwork(model, argmax=False)))
        return deployment

    @override
    def exported(self, model: ExportedModel) -> nn.Layer:
        if self.export.size is not None:
            raise UserError("Export.int8 and Export.bf16 are tried on whole images, of any size: set Export.size=null")
        return ExportedLogits(model, self.class_num)

    @override
    def drawn(self, model: nn.Layer) -> Deployment:
        exported = self._of_floats(model)
        as_evaluated = {**exported.recipe["preprocess"], "size": None, "max_side": None, "multiple": 1}
        return exported._replace(
            model=EvaluatedNetwork(model, self.eval, self.crop),
            recipe={**exported.recipe, "preprocess": as_evaluated},
        )
