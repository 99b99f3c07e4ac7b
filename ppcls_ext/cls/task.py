"""The classification task: PaddleClas's configs, losses and transforms; our data lists and evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from typing_extensions import override

from ppcls_ext.cls.checks import check_data
from ppcls_ext.cls.data import ClassificationData
from ppcls_ext.cls.distillation import Distillation
from ppcls_ext.cls.inference import (
    ClassificationInference,
    needs_paddleclas,
    normalization_apart,
    score_difference,
)
from ppcls_ext.cls.metrics import METRICS, Confusion, write_report
from ppcls_ext.cls.network import build_losses, check_losses
from ppcls_ext.cls.sections import InferSection
from ppcls_ext.core import distributed
from ppcls_ext.core.config import Config, parse
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.operations import read_operations
from ppcls_ext.data.faults import DataReport
from ppcls_ext.data.loader import Loader
from ppcls_ext.data.transforms import build_transforms, resolve_sizes
from ppcls_ext.models.factory import build_arch
from ppcls_ext.models.weights import load_into, read_weights
from ppcls_ext.tasks.deployment import Deployment, Input, from_pixels
from ppcls_ext.tasks.export import ExportedModel, ExportSection
from ppcls_ext.tasks.splits import by_split
from ppcls_ext.tasks.step import Step
from ppcls_ext.tasks.task import Task
from ppcls_ext.training.distillation import DistillSection
from ppcls_ext.upstream.paddleclas import class_id_map, public_weights


class Classification(Task):
    """See `Task`. Metrics: `top1`, `top5` (of 5 classes and more), `loss`."""

    name = "classification"
    sections = (
        "Global", "Arch", "Loss", "Distill", "Optimizer", "AMP", "EMA", "DataLoader", "Infer", "Metric", "Export",
        "Expect",
    )  # fmt: skip
    primary = "top1"
    public_needs_new_head = True
    inference = ClassificationInference
    metric_names = METRICS
    data: ClassificationData

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.infer = parse(InferSection, config.get("Infer"), "Infer")
        self.export = parse(ExportSection, config.get("Export"), "Export")
        given = config.get("Distill")
        distill = None if given is None else parse(DistillSection, given, "Distill")
        self._label_share = 1.0 if distill is None else distill.ground_truth  # weight of the losses against labels
        self.data = ClassificationData(config, self.infer.PostProcess.class_id_map_file, self._label_share > 0)
        self.distillation = None if distill is None else Distillation(distill, self.data, self.made_fast)
        self._losses = by_split(config, "Loss")
        self._check_metric(by_split(config, "Metric"))

    @staticmethod
    def _check_metric(metric: Mapping[str, Any]) -> None:
        """`Metric` may name what is always reported anyway; anything else would be silently missing."""
        for split, items in metric.items():
            for name, *_ in read_operations(items, f"Metric.{split}"):
                if name != "TopkAcc":
                    raise UserError(
                        f"Metric.{split}.{name}: not computed by this toolkit; it reports TopkAcc (top-1, top-5)"
                    )

    # Data

    @override
    def train_loader(self) -> Loader:
        """See `Task`; with cached outputs of a teacher, batches end with the keys of their samples."""
        if self.class_num < 2:
            source = self.data.train_split.source
            raise UserError(f"{source}: there is one class, so there is nothing to tell apart; add a second one")
        if self._label_share > 0:
            _ = self._train_losses  # a wrong Loss section is reported before any work begins
        return self.data.make_loader("Train", self.distillation.cached_crops if self.distillation else None)

    @override
    def check_data(self) -> DataReport:
        return check_data(self.data)

    # Model and losses

    @override
    def build_model(self) -> nn.Layer:
        return build_arch(self.config.get("Arch") or {}, self.class_num)

    @override
    def public_weights(self) -> str | None:
        arch = self.config.get("Arch") or {}
        return None if set(arch) - {"name", "class_num"} else public_weights(str(arch.get("name")))

    @override
    def load_pretrained(self, model: nn.Layer, path: str) -> list[str]:
        fresh = load_into(model, read_weights(path), path, self.global_section.new_head)
        return [f"weights from {path}" + (f"; new head: {', '.join(fresh)}" if fresh else "")]

    @functools.cached_property
    def _train_losses(self) -> list[tuple[float, Callable[..., Mapping[str, paddle.Tensor]]]]:
        losses = build_losses(self._losses.get("Train"), "Loss.Train")
        check_losses(losses, "Loss.Train", self.class_num, self.data.mixes_batches)
        return losses

    @override
    def step(self, model: nn.Layer, batch: Sequence[paddle.Tensor]) -> Step:
        """See `Task`. A batch is images float32 [N, 3, H, W], labels, and sample keys where outputs are cached."""
        images, labels, *keys = batch
        logits = model(images)
        losses: dict[str, paddle.Tensor] = {}
        stats: dict[str, paddle.Tensor] = {}
        if self._label_share > 0:
            for weight, loss in self._train_losses:
                losses |= {name: value * (weight * self._label_share) for name, value in loss(logits, labels).items()}
        if self.distillation is not None:
            losses["DistillLoss"], stats["as_teacher"] = self.distillation.loss(logits, images, keys)
        losses["loss"] = functools.reduce(lambda a, b: a + b, losses.values())
        if self._has_hard_labels:
            stats["top1"] = (logits.argmax(-1) == labels[:, 0]).astype("float32").mean()
        return Step(losses, stats, len(images))

    @functools.cached_property
    def _has_hard_labels(self) -> bool:
        return self.data.has_hard_labels()

    @override
    def prepare(self) -> None:
        """See `Task`; loads the teacher where there is one, or runs it to fill the cache of its outputs."""
        if self.distillation is not None:
            self.distillation.prepare()

    @override
    def fingerprint(self) -> dict[str, Any]:
        return {} if self.distillation is None else self.distillation.fingerprint()

    # Evaluation

    @override
    def evaluate(self, model: nn.Layer, advance: Callable[[int], None], folder: Path | None) -> dict[str, float]:
        model.eval()
        confusion = Confusion(self.class_num)
        with paddle.no_grad():
            for images, labels in self.eval_loader().epoch():
                confusion.add(model(images).numpy(), labels.numpy()[:, 0])
                advance(len(images))
        confusion = Confusion.total(distributed.gathered(confusion))
        if folder is not None:
            write_report(folder, confusion, self.data.eval_split.class_names)
        return confusion.metrics()

    @property
    @override
    def evaluated_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.global_section.image_shape
        return channels, height, width

    # Config and deployment

    @override
    def resolved(self) -> Config:
        config = self.resolved_with(self.class_num, ("image_root", "cls_label_path", "class_names"))
        names_file = self.infer.PostProcess.class_id_map_file
        if names_file:
            config["Infer"]["PostProcess"]["class_id_map_file"] = str(class_id_map(names_file).resolve())
        if self.distillation is not None:
            self.distillation.resolve(config["Distill"])
        return config

    @override
    def notes(self) -> list[str]:
        classes = self.data.classes
        notes = [f"{classes.count} classes found in {self.data.train_split.source}"] if classes.fixed is None else []
        return notes if self.distillation is None else [*notes, f"teacher: {self.distillation.teacher.describe()}"]

    def preprocessing(self) -> list[dict[str, dict[str, Any]]]:
        """The transforms of inference: `Infer.transforms`, else those of evaluation."""
        ops = self.infer.transforms
        if ops is None:
            if "Eval" not in self.data.loaders:
                raise UserError("Infer.transforms is missing, and there is no DataLoader.Eval to take them from")
            ops = self.data.loaders["Eval"].dataset.transform_ops or []
        resolved = resolve_sizes(ops, self.global_section.image_shape, "Infer.transforms")
        build_transforms(resolved, "Infer.transforms")
        return resolved

    @override
    def deployment(self, model: nn.Layer) -> Deployment:
        shape = tuple(self.global_section.image_shape)
        transforms = self.preprocessing()
        recipe: dict[str, Any] = {
            "preprocess": {"transforms": transforms, "image_shape": list(shape)},
            "postprocess": {"topk": min(self.infer.PostProcess.topk, self.class_num)},
            "labels": list(self.labels()),
        }

        def samples(count: int) -> list[np.ndarray]:
            # Normalised photographs have about zero mean and unit deviation.
            return [np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)]

        deployment = Deployment(
            model=nn.Sequential(model, nn.Softmax()),
            inputs=[Input("x", (self.export.batch, *shape), "float32")],
            outputs=["scores"],
            recipe=recipe,
            samples=samples,
            difference=score_difference,
            tolerance=1e-3,
            remarks=self._remarks(transforms),
        )
        if self.export.input == "float32":
            return deployment
        outside, mean, std = normalization_apart(transforms, "Infer.transforms")
        recipe["preprocess"]["transforms"] = outside
        return from_pixels(deployment, mean, std)

    def _remarks(self, transforms: list[dict[str, dict[str, Any]]]) -> list[str]:
        names = ", ".join(needs_paddleclas(transforms, "Infer.transforms"))
        remark = f"Infer.transforms: only PaddleClas has {names}, so paddleclas is needed wherever this export runs"
        return [remark] if names else []

    @override
    def exported(self, model: ExportedModel) -> nn.Layer:
        return LogScores(model)


class LogScores(nn.Layer):
    """An exported classifier with logits, up to a constant, in the place of its scores: float32 [N, classes]."""

    def __init__(self, model: ExportedModel) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        (scores,) = self.model(images)
        return paddle.log(scores + 1e-12)
