"""From image and mask to a sample: scaling, crop, flips, colour changes, drawn from the sample's own generator."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageEnhance

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.seeding import SAMPLE
from ppcls_ext.data.loader import Place
from seg.masks import Rules, read_pair
from seg.sections import IGNORE, AugmentSection, NormalizeSection
from seg.splits import PairList

MULTIPLE = 32  # the network's largest stride: padded to it, its maps lie on the image's grid


def normalize(image: np.ndarray, settings: NormalizeSection) -> np.ndarray:
    """uint8 RGB [H, W, 3] to float32 [3, H, W], contiguous."""
    mean, std = (np.array(values, np.float32) * 255 for values in (settings.mean, settings.std))
    return np.ascontiguousarray(((image.astype(np.float32) - mean) / std).transpose(2, 0, 1))


def crop_and_flip(
    image: np.ndarray,
    mask: np.ndarray,
    size: tuple[int, int],
    settings: AugmentSection,
    fill: Sequence[float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Scale by a random step, cut a random window of `size` (height, width), mirror it.

    Where the scaled image is smaller than the window it is padded right and below: with `fill` (RGB), the mask
    with `IGNORE`. All of it is one affine map, so it costs the same at every scale of every image.
    """
    low, high, step = settings.scale
    factors = np.arange(low, high + step / 2, step)
    factor = float(factors[rng.integers(len(factors))])
    height, width = size
    scaled = round(image.shape[0] * factor), round(image.shape[1] * factor)
    top, left = (int(rng.integers(max(full - part, 0) + 1)) for full, part in zip(scaled, size, strict=True))
    mirror = rng.random(2) < (settings.flip, settings.vertical_flip)
    # Window pixel (x, y) is at ((x + left) + 1/2) / factor - 1/2 of the image, counted from the other end if mirrored.
    rows = []
    for axis, (start, end) in enumerate(((left, width), (top, height))):
        sign, origin = (-1, end - 1) if mirror[axis] else (1, 0)
        row = [0.0, 0.0, (origin + start + 0.5) / factor - 0.5]
        row[axis] = sign / factor
        rows.append(row)
    matrix, edge, inverse = np.array(rows), cv2.BORDER_CONSTANT, cv2.WARP_INVERSE_MAP
    linear, nearest = cv2.INTER_LINEAR | inverse, cv2.INTER_NEAREST | inverse
    image = cv2.warpAffine(image, matrix, (width, height), flags=linear, borderMode=edge, borderValue=tuple(fill))
    mask = cv2.warpAffine(mask, matrix, (width, height), flags=nearest, borderMode=edge, borderValue=IGNORE)
    return image, mask


def distort(image: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast and colour, each with even chance by a factor within 1 +- spread, in random order."""
    changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    picture = Image.fromarray(image)
    for place in rng.permutation(len(changes)):
        if rng.random() < 0.5:
            picture = changes[place](picture).enhance(rng.uniform(1 - spread, 1 + spread))
    return np.asarray(picture)


class SegmentationDataset:
    """Normalised images with their masks.

    A sample is float32 [3, H, W] and uint8 [H, W] (classes, `IGNORE`). With `augment` it is cropped to `size`, and
    all that is random in it is a function of the seed and the place; without, it has the image's own size.
    """

    def __init__(
        self,
        pairs: PairList,
        rules: Rules,
        normalization: NormalizeSection,
        seed: int,
        augment: AugmentSection | None = None,
        size: tuple[int, int] = (0, 0),
    ) -> None:
        self.pairs, self.rules, self.normalization = pairs, rules, normalization
        self.seed, self.augment, self.size = seed, augment, size
        self.fill = tuple(round(255 * m) for m in normalization.mean)  # about zero once normalised, as in evaluation

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: Place) -> tuple[np.ndarray, np.ndarray]:
        epoch, index, _ = place
        image, mask = read_pair(self.pairs.images[index], self.pairs.masks[index], self.rules)
        if self.augment is not None:
            rng = np.random.default_rng((self.seed, SAMPLE, epoch, index))
            image, mask = crop_and_flip(image, mask, self.size, self.augment, self.fill, rng)
            if self.augment.distort:
                image = distort(image, self.augment.distort, rng)
        return normalize(image, self.normalization), mask


def collate(samples: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Stack samples into float32 [N, 3, H, W] and uint8 [N, H, W]."""
    shapes = {mask.shape for _, mask in samples}
    if len(shapes) > 1:
        sizes = ", ".join(f"{width}x{height}" for height, width in sorted(shapes))
        raise UserError(
            f"DataLoader.Eval: images of one batch differ in size ({sizes}); -o DataLoader.Eval.sampler.batch_size=1"
        )
    return [np.stack(column) for column in zip(*samples, strict=True)]
