"""Batches that stay in memory, to be gone through many times."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import paddle

from ppcls_ext.data.loader import Loader
from ppcls_ext.upstream.paddle import tensor_of


class KeptBatches:
    """The first batches of a loader's first epoch. Pixels stay pixels, a quarter of the bytes, until they are used.

    Args:
        images: so many are kept, and the rest of the last batch.

    Attributes:
        batches: the arrays of each, as they are kept.
    """

    def __init__(self, loader: Loader, images: int) -> None:
        self._normalization = loader.normalization
        self.batches: list[list[np.ndarray]] = []
        with contextlib.closing(loader.once().epoch()) as arriving:
            for batch in arriving:
                # Copies, since what workers hand over lies in shared memory, of which containers have little.
                self.batches.append([np.array(tensor.numpy()) for tensor in batch])
                images -= len(batch[0])
                if images <= 0:
                    break

    def __iter__(self) -> Iterator[list[paddle.Tensor]]:
        """The batches as the loader gives them, to the last bit."""
        for arrays in self.batches:
            normalised = arrays if self._normalization is None else self._normalization.batch(arrays)
            yield [tensor_of(array) for array in normalised]
