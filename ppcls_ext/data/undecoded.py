"""JPEGs that are decoded only once it is known how small the part that is needed of them may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppcls_ext.core.exif import orientation_of, swaps_sides
from ppcls_ext.core.headers import image_size
from ppcls_ext.core.images import decode_rgb, is_jpeg, read_bytes, read_rgb
from ppcls_ext.runtime.sources import LEFT_OVER, REDUCTIONS


@dataclass(frozen=True)
class Undecoded:
    """A region of a JPEG that is not decoded yet. It is cut out as an array is, but along both sides at once.

    Attributes:
        data: what the file holds, uint8 [n].
        path: of the file.
        whole: height and width of the image, upright.
        top, left, height, width: of the region, in pixels of the image.
    """

    data: np.ndarray
    path: str
    whole: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the array that it stands for, [height, width, 3]."""
        return self.height, self.width, 3

    def __getitem__(self, region: tuple[slice, slice, slice]) -> Undecoded:
        (top, bottom, _), (left, right, _) = (
            part.indices(side) for part, side in zip(region[:2], self.shape[:2], strict=True)
        )
        return Undecoded(self.data, self.path, self.whole, self.top + top, self.left + left, bottom - top, right - left)

    def pixels(self, size: tuple[int, int]) -> np.ndarray:
        """The region, uint8 RGB [h, w, 3]: decoded at 1/2, 1/4 or 1/8 where at least twice `size` is left.

        Args:
            size: width and height that it will be resized to.
        Raises:
            BrokenImage: it cannot be decoded.
        """
        room = min(self.width / size[0], self.height / size[1])
        factor = next((f for f in REDUCTIONS if room >= f * LEFT_OVER), 1)
        decoded = decode_rgb(self.data, self.path, reduction=factor)
        # The size of what was decoded counts: sides are rounded up, and some builds of OpenCV always decode in full.
        down, across = decoded.shape[0] / self.whole[0], decoded.shape[1] / self.whole[1]
        top = min(round(self.top * down), decoded.shape[0] - 1)
        left = min(round(self.left * across), decoded.shape[1] - 1)
        bottom = max(top + 1, round((self.top + self.height) * down))
        right = max(left + 1, round((self.left + self.width) * across))
        return decoded[top:bottom, left:right]


def read_undecoded(path: str) -> Undecoded | np.ndarray:
    """An image file: a JPEG undecoded, anything else as uint8 RGB [H, W, 3]. Raises BrokenImage for a bad one."""
    data = read_bytes(path)
    stated = image_size(data) if is_jpeg(data) else None
    if stated is None:
        return read_rgb(path)
    width, height = stated[::-1] if swaps_sides(orientation_of(path)) else stated
    return Undecoded(data, path, (height, width), 0, 0, height, width)


def needed_pixels(part: Undecoded | np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels of what `read_undecoded` gave, or of a region of it; see `Undecoded.pixels`."""
    return part.pixels(size) if isinstance(part, Undecoded) else part
