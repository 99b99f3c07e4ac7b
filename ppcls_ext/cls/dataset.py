"""Samples and batches: what the training step and the evaluation get."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ppcls_ext.cls.splits import ImageList
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.images import BrokenImage, read_rgb
from ppcls_ext.core.seeding import BATCH, SAMPLE, seed_python
from ppcls_ext.data.cache import ImageCache
from ppcls_ext.data.loader import SampleKey
from ppcls_ext.data.pixels import Normalization
from ppcls_ext.data.transforms import Transform, apply


class ClassificationDataset:
    """Decoded and transformed images with their labels.

    A sample is float32 [3, H, W], int64 [1] and its key; all that is random in it is a function of
    the seed and the key. Where the batch is normalised later it is uint8 [H, W, 3] instead.

    Args:
        repeat: what is random in epoch e is that of epoch e % repeat.
        normalization: what follows the transforms, done to the whole batch where they give pixels.
        cache: keeps decoded images.
        read: reads an image file, to what the first transform takes.
    """

    def __init__(
        self,
        images: ImageList,
        transforms: Sequence[Transform],
        seed: int,
        repeat: int | None = None,
        normalization: Normalization | None = None,
        cache: ImageCache | None = None,
        read: Callable[[str], Any] = read_rgb,
    ) -> None:
        self.images, self.transforms, self.seed, self.repeat = images, transforms, seed, repeat
        self.normalization, self.cache, self._read = normalization, cache, read

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> tuple[np.ndarray, np.ndarray, SampleKey]:
        epoch, index, _ = key
        seed_python(self.seed, SAMPLE, epoch if self.repeat is None else epoch % self.repeat, index)
        path = self.images.paths[index]
        read = functools.partial(self._read, path)
        image = read() if self.cache is None else self.cache.read(index, read)
        try:
            array = self._transformed(image)
        except BrokenImage:  # found out only now, where the image is decoded as far as its crop needs
            raise
        except Exception as error:  # an operation that cannot work on this image, whichever it is
            height, width = image.shape[:2]
            raise UserError(
                f"image {path} ({width}x{height}): the transforms fail with {type(error).__name__}: {error}"
            ) from error
        return array, self.images.labels[index : index + 1], key

    def _transformed(self, image: np.ndarray) -> np.ndarray:
        if self.normalization is None:
            return apply(image, self.transforms)
        pixels: Any = image
        for transform in self.transforms:
            pixels = transform(pixels)
        return np.asarray(pixels)


class Collate:
    """Stacks samples into float32 [N, 3, H, W] (pixels into uint8 [N, H, W, 3]) and labels; mixes the batch where the
    config asks for it.

    Labels are int64 [N, 1], or float32 [N, classes] once mixed. With `keyed`, the sample keys
    (epoch, index, first of the batch) come last, int64 [N, 3].
    """

    def __init__(self, operations: Sequence[Transform], seed: int, keyed: bool = False) -> None:
        self.operations, self.seed, self.keyed = operations, seed, keyed

    def __call__(self, samples: list[tuple[np.ndarray, np.ndarray, SampleKey]]) -> list[np.ndarray]:
        """Make a batch. What is random in it is a function of the seed and of the key of its first sample.

        Raises:
            UserError: the images differ in shape.
        """
        shapes = {image.shape for image, _, _ in samples}
        if len(shapes) > 1:
            raise UserError(f"DataLoader: images of one batch differ in shape ({sorted(shapes)}); add a resize or crop")
        pairs: list[Any] = [(image, label) for image, label, _ in samples]
        epoch, _, first = samples[0][2]
        seed_python(self.seed, BATCH, epoch, first)
        for operation in self.operations:
            pairs = operation(pairs)
        images, labels = (np.stack([np.asarray(column) for column in columns]) for columns in zip(*pairs, strict=True))
        if images.dtype != np.uint8:  # PaddleClas mixes in float64, and labels to [N, 1, classes]
            images = images.astype(np.float32, copy=False)
        if labels.dtype.kind == "f":
            labels = labels.reshape(len(labels), -1).astype(np.float32)
        keys = [np.array([key for *_, key in samples], np.int64)] if self.keyed else []
        return [images, labels, *keys]
