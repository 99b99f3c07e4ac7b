"""What one step of training gives, for all that shows, sums and differentiates it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import paddle


class Step(NamedTuple):
    """What one forward pass in training gives.

    Attributes:
        losses: scalars; `loss` is the one to minimise.
        stats: means over the batch to show beside the losses, as scalars.
        images: how many images the batch had.
        weight: of how many things (images, pixels) losses and stats are means, so that several processes can be put
            together; default: of images. Where losses are already normalised over all processes it is 1.
    """

    losses: Mapping[str, paddle.Tensor]
    stats: Mapping[str, paddle.Tensor | float]
    images: int
    weight: paddle.Tensor | float | None = None
