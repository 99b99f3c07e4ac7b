"""The classification task: PaddleClas's configs, losses and transforms; our data lists and evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ppcls_ext.cls.dataset import ClassificationDataset, Collate
from ppcls_ext.cls.inference import ClassificationInference
from ppcls_ext.cls.metrics import Confusion, write_report
from ppcls_ext.cls.network import build_losses
from ppcls_ext.cls.sections import ExportSection, InferSection, LoaderSection
from ppcls_ext.cls.splits import UNLABELLED, ImageList, find_split, read_list, scan_folder
from ppcls_ext.core import distributed
from ppcls_ext.core.config import Config, parse
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.operations import read_operations
from ppcls_ext.core.pictures import caption
from ppcls_ext.core.step import Step
from ppcls_ext.data.faults import DataReport
from ppcls_ext.data.lists import read_class_names
from ppcls_ext.data.loader import Loader
from ppcls_ext.data.transforms import build_transforms, resolve_sizes
from ppcls_ext.models.factory import build_arch
from ppcls_ext.models.weights import load_into, read_weights
from ppcls_ext.tasks.classes import check_class_count
from ppcls_ext.tasks.deployment import Deployment, Input
from ppcls_ext.tasks.splits import SPLIT_NAMES, by_split, parse_splits
from ppcls_ext.tasks.task import Task
from ppcls_ext.training.distillation import DIVERGENCES, Cache, DistillSection, Teacher, digest_of_paths, find_teacher
from ppcls_ext.upstream.paddleclas import class_map

SHOWN_SAMPLES = 12  # of each split in the picture of check-data


class Classification(Task):
    """See `Task`. Metrics: `top1`, `top5` (of 5 classes and more), `loss`."""

    name = "classification"
    sections = (
        "Global", "Arch", "Loss", "Distill", "Optimizer", "AMP", "EMA", "DataLoader", "Infer", "Metric", "Export",
        "Expect",
    )  # fmt: skip
    primary = "top1"
    inference = ClassificationInference
    metric_names = ("top1", "top5", "loss")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._loaders = parse_splits(config, LoaderSection)
        self.infer = parse(InferSection, config.get("Infer"), "Infer")
        self._export = parse(ExportSection, config.get("Export"), "Export")
        distill = config.get("Distill")
        self.distill = None if distill is None else parse(DistillSection, distill, "Distill")
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

    @functools.cached_property
    def _given_count(self) -> int | None:
        """Arch.class_num where it is a number; None leaves it to the data."""
        number = (self.config.get("Arch") or {}).get("class_num", 1000)
        if number in ("auto", None):
            return None
        if not isinstance(number, int) or number < 1:
            raise UserError(f"Arch.class_num: expected a number of classes or auto, got {number!r}")
        return number

    @functools.cached_property
    def _given_names(self) -> tuple[str, ...] | None:
        """Class names that a file fixes: of the config, or of the run folder that the config lies in."""
        given = self.infer.PostProcess.class_id_map_file
        files = [self.rooted(s.dataset.class_names) for s in self._loaders.values() if s.dataset.class_names]
        files += [class_map(given)] if given else []
        names = read_class_names(files[0]) if files else self.saved_labels()
        if names is not None and self._given_count not in (None, len(names)):
            source = files[0] if files else "the run folder's labels.txt"
            raise UserError(
                f"Arch.class_num is {self._given_count}, but {source} names {len(names)} classes; leave the file out "
                "with -o Infer.PostProcess.class_id_map_file=null or give another"
            )
        return names

    def _read_split(self, split: str, names: tuple[str, ...] | None) -> ImageList:
        dataset = self._loaders[split].dataset
        count = self._given_count
        unlabelled = split == "Train" and not self._learns_labels
        if dataset.name == "ImageFolder":
            images = find_split(self.data_root(), SPLIT_NAMES[split], dataset.val_fraction, names, count, unlabelled)
        elif dataset.image_root is None:
            raise UserError(f"DataLoader.{split}.dataset.image_root is missing")
        elif dataset.cls_label_path is None:
            images = scan_folder(self.rooted(dataset.image_root), names)
        else:
            list_path, root = self.rooted(dataset.cls_label_path), self.rooted(dataset.image_root)
            images = read_list(list_path, root, dataset.delimiter, names, count, unlabelled)
        check_class_count(count, len(images.class_names), images.source)
        return images

    @functools.cached_property
    def train_images(self) -> ImageList:
        return self._read_split("Train", self._given_names)

    @functools.cached_property
    def eval_images(self) -> ImageList:
        """Its classes are those of the training split, where nothing else fixes them."""
        names = self._given_names
        if names is None and self._given_count is None:
            names = self.train_images.class_names
        return self._read_split("Eval", names)

    @functools.cached_property
    def class_num(self) -> int:
        return self._given_count or len(self.labels())

    def labels(self) -> tuple[str, ...]:
        if self._given_names is not None:
            return self._given_names
        read = [vars(self)[name] for name in ("train_images", "eval_images") if name in vars(self)]
        if not read and self._given_count is not None:
            return tuple(map(str, range(self._given_count)))
        return (read[0] if read else self.train_images).class_names

    def _transform_ops(self, split: str) -> list[dict[str, dict[str, Any]]]:
        ops = self._loaders[split].dataset.transform_ops or []
        return resolve_sizes(ops, self.run.image_shape, f"DataLoader.{split}.dataset.transform_ops")

    def _loader(self, split: str, images: ImageList, whole: bool = False) -> Loader:
        """`whole`: every image in order, in this process alone."""
        section = self._loaders[split]
        where = f"DataLoader.{split}.dataset"
        transforms = build_transforms(self._transform_ops(split), f"{where}.transform_ops")
        cached = split == "Train" and self._cache is not None
        if cached and self.distill is not None:
            dataset = ClassificationDataset(images, transforms, self.distill.crop_seed, self.distill.cache_epochs)
        else:
            dataset = ClassificationDataset(images, transforms, self.run.seed)
        batch_ops = build_transforms(
            section.dataset.batch_transform_ops or [], f"{where}.batch_transform_ops", self.class_num
        )
        sampler = section.sampler
        if split == "Eval" or whole:
            sampler = sampler.in_order()
        collate = Collate(batch_ops, self.run.seed, cached)
        share = {"part": 0, "parts": 1} if whole else {}
        return Loader(dataset, sampler, section.loader, collate, self.run.seed, **share)

    def train_loader(self) -> Loader:
        if self._learns_labels:
            _ = self._train_losses  # a wrong Loss section is reported before any work begins
        return self._loader("Train", self.train_images)

    @functools.cached_property
    def _eval_loader(self) -> Loader:
        return self._loader("Eval", self.eval_images)

    def eval_loader(self) -> Loader:
        return self._eval_loader

    def image_paths(self, split: str) -> Sequence[str]:
        return (self.train_images if split == "Train" else self.eval_images).paths

    # Model and losses

    def build_model(self) -> nn.Layer:
        return build_arch(self.config.get("Arch") or {}, self.class_num)

    def load_pretrained(self, model: nn.Layer, path: str) -> list[str]:
        fresh = load_into(model, read_weights(path), path, self.run.new_head)
        return [f"weights from {path}" + (f"; new head: {', '.join(fresh)}" if fresh else "")]

    @functools.cached_property
    def _train_losses(self) -> list[tuple[float, Callable[..., Mapping[str, paddle.Tensor]]]]:
        return build_losses(self._losses.get("Train"), "Loss.Train")

    def step(self, model: nn.Layer, batch: Sequence[paddle.Tensor]) -> Step:
        images, labels, *places = batch
        logits = model(images)
        losses: dict[str, paddle.Tensor] = {}
        stats: dict[str, paddle.Tensor] = {}
        if self._learns_labels:
            share = 1.0 if self.distill is None else self.distill.ground_truth
            for weight, loss in self._train_losses:
                losses |= {name: value * (weight * share) for name, value in loss(logits, labels).items()}
        if self.distill is not None:
            if self._cache is not None:
                soft = paddle.to_tensor(self._cache.logits(places[0].numpy()))
            else:
                soft = self._teacher.logits(images)
            losses["DistillLoss"] = DIVERGENCES[self.distill.divergence](logits, soft) * self.distill.weight
            stats["as_teacher"] = (logits.argmax(-1) == soft.argmax(-1)).astype("float32").mean()
        losses["loss"] = functools.reduce(lambda a, b: a + b, losses.values())
        if self._has_hard_labels:
            stats["top1"] = (logits.argmax(-1) == labels[:, 0]).astype("float32").mean()
        return Step(losses, stats, len(images))

    @functools.cached_property
    def _has_hard_labels(self) -> bool:
        """Of training: neither mixed nor absent, so that accuracy means something."""
        return not self._loaders["Train"].dataset.batch_transform_ops and UNLABELLED not in self.train_images.labels

    # Distillation

    @property
    def _learns_labels(self) -> bool:
        return self.distill is None or self.distill.ground_truth > 0

    @functools.cached_property
    def _teacher(self) -> Teacher:
        assert self.distill is not None
        return Teacher(find_teacher(self.distill.teacher), self.labels(), self.made_fast)

    @functools.cached_property
    def _cache(self) -> Cache | None:
        if self.distill is None or self.distill.cache is None:
            return None
        if self._loaders["Train"].dataset.batch_transform_ops:
            raise UserError(
                "Distill.cache: mixed batches (batch_transform_ops) differ each time; leave one of both out"
            )
        images = self.train_images
        key = {
            "teacher": self._teacher.digest,
            "images": digest_of_paths(images.paths),
            "transforms": self._transform_ops("Train"),
            "crop_seed": self.distill.crop_seed,
        }
        shape = (self.distill.cache_epochs, len(images), self.class_num)
        return Cache(Path(self.distill.cache), key, shape)

    def prepare(self) -> None:
        if self.distill is not None and self._cache is None:
            _ = self._teacher.model  # wrong weights are found before there is a run folder
        if self._cache is not None:
            self._cache.fill(self._teacher, self._loader("Train", self.train_images, whole=True))

    def fingerprint(self) -> dict[str, Any]:
        if self.distill is None:
            return {}
        settings = self.distill.model_dump(exclude={"teacher", "cache"})
        return {"distillation": {**settings, "teacher": self._teacher.digest, "cached": self.distill.cache is not None}}

    # Evaluation

    def evaluate(self, model: nn.Layer, advance: Callable[[int], None], folder: Path | None) -> dict[str, float]:
        model.eval()
        confusion = Confusion(self.class_num)
        with paddle.no_grad():
            for images, labels in self.eval_loader().epoch():
                confusion.add(model(images).numpy(), labels.numpy()[:, 0])
                advance(len(images))
        confusion = Confusion.total(distributed.gathered(confusion))
        if folder is not None:
            write_report(folder, confusion, self.eval_images.class_names)
        return confusion.metrics()

    def check_data(self) -> DataReport:
        report = DataReport()
        for split, section in self._loaders.items():
            where = f"DataLoader.{split}.dataset.transform_ops"
            try:
                build_transforms(resolve_sizes(section.dataset.transform_ops or [], self.run.image_shape, where), where)
            except UserError as error:
                report.error(str(error))
        splits = {}
        for split in SPLIT_NAMES:
            if split in self._loaders:
                try:
                    splits[split] = self.train_images if split == "Train" else self.eval_images
                except UserError as error:
                    if str(error) not in report.errors:
                        report.error(str(error))
        report.check_files({split: images.paths for split, images in splits.items()})
        counts = {s: np.bincount(i.labels[i.labels >= 0], minlength=len(i.class_names)) for s, i in splits.items()}
        if "Train" in splits:
            names = splits["Train"].class_names
            rows = [(name, *(int(c[k]) if k < len(c) else 0 for c in counts.values())) for k, name in enumerate(names)]
            report.tables.append(("images of each class", ("class", *counts), rows))
            report.check_balance(names, counts["Train"][: len(names)])
        for images in splits.values():
            rng = np.random.default_rng(self.run.seed)
            for k in rng.permutation(len(images))[:SHOWN_SAMPLES]:
                name = "no label" if images.labels[k] == UNLABELLED else images.class_names[images.labels[k]]
                report.sample(images.paths[k], functools.partial(caption, text=name))
        return report

    # Config and deployment

    def resolved(self) -> Config:
        config = self.resolved_with(self.class_num, ("image_root", "cls_label_path", "class_names"))
        names_file = self.infer.PostProcess.class_id_map_file
        if names_file:
            config["Infer"]["PostProcess"]["class_id_map_file"] = str(class_map(names_file).resolve())
        if self.distill is not None:
            distill = config["Distill"]
            if isinstance(distill["teacher"], str):
                distill["teacher"] = str(Path(distill["teacher"]).resolve())
            else:
                distill["teacher"]["pretrained"] = str(self._teacher.files.weights.resolve())
            if self.distill.cache is not None:
                distill["cache"] = str(Path(self.distill.cache).resolve())
        return config

    def notes(self) -> list[str]:
        asked = self.config.get("Arch", {}).get("class_num", 1000)
        found = f"{self.class_num} classes found in {self.train_images.source}"
        notes = [found] if asked in ("auto", None) else []
        return notes if self.distill is None else [*notes, f"teacher: {self._teacher.describe()}"]

    def preprocessing(self) -> list[dict[str, dict[str, Any]]]:
        """The transforms of inference: `Infer.transforms`, else those of evaluation."""
        ops = self.infer.transforms
        if ops is None:
            if "Eval" not in self._loaders:
                raise UserError("Infer.transforms is missing, and there is no DataLoader.Eval to take them from")
            ops = self._loaders["Eval"].dataset.transform_ops or []
        resolved = resolve_sizes(ops, self.run.image_shape, "Infer.transforms")
        build_transforms(resolved, "Infer.transforms")
        return resolved

    def deployment(self, model: nn.Layer) -> Deployment:
        shape = tuple(self.run.image_shape)
        recipe = {
            "preprocess": {"transforms": self.preprocessing(), "image_shape": list(shape)},
            "postprocess": {"topk": min(self.infer.PostProcess.topk, self.class_num)},
            "labels": list(self.labels()),
        }

        def samples(count: int) -> list[np.ndarray]:
            # Normalised photographs have about zero mean and unit deviation.
            return [np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)]

        return Deployment(
            model=nn.Sequential(model, nn.Softmax()),
            inputs=[Input("x", (self._export.batch, *shape), "float32")],
            outputs=["scores"],
            recipe=recipe,
            samples=samples,
            # In logarithms: near a score of 1 / classes, as of a network not trained yet, plain differences hide all.
            compare=lambda ours, theirs: float(np.abs(np.log(ours[0] + 1e-8) - np.log(theirs[0] + 1e-8)).max()),
            tolerance=1e-3,
        )
