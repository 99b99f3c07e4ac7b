"""`ppcls_ext.data.transforms`: PaddleClas's lists of operations, with sizes from the config."""

from __future__ import annotations

import random
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.data.transforms import apply, build_transforms, resolve_sizes
from ppcls_ext.upstream.paddleclas import ppcls

NORMALIZE = {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2], "order": ""}}
EVAL = [
    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
    {"ResizeImage": {"resize_short": "auto"}},
    {"CropImage": {"size": "auto"}},
    NORMALIZE,
]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)


def test_auto_sizes_are_those_of_the_image_shape() -> None:
    square = resolve_sizes(EVAL, (3, 224, 224))
    assert square[1:3] == [{"ResizeImage": {"resize_short": 256}}, {"CropImage": {"size": 224}}]
    wide = resolve_sizes(EVAL, (3, 64, 128))
    assert wide[1:3] == [{"ResizeImage": {"size": [146, 73]}}, {"CropImage": {"size": [128, 64]}}]
    given = [{"RandCropImage": {"size": 7}}, "RandFlipImage"]
    assert resolve_sizes(given, (3, 9, 9)) == [{"RandCropImage": {"size": 7}}, {"RandFlipImage": {}}]
    assert EVAL[1] == {"ResizeImage": {"resize_short": "auto"}}  # the config stays as it was


def test_evaluation_is_resize_centre_crop_and_normalisation(image: np.ndarray) -> None:
    resized = cv2.resize(image, (round(90 * 37 / 60), 37), interpolation=cv2.INTER_LINEAR)  # 37: 32 of 7/8
    top, left = (resized.shape[0] - 32) // 2, (resized.shape[1] - 32) // 2
    cropped = resized[top : top + 32, left : left + 32].astype(np.float32)
    expected = ((cropped / 255 - [0.5, 0.4, 0.3]) / [0.5, 0.25, 0.2]).transpose(2, 0, 1)
    found = apply(image, build_transforms(resolve_sizes(EVAL, (3, 32, 32)), "ops"))
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 32, 64), (3, 64, 32), (3, 24, 24)])
def test_evaluation_fills_inputs_that_are_not_square(shape: tuple[int, int, int], image: np.ndarray) -> None:
    ops = build_transforms(resolve_sizes(EVAL, shape), "ops")
    for picture in (image, image.transpose(1, 0, 2), image[:, :10], image[:3]):
        assert apply(picture, ops).shape == shape


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 24, 40)])
def test_a_random_crop_has_the_shape_of_the_config(shape: tuple[int, int, int], image: np.ndarray) -> None:
    ops = build_transforms(resolve_sizes([{"RandCropImage": {"size": "auto"}}, NORMALIZE], shape), "ops")
    assert apply(image, ops).shape == shape


def test_an_image_that_is_already_channels_first_stays_so(image: np.ndarray) -> None:
    plain = apply(image, build_transforms([NORMALIZE], "ops"))
    with_op = apply(image, build_transforms([NORMALIZE, {"ToCHWImage": None}], "ops"))
    assert plain.shape == (3, 60, 90)
    np.testing.assert_array_equal(plain, with_op)


def test_random_operations_draw_from_the_seeded_generators(image: np.ndarray) -> None:
    ops = build_transforms([{"RandCropImage": {"size": 32}}, {"RandFlipImage": {"flip_code": 1}}], "ops")

    def draw(seed: int) -> np.ndarray:
        random.seed(seed)
        np.random.seed(seed)
        return apply(image, ops)

    np.testing.assert_array_equal(draw(1), draw(1))
    assert any((draw(1) != draw(seed)).any() for seed in (2, 3, 4))


AUGMENTS: list[dict[str, Any]] = [
    {"AutoAugment": {}},
    {"RandomErasing": {"EPSILON": 1.0}},
    {"TimmAutoAugment": {"config_str": "rand-m9-mstd0.5-inc1", "img_size": 32}},
]


@pytest.mark.parametrize("op", AUGMENTS, ids=lambda op: next(iter(op)))
def test_paddleclas_augmentations_run_on_current_python_and_numpy(op: dict[str, Any], image: np.ndarray) -> None:
    ops = build_transforms([{"RandCropImage": {"size": 32}}, op, NORMALIZE], "ops")
    results = [apply(image, ops) for _ in range(20)]
    assert all(r.shape == (3, 32, 32) and np.isfinite(r).all() for r in results)
    assert any((r != results[0]).any() for r in results)


def test_a_batch_is_mixed_with_the_class_count_of_the_config() -> None:
    (mix,) = build_transforms([{"MixupOperator": {"alpha": 0.2}}], "ops", class_num=4)
    np.random.seed(0)
    batch = [(np.full((3, 8, 8), k, np.float32), np.array([k])) for k in range(4)]
    mixed = mix(batch)
    assert len(mixed) == 4
    (preprocess_mix,) = [ppcls("data.preprocess").MixupOperator(class_num=4, alpha=0.2)]
    np.random.seed(0)
    for ours, theirs in zip(mixed, preprocess_mix(batch), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])


def test_a_quotient_is_read_but_nothing_is_evaluated() -> None:
    def scale(text: Any) -> float:
        (op,) = build_transforms([{"NormalizeImage": {**NORMALIZE["NormalizeImage"], "scale": text}}], "ops")
        return float(op.scale)

    assert scale("1.0/255.0") == scale(1 / 255) == pytest.approx(1 / 255)
    assert scale(" 1/255. ") == pytest.approx(1 / 255)
    for text in ("__import__('os').getpid()", "1/255/2", "2**8", "1/0", "1.2.3/4"):
        with pytest.raises(UserError, match=r"ops.0.NormalizeImage.scale: '.*' is not a number or a quotient"):
            scale(text)


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ([{"RandCropImag": {}}], r"ops.0.RandCropImag: no such operation; did you mean 'RandCropImage'\?"),
        (["RandFlipImage", {"CropImage": {"sise": 3}}], r"ops.1.CropImage.sise: unknown key; did you mean 'size'\?"),
        ([{"CropImage": None}], "ops.0.CropImage: key 'size' is missing"),
        ([{"CropImage": 224}], "ops.0.CropImage: expected arguments as key: value, got 224"),
        ([{"A": {}, "B": {}}], "ops.0: expected one operation"),
        ([3], "ops.0: expected one operation"),
        ({"CropImage": {"size": 3}}, "ops: expected a list of operations"),
        ([{"DecodeImage": {"to_rgb": False}}], "ops.0.DecodeImage.to_rgb: False: images are decoded to RGB"),
        ([{"DecodeImage": {"channel_first": True}}], "ops.0.DecodeImage.channel_first: True"),
        ([{"ResizeImage": {"size": 4, "resize_short": 4, "interpolation": "magic"}}], "ops.0.ResizeImage"),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(ops: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_transforms(ops, "ops")
    assert "\n" not in str(caught.value)
