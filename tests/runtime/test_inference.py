"""What goes around a network that takes pixels: the same resizing, and nothing after it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from det.inference import DetectionInference
from ppcls_ext.cls.inference import ClassificationInference, best_first, normalization_apart
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pixels import IMAGENET_MEAN, IMAGENET_STD, normalize
from ppcls_ext.runtime.inference import Inference
from seg.inference import SegmentationInference, enlarged

STATISTICS = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
OPERATIONS = [{"ResizeImage": {"resize_short": 48}}, {"CropImage": {"size": 40}}]
NORMALIZE = {"NormalizeImage": {"scale": "1.0/255.0", "order": "", **STATISTICS}}


def classification(kind: str) -> Inference:
    operations = OPERATIONS if kind == "uint8" else [*OPERATIONS, NORMALIZE, {"ToCHWImage": None}]
    preprocess = {"transforms": operations, "input": kind}
    return ClassificationInference({"labels": ["a"], "postprocess": {"topk": 1}, "preprocess": preprocess})


def detection(kind: str) -> Inference:
    post = {"threshold": 0.3, "score_threshold": 0.1, "nms_threshold": 0.5, "nms_top_k": 9, "keep_top_k": 9}
    recipe = {
        "labels": ["a"],
        "category_ids": [1],
        "preprocess": {"resize": [32, 64], "input": kind},
        "postprocess": {"nms_in_graph": True, **post},
    }
    return DetectionInference(recipe)


def segmentation(kind: str, size: list[int] | None = None) -> Inference:
    preprocess = {"size": size or [32, 64], "max_side": None, "multiple": 32, "input": kind, **STATISTICS}
    recipe = {"labels": ["a", "b"], "preprocess": preprocess, "postprocess": {"palette": [[0, 0, 0], [9, 9, 9]]}}
    return SegmentationInference(recipe)


@pytest.mark.parametrize("make", [classification, detection, segmentation])
def test_floats_are_the_normalised_pixels(make: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 123, 3)).astype(np.uint8)
    (pixels,), (floats,) = make("uint8").prepare(image), make("float32").prepare(image)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(floats, normalize(pixels), atol=1e-6)


@pytest.mark.parametrize("make", [classification, detection, segmentation])
def test_a_smaller_copy_comes_to_the_size_of_the_whole(make: Any) -> None:
    inference = make("float32")
    small = np.zeros((151, 201, 3), np.uint8)
    (whole,), (copy,) = inference.prepare(np.zeros((601, 803, 3), np.uint8)), inference.prepare(small, (803, 601))
    assert whole.shape == copy.shape


@pytest.mark.parametrize("make", [classification, detection, segmentation])
def test_an_input_of_another_kind_is_one_line(make: Any) -> None:
    with pytest.raises(UserError, match=r"preprocess\.input: expected float32 or uint8, got 'int4'"):
        make("int4")


def test_pixels_of_free_size_are_refused() -> None:
    recipe = {
        "labels": ["a"],
        "preprocess": {"size": None, "max_side": None, "multiple": 32, "input": "uint8", **STATISTICS},
        "postprocess": {"palette": [[0, 0, 0]]},
    }
    with pytest.raises(UserError, match="uint8 needs a fixed size"):
        SegmentationInference(recipe)


def test_the_normalisation_is_parted_from_the_operations() -> None:
    outside, mean, std = normalization_apart([*OPERATIONS, NORMALIZE, {"ToCHWImage": None}], "t")
    assert outside == OPERATIONS
    np.testing.assert_allclose([mean, std], [IMAGENET_MEAN, IMAGENET_STD], rtol=1e-6)


@pytest.mark.parametrize(
    "operations", [OPERATIONS, [NORMALIZE, *OPERATIONS], [*OPERATIONS, {"ToCHWImage": None}, NORMALIZE]], ids=str
)
def test_what_does_not_end_with_the_normalisation_of_pixels_cannot_be_parted(operations: list[Any]) -> None:
    if operations[-1] is NORMALIZE:
        operations = [*operations[:-1], {"NormalizeImage": {"order": "chw"}}]
    with pytest.raises(UserError, match=r"Export\.input: uint8 needs a list"):
        normalization_apart(operations, "t")


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("values", [3, 1000])
def test_the_best_come_as_a_stable_sort_has_them(count: int, values: int) -> None:
    scores = np.random.default_rng(0).integers(0, values, 40).astype(np.float32)  # with 3 values most scores are equal
    np.testing.assert_array_equal(best_first(scores, count), np.argsort(-scores, kind="stable")[:count])
    scores[:39] = np.nan
    np.testing.assert_array_equal(best_first(scores, count), np.argsort(-scores, kind="stable")[:count])


@pytest.mark.parametrize("size", [(64, 32), (203, 97), (33, 17), (40, 65)])
def test_pixels_of_an_enlarged_mask_are_counted(size: tuple[int, int]) -> None:
    classes = np.random.default_rng(0).integers(0, 4, (32, 64)).astype(np.uint8)
    mask, counts = enlarged(classes, size, 5)
    np.testing.assert_array_equal(mask, cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST))
    np.testing.assert_array_equal(counts, np.bincount(mask.reshape(-1), minlength=5))
