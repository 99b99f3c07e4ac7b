"""Class maps of images: whole or in windows, mirrored, at several scales. float32 throughout.

Memory is that of one image's logits (two with flips or scales) and what the network needs for one image or window.
"""

from __future__ import annotations

from collections.abc import Callable

import paddle
import paddle.nn.functional as F

from ppcls_ext.models.network_spec import LARGEST_STRIDE
from seg.sections import EvalSection

Network = Callable[[paddle.Tensor], paddle.Tensor]  # float32 [N, 3, H, W] to logits [N, C, H, W]


def whole(network: Network, x: paddle.Tensor) -> paddle.Tensor:
    """Logits of images of any size, padded right and below to the network's stride with zeros, the mean colour."""
    height, width = x.shape[-2:]
    padded = F.pad(x, [0, -width % LARGEST_STRIDE, 0, -height % LARGEST_STRIDE])
    return network(padded)[:, :, :height, :width]


def starts(length: int, window: int, stride: int) -> list[int]:
    """The starts of windows that cover `length`; the last one ends with it."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def sliding(network: Network, x: paddle.Tensor, window: tuple[int, int], stride: tuple[int, int]) -> paddle.Tensor:
    """Logits averaged over overlapping windows (height, width)."""
    height, width = x.shape[-2:]
    total, count = None, paddle.zeros([1, 1, height, width])
    for top in starts(height, window[0], stride[0]):
        for left in starts(width, window[1], stride[1]):
            rows, columns = slice(top, min(top + window[0], height)), slice(left, min(left + window[1], width))
            logits = whole(network, x[:, :, rows, columns])
            if total is None:
                total = paddle.zeros([*logits.shape[:2], height, width])
            total[:, :, rows, columns] += logits
            count[:, :, rows, columns] += 1
    assert total is not None
    return total / count


def class_map(
    network: Network, x: paddle.Tensor, settings: EvalSection, default_window: tuple[int, int]
) -> paddle.Tensor:
    """The best class of each pixel, int32 [N, H, W], by an `Eval` section.

    With flips or several scales, probabilities are averaged.
    """
    window = settings.window or default_window
    stride = settings.stride or (max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3))
    height, width = x.shape[-2:]
    single = not settings.flip and len(settings.scales) == 1
    total = None
    for scale in settings.scales:
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        scaled = x if size == [height, width] else F.interpolate(x, size, mode="bilinear")
        for mirrored in (False, True) if settings.flip else (False,):
            given = scaled.flip(-1) if mirrored else scaled
            logits = sliding(network, given, window, stride) if settings.mode == "sliding" else whole(network, given)
            if mirrored:
                logits = logits.flip(-1)
            if size != [height, width]:
                logits = F.interpolate(logits, [height, width], mode="bilinear")
            if not single:
                logits = F.softmax(logits, axis=1)
            total = logits if total is None else total.add_(logits)
    assert total is not None
    return total.argmax(1).astype("int32")
