"""The detection task: PicoDet on a PP-LCNet or MobileNetV3 backbone, on COCO-format data."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddle import nn

from det.boxes import largest_difference, to_image
from det.checks import check_splits
from det.dataset import DetectionDataset, EvalCollate, TrainCollate
from det.inference import DetectionInference, split_rows
from det.metrics import METRICS, CocoResult
from det.sections import ArchSection, ExportSection, InferSection, LoaderSection, NmsSection
from det.splits import CocoSplit, Findings, check_coco, read_coco, read_record_image
from det.transforms import (
    BATCH_TRANSFORMS,
    TRANSFORMS,
    Sample,
    build_ops,
    resize,
)
from ppcls_ext.core import distributed
from ppcls_ext.core.config import Config, parse
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pixels import IMAGENET_MEAN, IMAGENET_STD, normalize
from ppcls_ext.core.step import Step
from ppcls_ext.data.faults import DataReport
from ppcls_ext.data.loader import Loader
from ppcls_ext.models.spec import LARGEST_STRIDE
from ppcls_ext.models.weights import load_into, load_trunk, read_weights
from ppcls_ext.tasks.classes import check_class_count
from ppcls_ext.tasks.deployment import Deployment, Input
from ppcls_ext.tasks.splits import SPLIT_NAMES, parse_splits
from ppcls_ext.tasks.task import Task

if TYPE_CHECKING:  # imports PaddleDetection, which takes a second: only what trains or runs a network pays it
    from det.network import PicoDet

PARITY_TOLERANCE = 1e-4  # of a score, and of a corner in units of the input's longer side


def _is_detector(weights: Mapping[str, np.ndarray]) -> bool:
    return any(name.startswith("head.head_cls") for name in weights)


class Detection(Task):
    """See `Task`. Metrics: COCO's `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`."""

    name = "detection"
    sections = ("Global", "Arch", "Optimizer", "AMP", "EMA", "DataLoader", "NMS", "Infer", "Export", "Expect")
    primary = "AP"
    inference = DetectionInference
    metric_names = METRICS

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._loaders = parse_splits(config, LoaderSection)
        self.arch = parse(ArchSection, config.get("Arch"), "Arch")
        self.nms = parse(NmsSection, config.get("NMS"), "NMS")
        self.infer = parse(InferSection, config.get("Infer"), "Infer")
        self.export = parse(ExportSection, config.get("Export"), "Export")
        self.size = (self.run.image_shape[1], self.run.image_shape[2])  # height, width
        if min(self.size) < LARGEST_STRIDE or self.size[0] % LARGEST_STRIDE or self.size[1] % LARGEST_STRIDE:
            raise UserError(f"Global.image_shape: sides must be multiples of {LARGEST_STRIDE}, got {self.size}")

    # Data

    def _json_of(self, split: str) -> tuple[Path, Path, Path | None]:
        """The annotation file of a split, the root of the data, and the folder of images, if given."""
        dataset, root = self._loaders[split].dataset, self.data_root()
        path = dataset.anno_path or f"annotations/instances_{SPLIT_NAMES[split]}.json"
        return root / path, root, None if dataset.image_dir is None else root / dataset.image_dir

    @functools.cached_property
    def _given_names(self) -> tuple[str, ...] | None:
        """Class names of the run folder that the config lies in."""
        names = self.saved_labels()
        if names is not None and isinstance(self.arch.class_num, int) and self.arch.class_num != len(names):
            raise UserError(
                f"Arch.class_num is {self.arch.class_num}, but the run folder's labels.txt has {len(names)} lines"
            )
        return names

    def _split(self, split: str, names: tuple[str, ...] | None) -> CocoSplit:
        path, root, image_dir = self._json_of(split)
        read = read_coco(path, root, SPLIT_NAMES[split], image_dir, names)
        given = self.arch.class_num if isinstance(self.arch.class_num, int) else None
        check_class_count(given, len(read.names), path)
        return read

    @functools.cached_property
    def train_split(self) -> CocoSplit:
        return self._split("Train", self._given_names)

    @functools.cached_property
    def eval_split(self) -> CocoSplit:
        """Its classes are those of the training split, where that is there and nothing else fixes them."""
        names = self._given_names
        if names is None and not isinstance(self.arch.class_num, int):
            names = self.train_split.names
        split = self._split("Eval", names)
        if not any(len(record.boxes) for record in split.records):  # crowds do not count
            raise UserError(f"annotations {split.source}: no usable box in it, so there is nothing to evaluate on")
        return split

    @functools.cached_property
    def _known_split(self) -> CocoSplit:
        """A split to take the classes from: one that has been read, else the training split, if it is there."""
        read = [vars(self)[name] for name in ("train_split", "eval_split") if name in vars(self)]
        if read:
            return read[0]
        return self.eval_split if self._splits_there() == ["Eval"] else self.train_split

    @functools.cached_property
    def class_num(self) -> int:
        return self.arch.class_num if isinstance(self.arch.class_num, int) else len(self.labels())

    def labels(self) -> tuple[str, ...]:
        if self._given_names is not None:
            return self._given_names
        if isinstance(self.arch.class_num, int) and not self._splits_there():
            return tuple(map(str, range(self.arch.class_num)))
        return self._known_split.names

    def _splits_there(self) -> list[str]:
        """Splits whose annotations are there: neither export nor prediction needs any."""
        there = []
        for split in self._loaders:
            with contextlib.suppress(UserError):
                if self._json_of(split)[0].is_file():
                    there.append(split)
        return there

    def _category_ids(self) -> list[int]:
        """Ids for COCO results; 1, 2, ... where neither the config nor data say."""
        if self.infer.category_ids is not None and len(self.infer.category_ids) == self.class_num:
            return list(self.infer.category_ids)
        if self._given_names is not None or not self._splits_there():
            return list(range(1, self.class_num + 1))
        return [number if number is not None else 0 for number in self._known_split.category_ids]

    def train_loader(self) -> Loader:
        section = self._loaders.get("Train", LoaderSection())
        where = "DataLoader.Train.dataset"
        ops = build_ops(section.dataset.transform_ops, TRANSFORMS, f"{where}.transform_ops")
        resizing = build_ops(
            section.dataset.batch_transform_ops,
            BATCH_TRANSFORMS,
            f"{where}.batch_transform_ops",
            image_shape=self.run.image_shape,
        )
        dataset = DetectionDataset(self.train_split, ops, self.run.seed)
        if not any(len(record.boxes) for record in self.train_split.records):
            raise UserError(f"annotations {self.train_split.source}: no usable box in it, so there is nothing to learn")
        collate = TrainCollate(self.size, resizing, self._targets, self.run.seed)
        return Loader(dataset, section.sampler, section.loader, collate, self.run.seed)

    @functools.cached_property
    def _targets(self) -> Any:
        from det.backbones import strides_of
        from det.network import GflTargets, TalTargets

        return GflTargets(self.class_num, strides_of(self.arch.backbone)) if self.arch.recipe == "gfl" else TalTargets()

    @functools.cached_property
    def _eval_loader(self) -> Loader:
        section = self._loaders.get("Eval", LoaderSection())
        if section.dataset.transform_ops or section.dataset.batch_transform_ops:
            raise UserError("DataLoader.Eval.dataset: images are only resized for evaluation, it takes no transforms")
        sampler = section.sampler.in_order()
        dataset = DetectionDataset(self.eval_split, [], self.run.seed)
        return Loader(dataset, sampler, section.loader, EvalCollate(self.size), self.run.seed)

    def eval_loader(self) -> Loader:
        return self._eval_loader

    def image_paths(self, split: str) -> Sequence[str]:
        return (self.train_split if split == "Train" else self.eval_split).paths

    def check_data(self) -> DataReport:
        names: list[tuple[str, ...]] = [] if self._given_names is None else [self._given_names]

        def read(split: str) -> tuple[CocoSplit, Findings]:
            path, root, image_dir = self._json_of(split)
            found = check_coco(path, root, SPLIT_NAMES[split], image_dir, names[0] if names else None)
            names.append(found[0].names)
            return found

        readers = {split: functools.partial(read, split) for split in SPLIT_NAMES if split in self._loaders}
        return check_splits(readers, self.size, self.run.seed)

    # Model and losses

    def build_model(self) -> PicoDet:
        from det.network import build_picodet

        if self.arch.recipe == "tal" and self.run.iters and self.arch.static_epochs is None:
            raise UserError("Arch.static_epochs: recipe tal needs it where Global.iters is given instead of epochs")
        return build_picodet(self.arch, self.class_num, self.run.epochs, self.size)

    def load_pretrained(self, model: nn.Layer, path: str) -> list[str]:
        """A detector's weights, or those of a classification network for the backbone."""
        from det.backbones import from_classifier

        weights = read_weights(path)
        if _is_detector(weights):
            fresh = load_into(model, weights, path, self.run.new_head, model.head_names())
            return [f"weights from {path}" + (f"; new: {', '.join(fresh)}" if fresh else "")]
        load_trunk(model.backbone, from_classifier(model.backbone, weights), path)
        return [f"backbone from the classification weights {path}; neck and head are new"]

    def load_trained(self, model: nn.Layer, path: str) -> list[str]:
        weights = read_weights(path)
        if not _is_detector(weights):
            raise UserError(
                f"weights {path}: they are not a detector's; train from them first, "
                "with -o Global.pretrained_model=FILE"
            )
        load_into(model, weights, path, head=model.head_names())
        return [f"weights from {path}"]

    def step(self, model: nn.Layer, batch: Sequence[paddle.Tensor]) -> Step:
        images, *targets = batch
        losses = model.losses(images, dict(zip(self._targets.names, targets, strict=True)))
        losses["loss"] = functools.reduce(lambda a, b: a + b, losses.values())
        return Step(losses, {}, len(images), weight=1.0)

    # Evaluation

    def evaluate(self, model: nn.Layer, advance: Callable[[int], None], folder: Path | None) -> dict[str, float]:
        from det.network import WithNms

        detector = WithNms(model, self.nms)
        detector.eval()
        own: dict[int, np.ndarray] = {}
        with paddle.no_grad():
            for images, places in self.eval_loader().epoch():
                found = split_rows([output.numpy() for output in detector(images)])
                for rows, place in zip(found, places.tolist(), strict=True):
                    own[place] = to_image(rows, self.size[::-1], self.eval_split.records[place].size)
                advance(len(images))
        every = {place: rows for part in distributed.gathered(own) for place, rows in part.items()}
        result = CocoResult(self.eval_split, [every[place] for place in range(len(self.eval_split.records))])
        if folder is not None:
            result.write(folder)
        return result.metrics

    # Config and deployment

    def resolved(self) -> Config:
        config = self.resolved_with(self.class_num, ())
        config["Infer"] = {**(config.get("Infer") or {}), "category_ids": self._category_ids()}
        return config

    def notes(self) -> list[str]:
        splits = [vars(self)[name] for name in ("eval_split", "train_split") if name in vars(self)]
        notes = [
            f"annotations {split.source}: boxes that are wrong and not used: {split.left_out}; check-data shows them"
            for split in splits
            if split.left_out
        ]
        if not isinstance(self.arch.class_num, int):
            names = self.labels()
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            notes.append(f"{len(names)} classes found in {self.train_split.source}: {shown}")
        return notes

    def deployment(self, model: nn.Layer) -> Deployment:
        from det.network import WithNms

        recipe = {
            "network": f"PicoDet {self.arch.recipe}, {self.arch.backbone['name']}",
            "preprocess": {
                "resize": list(self.size),
                "mean": list(IMAGENET_MEAN),
                "std": list(IMAGENET_STD),
                "pixels": "[0, 1], RGB",
            },
            "postprocess": {
                "nms_in_graph": self.export.nms,
                "threshold": self.infer.threshold,
                **self.nms.model_dump(),
            },
            "labels": list(self.labels()),
            "category_ids": self._category_ids(),
        }
        raw = Deployment(
            model=model,
            inputs=[Input("image", (self.export.batch, 3, *self.size), "float32")],
            outputs=["scores", "boxes"],
            recipe=recipe,
            samples=self._parity_inputs,
            compare=self._compare_raw,
            tolerance=PARITY_TOLERANCE,
        )
        if not self.export.nms:
            return raw
        # Where nothing is found there are no rows to compare: scores and boxes before NMS are compared as well.
        return raw._replace(
            model=WithNms(model, self.nms), outputs=["rows", "counts"], compare=self._compare_rows, also=raw
        )

    def _parity_inputs(self, count: int) -> list[np.ndarray]:
        """Images of the evaluation split, on which there is something to find; where it is not there, noise."""
        try:
            records = self.eval_split.records
        except UserError:
            return [np.random.default_rng(0).standard_normal((count, 3, *self.size)).astype(np.float32)]
        picked = [records[k % len(records)] for k in range(count)]
        samples = [Sample(read_record_image(r), r.boxes, r.classes) for r in picked]
        return [np.stack([normalize(resize(sample, self.size).image) for sample in samples])]

    def _compare_raw(self, ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
        scores, boxes = (float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
        return max(scores, boxes / max(self.size))

    def _compare_rows(self, ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
        side = float(max(self.size))
        return max(
            largest_difference(a, b, side, self.nms.score_threshold, self.nms.keep_top_k)
            for a, b in zip(split_rows(ours), split_rows(theirs), strict=True)
        )
