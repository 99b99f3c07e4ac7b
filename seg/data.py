"""The images and masks of a segmentation config, and the loaders that read them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from ppcls_ext.core.config import Config
from ppcls_ext.core.errors import UserError
from ppcls_ext.data.cache import ImageCache
from ppcls_ext.data.lists import read_class_names
from ppcls_ext.data.loader import Loader
from ppcls_ext.data.pixels import Normalization
from ppcls_ext.tasks.classes import Names
from ppcls_ext.tasks.data import TaskData
from ppcls_ext.tasks.splits import SPLIT_NAMES
from seg import cityscapes
from seg.colours import palette
from seg.dataset import SegmentationDataset, collate
from seg.masks import Rules, check_pairs, count_classes
from seg.sections import ArchSection, LoaderSection, MasksSection, NormalizeSection
from seg.splits import PairList, find_cityscapes, find_pairs, read_pairs


class SegmentationData(TaskData[LoaderSection, PairList]):
    """See `TaskData`."""

    def __init__(self, config: Config, arch: ArchSection, masks: MasksSection, normalization: NormalizeSection) -> None:
        super().__init__(config, LoaderSection, arch.class_num)
        self.masks, self.normalization = masks, normalization
        shape = self.global_section.image_shape
        self.crop = (shape[1], shape[2])  # height, width of training samples

    @override
    def read_split(self, split: str, names: tuple[str, ...] | None) -> PairList:
        """Pair the images of a split with their masks; `names` changes nothing, masks hold numbers.

        Raises:
            UserError: no such files, or images without a mask.
        """
        dataset = self.loaders[split].dataset
        if dataset.name == "MaskList":
            if dataset.list_path is None:
                raise UserError(f"DataLoader.{split}.dataset.list_path is missing")
            list_path = self.rooted(dataset.list_path)
            root = list_path.parent if dataset.image_root is None else self.rooted(dataset.image_root)
            return read_pairs(list_path, root, dataset.delimiter)
        if dataset.name == "Cityscapes":
            return find_cityscapes(self.root(), SPLIT_NAMES[split])
        return find_pairs(self.root(), SPLIT_NAMES[split], dataset.val_fraction, dataset.delimiter)

    @functools.cached_property
    def eval_split(self) -> PairList:
        """The split to evaluate on. Raises UserError for missing files."""
        return self.read_split("Eval", None)  # masks hold numbers, whatever the classes are called

    @override
    def names_of(self, split: PairList) -> tuple[str, ...] | None:
        """The class names that lie beside a split."""
        return split.class_names

    @override
    def paths_of(self, split: PairList) -> Sequence[str]:
        return split.images

    @override
    def given_names(self) -> Names | None:
        """Class names of the config, or of the run folder that it lies in."""
        if self.masks.class_names is not None:
            return Names(read_class_names(self.rooted(self.masks.class_names)), self.masks.class_names)
        return self.saved_names()

    @override
    def found_names(self) -> tuple[str, ...] | None:
        """The class names beside the data; where the config leaves their number open, numbers up to the masks' largest.

        Weights are exported where there is no data, too: then there are none.
        """
        fixed = self.classes.fixed
        if fixed is not None and not ("Train" in self.loaders and self._at_hand()):
            return None
        names = self.train_split.class_names
        if names is not None:
            if fixed not in (None, len(names)):
                raise UserError(
                    f"Arch.class_num is {fixed}, but the file of class names beside the data names {len(names)} classes"
                )
            return names
        if fixed is not None:
            return None
        return tuple(map(str, range(count_classes(self.train_split, self.rules(self.train_split, None)))))

    def _at_hand(self) -> bool:
        dataset = self.loaders["Train"].dataset
        if dataset.name == "MaskList":
            return dataset.list_path is not None and self.rooted(dataset.list_path).is_file()
        return self.global_section.data_root is not None and Path(self.global_section.data_root).is_dir()

    def rules(self, pairs: PairList, class_num: int | None) -> Rules:
        """How the masks of a split are read; `class_num` None accepts any class."""
        return Rules(class_num, self.masks.ignore_index, self.masks.values or pairs.values)

    def colours(self) -> list[tuple[int, int, int]]:
        """An RGB colour for each class: Cityscapes's own, or a palette."""
        names = self.classes.names
        return cityscapes.COLOURS if names == cityscapes.NAMES else palette(len(names))

    def make_loader(self, split: str) -> Loader:
        """Batches of a split: of training samples cut to `crop`, or of whole images in order.

        Raises:
            UserError: wrong data; masks are looked at for a quarter of `Global.check_seconds`.
        """
        section, pairs, seed = self.loaders[split], self.split(split), self.global_section.seed
        rules = self.rules(pairs, self.classes.count)
        training = split == "Train"
        sampler = section.sampler if training else section.sampler.in_order()
        cache = ImageCache(split, pairs.images, section.loader.cache, extra=1, slots=2, skip=int(not training))
        augment = section.dataset.augment if training else None
        dataset = SegmentationDataset(pairs, rules, self.normalization, seed, augment, self.crop, cache)
        # Images are checked by the core before training; this is for what only masks can have wrong.
        check_pairs(pairs, rules, self.global_section.check_seconds / 4, seed)
        after = Normalization.of(self.normalization.mean, self.normalization.std)
        return Loader(dataset, sampler, section.loader, collate, seed, normalization=after, cache=cache)

    @override
    def make_eval_loader(self) -> Loader:
        return self.make_loader("Eval")
