"""Samples and batches: what the training step and the evaluation get."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from det.splits import CocoSplit, read_record_image
from det.transforms import BatchRandomResize, Sample, Transform, resize
from ppcls_ext.core.seeding import BATCH, SAMPLE
from ppcls_ext.data.cache import ImageCache
from ppcls_ext.data.loader import SampleKey

KeyedSample = tuple[Sample, SampleKey]
# Makes the arrays that the losses compare with, from images [N, 3, H, W] of which only the shape matters, their boxes
# and the epoch.
Targets = Callable[[np.ndarray, Sequence[Sample], int], list[np.ndarray]]


class DetectionDataset:
    """Images with boxes; all that is random in a sample is a function of the seed, epoch and index."""

    def __init__(
        self, split: CocoSplit, transforms: Sequence[Transform], seed: int, cache: ImageCache | None = None
    ) -> None:
        self.split, self.transforms, self.seed, self.cache = split, transforms, seed, cache

    def __len__(self) -> int:
        return len(self.split.records)

    def __getitem__(self, key: SampleKey) -> KeyedSample:
        record = self.split.records[key.number]
        read = functools.partial(read_record_image, record)
        image = read() if self.cache is None else self.cache.read(key.number, read)
        sample = Sample(image, record.boxes, record.classes)
        rng = np.random.default_rng((self.seed, SAMPLE, key.epoch, key.number))
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample, key


class TrainCollate:
    """A batch to train on: pixels uint8 [N, H, W, 3], then the arrays that `targets` makes.

    Args:
        size: (height, width) of batches where `resizing` does not choose another.
        interpolation: likewise; one of `INTERPOLATIONS`.
    """

    def __init__(
        self,
        size: tuple[int, int],
        interpolation: str,
        resizing: Sequence[BatchRandomResize],
        targets: Targets,
        seed: int,
    ) -> None:
        self.size, self.interpolation, self.resizing = size, interpolation, resizing
        self.targets, self.seed = targets, seed

    def __call__(self, samples: Sequence[KeyedSample]) -> list[np.ndarray]:
        """Make a batch. What is random in it is a function of the seed and of the key of its first sample."""
        epoch, _, first = samples[0][1]
        rng = np.random.default_rng((self.seed, BATCH, epoch, first))
        size, interpolation = self.size, self.interpolation
        for operation in self.resizing:
            size, interpolation = operation(rng)
        resized = [resize(sample, size, interpolation) for sample, _ in samples]
        pixels = np.stack([sample.image for sample in resized])
        normalised = np.broadcast_to(np.float32(0), (len(pixels), 3, *size))
        return [pixels, *self.targets(normalised, resized, epoch)]


class EvalCollate:
    """A batch to evaluate on: pixels uint8 [N, H, W, 3] and their numbers in the split, int64 [N]."""

    def __init__(self, size: tuple[int, int], interpolation: str) -> None:
        self.size, self.interpolation = size, interpolation

    def __call__(self, samples: Sequence[KeyedSample]) -> list[np.ndarray]:
        """Make a batch; every image is resized to the same size."""
        images = [resize(sample, self.size, self.interpolation).image for sample, _ in samples]
        return [np.stack(images), np.array([key.number for _, key in samples], np.int64)]
