"""Transform lists as PaddleClas writes them: `- ResizeImage: {resize_short: 256}`.

The operations are PaddleClas's. Decoding is done before them (`ppcls_ext.core.images`), so `DecodeImage` is only read
for its options. A size of `auto` is taken from `Global.image_shape`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.operations import read_operations
from ppcls_ext.data.bounds import check_arguments
from ppcls_ext.data.pixels import Normalization
from ppcls_ext.runtime.transforms import fraction
from ppcls_ext.upstream.paddleclas import ppcls

Transform = Callable[[Any], Any]

# The paper tests on a crop of 224 pixels from an image whose short edge is 256.
CROP_RATIO = 224 / 256

# Operations of PaddleClas that give uint8 [H, W, 3] for uint8 [H, W, 3].
_OF_PIXELS = ("ResizeImage", "CropImage", "RandCropImage", "RandCropImageV2", "RandFlipImage")


def resolve_sizes(
    ops: Sequence[Any], image_shape: Sequence[int], where: str = "transforms"
) -> list[dict[str, dict[str, Any]]]:
    """The operations with every `auto` size replaced by a number, for inputs of `image_shape` (C, H, W)."""
    _, height, width = image_shape
    resolved = []
    for name, filled, _ in read_operations(ops, where):
        if filled.get("size") == "auto":
            # ResizeImage and CropImage take (w, h); RandCropImage hands its size to OpenCV, which wants (w, h) too.
            filled["size"] = height if height == width else [width, height]
        if filled.get("resize_short") == "auto" and height == width:
            filled["resize_short"] = round(height / CROP_RATIO)
        elif filled.get("resize_short") == "auto":  # with a fixed short edge the crop might be larger than the image
            del filled["resize_short"]
            filled["size"] = [round(width / CROP_RATIO), round(height / CROP_RATIO)]
        resolved.append({name: filled})
    return resolved


def build_transforms(ops: Sequence[Any] | None, where: str, class_num: int | None = None) -> list[Transform]:
    """Build the operations of a list, in order, without `DecodeImage`.

    Raises:
        UserError: an unknown operation or argument.
    """
    preprocess = ppcls("data.preprocess")
    known = {n: f for n, f in vars(preprocess).items() if isinstance(f, type) and n[0].isupper()}
    known["CropImage"] = _whole_crop(known["CropImage"])
    built = []
    for operation in read_operations(ops, where):
        name, arguments, here = operation
        if name == "DecodeImage":
            for key, value in arguments.items():
                expected = {"to_rgb": True, "to_np": False, "channel_first": False}
                if key not in expected or value != expected[key]:
                    raise UserError(f"{here}.{key}: {value}: images are decoded to RGB, height x width x channels")
            continue
        if name == "NormalizeImage":
            scale = arguments.get("scale")
            try:
                arguments["scale"] = None if scale is None else fraction(scale)
            except ValueError as error:
                raise UserError(f"{here}.scale: {error}") from error
        check_arguments(name, arguments, here)
        given = {"class_num": class_num} if class_num is not None and "class_num" not in arguments else {}
        built.append(operation.build(known, given=given))
    return built


def _whole_crop(crop: type[Any]) -> type[Any]:
    """PaddleClas's crop from the middle, which of a smaller image gives a part of some other size, and says nothing."""

    class CropImage(crop):  # type: ignore[misc]
        __module__ = crop.__module__
        __doc__ = crop.__doc__

        def __call__(self, img: np.ndarray) -> np.ndarray:
            width, height = self.size
            if img.shape[0] < height or img.shape[1] < width:
                raise ValueError(
                    f"a crop of {width}x{height} is larger than the image at that point, {img.shape[1]}x{img.shape[0]}"
                )
            cropped: np.ndarray = super().__call__(img)
            return cropped

    return CropImage


def apply(image: np.ndarray, transforms: Sequence[Transform]) -> np.ndarray:
    """Run the transforms on uint8 [H, W, 3]; gives float32 [3, H, W], contiguous."""
    data: Any = image
    for transform in transforms:
        data = transform(data)
    array = np.asarray(data, np.float32)
    if array.ndim == 3 and array.shape[0] != 3 and array.shape[2] == 3:
        array = array.transpose(2, 0, 1)
    return np.ascontiguousarray(array)


def normalization_apart(transforms: Sequence[Transform]) -> tuple[list[Transform], Normalization | None]:
    """The transforms without the normalisation of pixels at their end, and that normalisation, to be done to batches.

    Where they end otherwise, or something before may give anything but pixels: all of them, and None.
    """
    names = [type(transform).__name__ for transform in transforms]
    end = len(names) - 1 if names and names[-1] == "ToCHWImage" else len(names)
    if end == 0 or names[end - 1] != "NormalizeImage" or not set(names[: end - 1]) <= set(_OF_PIXELS):
        return list(transforms), None
    normalize: Any = transforms[end - 1]
    if normalize.order == "chw" or normalize.channel_num != 3 or normalize.output_dtype != "float32":
        return list(transforms), None
    return list(transforms[: end - 1]), Normalization(normalize)
