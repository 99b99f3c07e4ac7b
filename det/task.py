"""The detection task: PicoDet on a PP-LCNet or MobileNetV3 backbone, on COCO-format data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddle import nn
from typing_extensions import override

from det.boxes import to_image
from det.checks import check_data
from det.data import DetectionData
from det.inference import DetectionInference, raw_difference, rows_difference, split_rows
from det.metrics import METRICS, CocoResult
from det.sections import ArchSection, ExportSection, InferSection, NmsSection, ResizeSection
from det.splits import read_record_image
from det.transforms import Sample, resize
from ppcls_ext.core import distributed
from ppcls_ext.core.config import Config, parse
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pixels import IMAGENET_MEAN, IMAGENET_STD, normalize
from ppcls_ext.data.faults import DataReport
from ppcls_ext.data.loader import Loader
from ppcls_ext.models.network_spec import LARGEST_STRIDE
from ppcls_ext.models.weights import read_weights
from ppcls_ext.tasks.deployment import Deployment, Input, from_pixels
from ppcls_ext.tasks.export import ExportedModel
from ppcls_ext.tasks.step import Step
from ppcls_ext.tasks.task import Task
from ppcls_ext.upstream.paddleclas import public_backbone

if TYPE_CHECKING:  # imports PaddleDetection, which takes a second: only what trains or runs a network pays it
    from det.network import PicoDet

PARITY_TOLERANCE = 1e-4  # difference of a score, or of a corner in units of the input's longer side


class Detection(Task):
    """See `Task`. Metrics: COCO's `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`."""

    name = "detection"
    sections = ("Global", "Arch", "Optimizer", "AMP", "EMA", "DataLoader", "Resize", "NMS", "Infer", "Export", "Expect")
    primary = "AP"
    inference = DetectionInference
    export: ExportSection
    metric_names = METRICS
    data: DetectionData

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.arch = parse(ArchSection, config.get("Arch"), "Arch")
        self.interpolation = parse(ResizeSection, config.get("Resize"), "Resize").interpolation
        self.nms = parse(NmsSection, config.get("NMS"), "NMS")
        self.infer = parse(InferSection, config.get("Infer"), "Infer")
        self.export = parse(ExportSection, config.get("Export"), "Export")
        self.data = DetectionData(config, self.arch, self.interpolation)
        self.size = self.data.size
        if min(self.size) < LARGEST_STRIDE or self.size[0] % LARGEST_STRIDE or self.size[1] % LARGEST_STRIDE:
            raise UserError(f"Global.image_shape: sides must be multiples of {LARGEST_STRIDE}, got {self.size}")

    # Data

    @override
    def train_loader(self) -> Loader:
        return self.data.make_train_loader(self.targets)

    @functools.cached_property
    def targets(self) -> Any:
        """What makes the arrays that the recipe's losses take from a batch's boxes, by `names`."""
        from det.backbones import strides_of
        from det.network import GflTargets, TalTargets

        return GflTargets(self.class_num, strides_of(self.arch.backbone)) if self.arch.recipe == "gfl" else TalTargets()

    @override
    def check_data(self) -> DataReport:
        return check_data(self.data)

    # Model and losses

    @override
    def build_model(self) -> PicoDet:
        from det.network import build_picodet

        if self.arch.recipe == "tal" and self.global_section.iters and self.arch.static_epochs is None:
            raise UserError("Arch.static_epochs: recipe tal needs it where Global.iters is given instead of epochs")
        return build_picodet(self.arch, self.class_num, self.global_section.epochs, self.size)

    @override
    def public_weights(self) -> str | None:
        return self.arch.public_weights or public_backbone(self.arch.backbone)

    @override
    def load_pretrained(self, model: nn.Layer, path: str) -> list[str]:
        """A detector's weights (`public`: those of `Arch.public_weights`), or a classifier's for the backbone."""
        from det import weights as fitting

        path = fitting.find_public(self.arch) if path == fitting.PUBLIC else path
        weights = read_weights(path)
        if fitting.is_detector(weights):
            fresh = fitting.load_detector(model, weights, path, self.global_section.new_head)
            return [f"weights from {path}" + (f"; new: {', '.join(fresh)}" if fresh else "")]
        fitting.load_classifier(model, weights, path)
        return [f"backbone from the classification weights {path}; neck and head are new"]

    @override
    def load_trained(self, model: nn.Layer, path: str) -> list[str]:
        from det import weights as fitting

        path = fitting.find_public(self.arch) if path == fitting.PUBLIC else path
        weights = read_weights(path)
        if not fitting.is_detector(weights):
            raise UserError(
                f"weights {path}: they are not a detector's; train from them first, "
                "with -o Global.pretrained_model=FILE"
            )
        fitting.load_detector(model, weights, path)
        return [f"weights from {path}"]

    @override
    def step(self, model: nn.Layer, batch: Sequence[paddle.Tensor]) -> Step:
        images, *targets = batch
        losses = model.losses(images, dict(zip(self.targets.names, targets, strict=True)))
        losses["loss"] = functools.reduce(lambda a, b: a + b, losses.values())
        return Step(losses, {}, len(images), weight=1.0)

    # Evaluation

    @override
    def evaluate(self, model: nn.Layer, advance: Callable[[int], None], folder: Path | None) -> dict[str, float]:
        from det.network import WithNms

        detector = model if isinstance(model, WithNms) else WithNms(model, self.nms)
        detector.eval()
        split, own = self.data.eval_split, dict[int, np.ndarray]()
        with paddle.no_grad():
            for images, indices in self.eval_loader().epoch():
                found = split_rows([output.numpy() for output in detector(images)])
                for rows, index in zip(found, indices.tolist(), strict=True):
                    own[index] = to_image(rows, self.size[::-1], split.records[index].size)
                advance(len(images))
        every = {index: rows for part in distributed.gathered(own) for index, rows in part.items()}
        result = CocoResult(split, [every[index] for index in range(len(split.records))])
        if folder is not None:
            result.write(folder)
        return result.metrics()

    @property
    @override
    def evaluated_shape(self) -> tuple[int, int, int]:
        return 3, *self.size

    # Config and deployment

    @override
    def resolved(self) -> Config:
        config = self.resolved_with(self.class_num, ())
        config["Infer"] = {
            **(config.get("Infer") or {}),
            "category_ids": self.data.category_ids(self.infer.category_ids),
        }
        return config

    @override
    def notes(self) -> list[str]:
        notes = [
            f"annotations {split.source}: boxes that are wrong and not used: {split.left_out}; check-data shows them"
            for split in self.data.splits_read()
            if split.left_out
        ]
        if self.data.classes.fixed is None:
            names = self.labels()
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            notes.append(f"{len(names)} classes found in {self.data.train_split.source}: {shown}")
        return notes

    @override
    def deployment(self, model: nn.Layer) -> Deployment:
        from det.network import WithNms

        recipe = {
            "network": f"PicoDet {self.arch.recipe}, {self.arch.backbone['name']}",
            "preprocess": {
                "resize": list(self.size),
                "interpolation": self.interpolation,
                "mean": list(IMAGENET_MEAN),
                "std": list(IMAGENET_STD),
                "pixels": "[0, 1], RGB",
            },
            "postprocess": {
                "nms_in_graph": self.export.nms,
                "classes": self.class_num,
                "threshold": self.infer.threshold,
                **self.nms.model_dump(),
            },
            "labels": list(self.labels()),
            "category_ids": self.data.category_ids(self.infer.category_ids),
        }
        raw = Deployment(
            model=model,
            inputs=[Input("image", (self.export.batch, 3, *self.size), "float32")],
            outputs=["scores", "boxes"],
            recipe=recipe,
            samples=self._parity_inputs,
            difference=lambda found, expected: raw_difference(found, expected, max(self.size)),
            tolerance=PARITY_TOLERANCE,
        )
        deployment = raw
        if self.export.nms:
            # Nothing may be found, and then there are no rows: scores and boxes before NMS are compared as well.
            deployment = raw._replace(
                model=WithNms(model, self.nms),
                outputs=["rows", "counts"],
                difference=lambda found, expected: rows_difference(
                    found, expected, max(self.size), self.nms.score_threshold, self.nms.keep_top_k
                ),
                also=raw,
                onnx_is_also=self.export.batch != 1,  # paddle2onnx translates NMS for one image only
            )
        return deployment if self.export.input == "float32" else from_pixels(deployment, IMAGENET_MEAN, IMAGENET_STD)

    @override
    def exported(self, model: ExportedModel) -> nn.Layer:
        from det.network import ExportedDetector

        return ExportedDetector(model, self.nms)

    def _parity_inputs(self, count: int) -> list[np.ndarray]:
        """Images of the evaluation split, on which there is something to find; where it is not there, noise."""
        try:
            records = self.data.eval_split.records
        except UserError:
            return [np.random.default_rng(0).standard_normal((count, 3, *self.size)).astype(np.float32)]
        picked = [records[k % len(records)] for k in range(count)]
        samples = [Sample(read_record_image(r), r.boxes, r.classes) for r in picked]
        return [np.stack([normalize(resize(sample, self.size, self.interpolation).image) for sample in samples])]
