"""Samples and batches: what the training step and the evaluation get."""

from __future__ import annotations

import functools

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.seeding import SAMPLE
from ppcls_ext.data.cache import ImageCache
from ppcls_ext.data.loader import SampleKey
from seg.masks import Rules, read_pair
from seg.sections import AugmentSection, NormalizeSection
from seg.splits import PairList
from seg.transforms import crop_and_flip, distort


class SegmentationDataset:
    """Images with their masks.

    A sample is uint8 [H, W, 3] and uint8 [H, W] (classes, `IGNORE`). With `augment` it is cropped to `size`, and
    all that is random in it is a function of the seed and the key; without, it has the image's own size.
    """

    def __init__(
        self,
        pairs: PairList,
        rules: Rules,
        normalization: NormalizeSection,
        seed: int,
        augment: AugmentSection | None = None,
        size: tuple[int, int] = (0, 0),
        cache: ImageCache | None = None,
    ) -> None:
        self.pairs, self.rules = pairs, rules
        self.seed, self.augment, self.size, self.cache = seed, augment, size, cache
        self.fill = tuple(round(255 * m) for m in normalization.mean)  # about zero once normalised, as in evaluation

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        epoch, index, _ = key
        image, mask = self._read(index)
        if self.augment is not None:
            rng = np.random.default_rng((self.seed, SAMPLE, epoch, index))
            image, mask = crop_and_flip(image, mask, self.size, self.augment, self.fill, rng)
            if self.augment.distort:
                image = distort(image, self.augment.distort, rng)
        return image, mask

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        read = functools.cache(lambda: read_pair(self.pairs.images[index], self.pairs.masks[index], self.rules))
        if self.cache is None:
            return read()
        return self.cache.read(index, lambda: read()[0], slot=0), self.cache.read(index, lambda: read()[1], slot=1)


def collate(samples: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Stack samples into uint8 [N, H, W, 3] and uint8 [N, H, W]."""
    shapes = {mask.shape for _, mask in samples}
    if len(shapes) > 1:
        sizes = ", ".join(f"{width}x{height}" for height, width in sorted(shapes))
        raise UserError(
            f"DataLoader.Eval: images of one batch differ in size ({sizes}); -o DataLoader.Eval.sampler.batch_size=1"
        )
    return [np.stack(column) for column in zip(*samples, strict=True)]
