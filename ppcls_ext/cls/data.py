"""The images and labels of a classification config, and the loaders that read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import override

from ppcls_ext.cls.dataset import ClassificationDataset, Collate
from ppcls_ext.cls.sections import LoaderSection
from ppcls_ext.cls.splits import UNLABELLED, ImageList, find_split, read_list, scan_folder
from ppcls_ext.core.config import Config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.images import read_rgb
from ppcls_ext.data.cache import ImageCache
from ppcls_ext.data.lists import read_class_names
from ppcls_ext.data.loader import Loader, SampleKey
from ppcls_ext.data.transforms import Transform, build_transforms, normalization_apart, resolve_sizes
from ppcls_ext.data.undecoded import needed_pixels, read_undecoded
from ppcls_ext.tasks.classes import Names
from ppcls_ext.tasks.data import TaskData
from ppcls_ext.tasks.splits import SPLIT_NAMES
from ppcls_ext.upstream.paddleclas import class_id_map, resize_crops_with

DEFAULT_CLASSES = 1000  # PaddleClas's number where `Arch.class_num` is left out


class ClassificationData(TaskData[LoaderSection, ImageList]):
    """See `TaskData`.

    Args:
        names_file: `Infer.PostProcess.class_id_map_file`, which names the classes where no list does.
        learns_labels: whether training images need labels (distillation does without).
    """

    def __init__(self, config: Config, names_file: str | None, learns_labels: bool) -> None:
        class_num = (config.get("Arch") or {}).get("class_num", DEFAULT_CLASSES)
        hint = "; leave the file out with -o Infer.PostProcess.class_id_map_file=null or give another"
        super().__init__(config, LoaderSection, class_num, hint)
        self.names_file, self.learns_labels = names_file, learns_labels

    @override
    def given_names(self) -> Names | None:
        """Class names of a file that the config names, or of the run folder that it lies in."""
        files = [self.rooted(s.dataset.class_names) for s in self.loaders.values() if s.dataset.class_names]
        files += [class_id_map(self.names_file)] if self.names_file else []
        return Names(read_class_names(files[0]), str(files[0])) if files else self.saved_names()

    @override
    def found_names(self) -> tuple[str, ...] | None:
        """Class names of a split that has been read, or of the training split where the number of classes is open."""
        read = self.splits_read()
        if not read and self.classes.fixed is not None:
            return None
        return (read[0] if read else self.train_split).class_names

    @override
    def names_of(self, split: ImageList) -> tuple[str, ...]:
        return split.class_names

    @override
    def paths_of(self, split: ImageList) -> Sequence[str]:
        return split.paths

    @override
    def read_split(self, split: str, names: tuple[str, ...] | None) -> ImageList:
        """Read a split from its list file, from class folders, or from where it is found below the data root.

        Raises:
            UserError: wrong data, or a number of classes other than that of the config.
        """
        dataset, count = self.loaders[split].dataset, self.classes.fixed
        unlabelled = split == "Train" and not self.learns_labels
        if dataset.name == "ImageFolder":
            images = find_split(self.root(), SPLIT_NAMES[split], dataset.val_fraction, names, count, unlabelled)
        elif dataset.image_root is None:
            raise UserError(f"DataLoader.{split}.dataset.image_root is missing")
        elif dataset.cls_label_path is None:
            images = scan_folder(self.rooted(dataset.image_root), names)
        else:
            list_path, root = self.rooted(dataset.cls_label_path), self.rooted(dataset.image_root)
            images = read_list(list_path, root, dataset.delimiter, names, count, unlabelled)
        self.classes.check_found(len(images.class_names), images.source)
        return images

    def transform_ops(self, split: str) -> list[dict[str, dict[str, Any]]]:
        """The operations of a split as the config lists them, with every `auto` size filled in."""
        ops = self.loaders[split].dataset.transform_ops or []
        return resolve_sizes(ops, self.global_section.image_shape, f"DataLoader.{split}.dataset.transform_ops")

    @property
    def mixes_batches(self) -> bool:
        """Whether training batches are mixed, so that a sample has parts of several labels."""
        return bool(self.loaders["Train"].dataset.batch_transform_ops)

    def has_hard_labels(self) -> bool:
        """Whether training labels are neither mixed nor absent, so that accuracy means something."""
        return not self.mixes_batches and UNLABELLED not in self.train_split.labels

    def make_loader(self, split: str, cached: tuple[int, int] | None = None, whole: bool = False) -> Loader:
        """Batches of a split.

        Args:
            cached: seed of the crops and number of epochs that differ, where the outputs of a teacher are cached.
                Batches then end with the key of each sample.
            whole: every image in order, in this process alone.
        """
        section, seed = self.loaders[split], self.global_section.seed
        where = f"DataLoader.{split}.dataset"
        transforms = build_transforms(self.transform_ops(split), f"{where}.transform_ops")
        mixing = section.dataset.batch_transform_ops or []
        batch_ops = build_transforms(mixing, f"{where}.batch_transform_ops", self.classes.count)
        transforms, normalization = (transforms, None) if batch_ops else normalization_apart(transforms)
        images = self.split(split)
        cache = None if whole else ImageCache(split, images.paths, section.loader.cache, skip=int(split == "Eval"))
        read: Callable[[str], Any] = read_rgb
        if section.loader.decode == "scaled":
            cache, read = None, self._scaled(split, transforms)
        crop_seed, repeat = cached or (seed, None)
        dataset = ClassificationDataset(images, transforms, crop_seed, repeat, normalization, cache, read)
        if len(dataset):
            dataset[SampleKey(0, 0, 0)]  # a transform that cannot work is reported now, and not after an epoch
        sampler = section.sampler.in_order() if split == "Eval" or whole else section.sampler
        collate = Collate(batch_ops, seed, cached is not None)
        part, parts = (0, 1) if whole else (None, None)
        return Loader(dataset, sampler, section.loader, collate, seed, part, parts, normalization, cache)

    def _scaled(self, split: str, transforms: Sequence[Transform]) -> Callable[[str], Any]:
        """What reads images for `decode: scaled`; changes the transforms to take them.

        Raises:
            UserError: for evaluation, without a random crop, or with a cache.
        """
        where = f"DataLoader.{split}.loader.decode"
        if split == "Eval":
            raise UserError(f"{where}: scaled is for training; evaluation decodes in full")
        if not transforms or type(transforms[0]).__name__ != "RandCropImage":
            raise UserError(f"{where}: scaled needs RandCropImage as the first operation after DecodeImage")
        if self.loaders[split].loader.cache is True:
            raise UserError(f"{where}: scaled decodes another part in every epoch, so nothing can be kept; cache=auto")
        resize_crops_with(transforms[0], needed_pixels)
        return read_undecoded

    @override
    def make_eval_loader(self) -> Loader:
        return self.make_loader("Eval")
