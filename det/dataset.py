"""Samples and batches: what the training step and the evaluation get."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from det.splits import CocoSplit, read_record_image
from det.transforms import BatchRandomResize, Sample, Transform, resize
from ppcls_ext.core.pixels import normalize
from ppcls_ext.core.seeding import BATCH, SAMPLE
from ppcls_ext.data.loader import SampleKey

KeyedSample = tuple[Sample, SampleKey]
# Makes the arrays that the losses compare with, from normalised images [N, 3, H, W], their boxes and the epoch.
Targets = Callable[[np.ndarray, Sequence[Sample], int], list[np.ndarray]]


class DetectionDataset:
    """Images with boxes; all that is random in a sample is a function of the seed, epoch and index."""

    def __init__(self, split: CocoSplit, transforms: Sequence[Transform], seed: int) -> None:
        self.split, self.transforms, self.seed = split, transforms, seed

    def __len__(self) -> int:
        return len(self.split.records)

    def __getitem__(self, key: SampleKey) -> KeyedSample:
        record = self.split.records[key.number]
        sample = Sample(read_record_image(record), record.boxes, record.classes)
        rng = np.random.default_rng((self.seed, SAMPLE, key.epoch, key.number))
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample, key


class TrainCollate:
    """A batch to train on: images float32 [N, 3, H, W], then the arrays that `targets` makes.

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
        images = np.stack([normalize(sample.image) for sample in resized])
        return [images, *self.targets(images, resized, epoch)]


class EvalCollate:
    """A batch to evaluate on: images float32 [N, 3, H, W] and their numbers in the split, int64 [N]."""

    def __init__(self, size: tuple[int, int], interpolation: str) -> None:
        self.size, self.interpolation = size, interpolation

    def __call__(self, samples: Sequence[KeyedSample]) -> list[np.ndarray]:
        """Make a batch; every image is resized to the same size."""
        images = [normalize(resize(sample, self.size, self.interpolation).image) for sample, _ in samples]
        return [np.stack(images), np.array([key.number for _, key in samples], np.int64)]
