"""The operations before a classifier equal PaddleClas's to the last bit, and refuse what they cannot do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ppcls_ext.cls.inference import ClassificationInference, build_preprocessing, needs_paddleclas
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.pixels import normalize
from ppcls_ext.data.transforms import apply, build_transforms
from ppcls_ext.runtime.transforms import NormalizeImage, PixelTables

SIZES = [(375, 500), (500, 333), (224, 224), (97, 61), (33, 256), (7, 5), (1, 3)]  # height, width
STATISTICS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
RESIZES = [
    {"resize_short": 64},
    {"resize_short": 63, "interpolation": "bicubic"},
    {"size": 48},
    {"size": [40, 56]},
    {"size": [40, 56], "resize_short": 0},
    *({"resize_short": 57, "interpolation": name} for name in ("nearest", "bilinear", "area", "lanczos")),
    *({"size": [50, 41], "interpolation": n, "backend": "pil"} for n in ("bilinear", "bicubic", "box", "hamming")),
    {"resize_short": 57, "backend": "pil"},
]
CROPS: list[Any] = [40, 39, [38, 33]]


def picture(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)


def both(ops: list[dict[str, Any]], image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outcome of the runtime's and of PaddleClas's operations."""
    ours, theirs = build_preprocessing(ops, "transforms"), build_transforms(ops, "transforms")
    assert {type(op).__module__ for op in ours} == {"ppcls_ext.runtime.transforms"}
    assert not any(type(op).__module__.startswith("ppcls_ext") for op in theirs)
    return apply(image, ours), apply(image, theirs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", RESIZES, ids=str)
def test_resizing_equals_paddleclas(resize: dict[str, Any], size: tuple[int, int]) -> None:
    image = picture(size)
    operations = [{"DecodeImage": {"to_rgb": True}}, {"ResizeImage": resize}, {"NormalizeImage": {"order": ""}}]
    ours, theirs = both(operations, image)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("crop", CROPS, ids=str)
@pytest.mark.parametrize("size", SIZES[:3])
def test_crops_equal_paddleclas(size: tuple[int, int], crop: Any) -> None:
    operations = [{"ResizeImage": {"resize_short": 45}}, {"CropImage": {"size": crop}}, {"NormalizeImage": None}]
    operations.insert(2, {"ToCHWImage": None})
    ours, theirs = both(operations, picture(size))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("scale", ["1.0/255.0", 1 / 255, "0.00392157", None])
@pytest.mark.parametrize("order", ["", "hwc"])
def test_normalising_equals_paddleclas(scale: Any, order: str) -> None:
    ours, theirs = both([{"NormalizeImage": {"scale": scale, "order": order, **STATISTICS}}], picture((31, 47)))
    assert ours.dtype == np.float32
    assert ours.shape == (3, 31, 47)
    np.testing.assert_array_equal(ours, theirs)


def test_what_only_paddleclas_has_is_named_and_built_by_it() -> None:
    operations = [{"Padv2": {"size": [64, 64]}}, {"ResizeImage": {"size": 8}}]
    assert needs_paddleclas(operations, "t") == ["Padv2"]
    built = build_preprocessing(operations, "t")
    assert type(built[0]).__name__ == "Padv2"


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ({"ResizeImage": {}}, "one of size and resize_short"),
        ({"ResizeImage": {"size": 10**9}}, "number of pixels from 1 to"),
        ({"ResizeImage": {"size": [3, "a"]}}, "number of pixels from 1 to"),
        ({"ResizeImage": {"size": 8, "interpolation": "bilinera"}}, "did you mean 'bilinear'"),
        ({"ResizeImage": {"size": 8, "backend": "gpu"}}, "cv2 or pil"),
        ({"ResizeImage": {"sise": 8}}, "did you mean 'size'"),
        ({"CropImage": {"size": -1}}, "number of pixels from 1 to"),
        ({"NormalizeImage": {"scale": "__import__('os')"}}, "not a number or a quotient"),
        ({"NormalizeImage": {"scale": "1/0"}}, "not a number or a quotient"),
        ({"NormalizeImage": {"std": [0, 1, 1]}}, "std must be above 0"),
        ({"NormalizeImage": {"std": [-1, 1, 1]}}, "std must be above 0"),
        ({"NormalizeImage": {"mean": [1e308, 0, 0]}}, "mean must be a number for each channel, of at most 1000"),
        ({"NormalizeImage": {"scale": 0}}, "scale must be above 0"),
        ({"NormalizeImage": {"order": "x"}}, "order must be chw or hwc"),
        ({"NormalizeImage": {"mean": [1, 2]}}, "mean must be a number for each channel"),
    ],
)
def test_wrong_arguments_are_one_line(operation: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=r"^preprocess\.0\.") as caught:
        build_preprocessing([operation], "preprocess")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_too_long_for_its_short_edge_is_refused() -> None:
    resize = build_preprocessing([{"ResizeImage": {"resize_short": 256}}], "t")
    with pytest.raises(UserError, match="short edge"):
        apply(picture((1, 4000)), resize)


@pytest.mark.parametrize(
    "operation",
    [
        lambda pixels: normalize(pixels, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)).transpose(1, 2, 0),
        NormalizeImage(scale="1.0/255.0", order="", **STATISTICS),
    ],
    ids=["normalize", "NormalizeImage"],
)
def test_tables_equal_the_operation_they_are_made_of(operation: Any) -> None:
    tables, image = PixelTables(operation), picture((31, 47))
    for part in (image, image[3:20, 5:40]):  # a crop lies in another image's memory
        found = tables(part)
        np.testing.assert_array_equal(found, operation(part).transpose(2, 0, 1))
        assert found.flags.c_contiguous


@pytest.mark.parametrize(
    "operations",
    [
        [{"ResizeImage": {"resize_short": 64}}, {"CropImage": {"size": 56}}, {"NormalizeImage": {"order": ""}}],
        [{"CropImage": {"size": 30}}, {"ResizeImage": {"size": 24}}, {"NormalizeImage": {"order": ""}}],
        [{"ResizeImage": {"size": 24}}, {"ToCHWImage": None}, {"NormalizeImage": {"order": "chw"}}],
        [{"ResizeImage": {"size": 24}}, {"NormalizeImage": {"order": ""}}, {"NormalizeImage": {"order": ""}}],
    ],
    ids=str,
)
@pytest.mark.parametrize("size", SIZES[:4])
def test_a_classifier_prepares_images_as_paddleclas_does(operations: list[Any], size: tuple[int, int]) -> None:
    recipe = {"labels": ["a"], "postprocess": {"topk": 1}, "preprocess": {"transforms": operations}}
    (found,) = ClassificationInference(recipe).prepare(picture(size))
    np.testing.assert_array_equal(found, apply(picture(size), build_transforms(operations, "transforms")))
