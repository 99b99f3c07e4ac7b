"""Normalising a batch after its transfer gives the values that normalising each image gives, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ppcls_ext.core.pixels import normalize
from ppcls_ext.data.pixels import Normalization
from ppcls_ext.data.transforms import apply, build_transforms, normalization_apart

NORMALIZE = {"scale": "1.0/255.0", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "order": ""}


def pixels(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 20, 30, 3), dtype=np.uint8)


def test_a_batch_is_normalised_as_its_images_are() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)
    labels = np.arange(3)
    images, others = Normalization.of(mean, std).batch([pixels(), labels])
    np.testing.assert_array_equal(images, np.stack([normalize(image, mean, std) for image in pixels()]))
    assert others is labels


def test_what_is_normalised_already_stays() -> None:
    images = np.ones((2, 3, 4, 4), np.float32)
    assert Normalization.of((0, 0, 0), (1, 1, 1)).batch([images])[0] is images


@pytest.mark.parametrize("end", [[], [{"ToCHWImage": None}]])
def test_the_end_of_a_list_of_transforms_comes_apart(end: list[Any]) -> None:
    ops = [{"ResizeImage": {"size": 16}}, {"NormalizeImage": NORMALIZE}, *end]
    transforms = build_transforms(ops, "ops")
    before, normalization = normalization_apart(transforms)
    assert normalization is not None
    assert len(before) == 1
    resized = np.stack([before[0](image) for image in pixels()])
    np.testing.assert_array_equal(
        normalization.batch([resized])[0], np.stack([apply(image, transforms) for image in pixels()])
    )


@pytest.mark.parametrize(
    "ops",
    [
        [],
        [{"ResizeImage": {"size": 16}}],
        [{"NormalizeImage": NORMALIZE}, {"RandFlipImage": {"flip_code": 1}}],
        [{"ToCHWImage": None}, {"NormalizeImage": {**NORMALIZE, "order": "chw"}}],
        [{"NormalizeImage": NORMALIZE}, {"NormalizeImage": NORMALIZE}],
    ],
)
def test_other_lists_stay_whole(ops: list[Any]) -> None:
    transforms = build_transforms(ops, "ops")
    assert normalization_apart(transforms) == (transforms, None)
