"""The COCO data of a detection config, and the loaders that read it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from det.dataset import DetectionDataset, EvalCollate, Targets, TrainCollate
from det.sections import ArchSection, LoaderSection
from det.splits import CocoSplit, read_coco
from det.transforms import BATCH_TRANSFORMS, TRANSFORMS, build_ops
from ppcls_ext.core.config import Config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pixels import IMAGENET_MEAN, IMAGENET_STD
from ppcls_ext.data.cache import ImageCache
from ppcls_ext.data.loader import Loader
from ppcls_ext.data.pixels import Normalization
from ppcls_ext.tasks.data import TaskData
from ppcls_ext.tasks.splits import SPLIT_NAMES


class DetectionData(TaskData[LoaderSection, CocoSplit]):
    """See `TaskData`."""

    def __init__(self, config: Config, arch: ArchSection, interpolation: str) -> None:
        super().__init__(config, LoaderSection, arch.class_num)
        self.interpolation = interpolation  # how images are resized to the network's input
        self.size = (self.global_section.image_shape[1], self.global_section.image_shape[2])  # height, width

    def annotations(self, split: str) -> tuple[Path, Path, Path | None]:
        """The annotation file of a split, the root of the data, and the folder of images, if given."""
        dataset, root = self.loaders[split].dataset, self.root()
        path = dataset.anno_path or f"annotations/instances_{SPLIT_NAMES[split]}.json"
        return root / path, root, None if dataset.image_dir is None else root / dataset.image_dir

    def splits_there(self) -> list[str]:
        """Splits whose annotations are there: neither export nor prediction needs any."""
        there = []
        for split in self.loaders:
            with contextlib.suppress(UserError):
                if self.annotations(split)[0].is_file():
                    there.append(split)
        return there

    @override
    def read_split(self, split: str, names: tuple[str, ...] | None) -> CocoSplit:
        """Read a split from its annotation file.

        Raises:
            UserError: wrong data, another number of classes than that of the config, or nothing to evaluate on.
        """
        path, root, image_dir = self.annotations(split)
        read = read_coco(path, root, SPLIT_NAMES[split], image_dir, names)
        self.classes.check_found(len(read.class_names), path)
        if split == "Eval" and not any(len(record.boxes) for record in read.records):  # no crowd can be found
            raise UserError(f"annotations {read.source}: no usable box in it, so there is nothing to evaluate on")
        return read

    @override
    def names_of(self, split: CocoSplit) -> tuple[str, ...]:
        return split.class_names

    @override
    def paths_of(self, split: CocoSplit) -> Sequence[str]:
        return split.paths

    @functools.cached_property
    def known_split(self) -> CocoSplit:
        """A split to take the classes from: one that has been read, else the training split, if it is there."""
        read = self.splits_read()
        if read:
            return read[0]
        return self.eval_split if self.splits_there() == ["Eval"] else self.train_split

    @override
    def found_names(self) -> tuple[str, ...] | None:
        """The class names of the annotations; None where there are none and the config states their number."""
        if self.classes.fixed is not None and not self.splits_there():
            return None
        return self.known_split.class_names

    def category_ids(self, given: Sequence[int] | None) -> list[int]:
        """Ids of the classes for COCO results: those `given`, else the data's, else 1, 2, ...

        Args:
            given: `Infer.category_ids`; used if it has one for each class.
        """
        if given is not None and len(given) == self.classes.count:
            return list(given)
        if self.classes.given is not None or not self.splits_there():
            return list(range(1, self.classes.count + 1))
        return [number if number is not None else 0 for number in self.known_split.category_ids]

    def make_train_loader(self, targets: Targets) -> Loader:
        """Batches to train on, with the arrays that `targets` makes of their boxes. Raises UserError for wrong data."""
        section = self.loaders.get("Train", LoaderSection())
        where = "DataLoader.Train.dataset"
        ops = build_ops(section.dataset.transform_ops, TRANSFORMS, f"{where}.transform_ops")
        resizing = build_ops(
            section.dataset.batch_transform_ops,
            BATCH_TRANSFORMS,
            f"{where}.batch_transform_ops",
            image_shape=self.global_section.image_shape,
        )
        split, seed = self.train_split, self.global_section.seed
        if not any(len(record.boxes) for record in split.records):
            raise UserError(f"annotations {split.source}: no usable box in it, so there is nothing to learn")
        collate = TrainCollate(self.size, self.interpolation, resizing, targets, seed)
        cache = ImageCache("Train", split.paths, section.loader.cache)
        dataset = DetectionDataset(split, ops, seed, cache)
        return Loader(
            dataset, section.sampler, section.loader, collate, seed, normalization=self.normalization, cache=cache
        )

    @functools.cached_property
    def normalization(self) -> Normalization:
        """The normalisation of every batch, ImageNet's, as the public weights expect it."""
        return Normalization.of(IMAGENET_MEAN, IMAGENET_STD)

    @override
    def make_eval_loader(self) -> Loader:
        section = self.loaders.get("Eval", LoaderSection())
        if section.dataset.transform_ops or section.dataset.batch_transform_ops:
            raise UserError("DataLoader.Eval.dataset: images are only resized for evaluation, it takes no transforms")
        cache = ImageCache("Eval", self.eval_split.paths, section.loader.cache, skip=1)
        dataset = DetectionDataset(self.eval_split, [], self.global_section.seed, cache)
        return Loader(
            dataset,
            section.sampler.in_order(),
            section.loader,
            EvalCollate(self.size, self.interpolation),
            self.global_section.seed,
            normalization=self.normalization,
            cache=cache,
        )
