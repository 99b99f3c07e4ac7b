"""Batches from a dataset, in an order that is a function of (seed, epoch) and can be entered at any step."""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
import paddle
import pydantic

from ppcls_ext.core import distributed
from ppcls_ext.core.config import Section
from ppcls_ext.core.device import usable_cores
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.seeding import order
from ppcls_ext.data.cache import ImageCache, Setting
from ppcls_ext.data.pixels import Normalization
from ppcls_ext.upstream.paddle import (
    GuardedCollate,
    GuardedDataset,
    WorkerKilled,
    batches_of,
    shut_down_workers,
    tensor_of,
    unguarded,
)


class SampleKey(NamedTuple):
    """Which sample of a run this is: what is random in it is a function of these numbers and the seed."""

    epoch: int
    number: int  # index in the split
    first: int  # index of the first sample of the batch, of all processes together


class KeyedDataset(Protocol):
    """A dataset whose samples may be drawn at random, as a function of the epoch and their index."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: SampleKey) -> Any: ...


class Sampler(Section):
    """`DataLoader.<split>.sampler`."""

    name: Literal["DistributedBatchSampler", "BatchSampler"] = "DistributedBatchSampler"
    batch_size: int = pydantic.Field(default=64, ge=1, le=65_536)  # images a step takes in each process
    drop_last: bool = False
    shuffle: bool = False

    def in_order(self) -> Sampler:
        """The same batches for evaluation: in order, none dropped."""
        return self.model_copy(update={"shuffle": False, "drop_last": False})


class Workers(Section):
    """`DataLoader.<split>.loader`."""

    # Processes that prepare batches; with 0 the training process prepares them itself.
    num_workers: Annotated[int, pydantic.Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    use_shared_memory: bool = True
    # Whether decoded images are kept in memory: `auto` if all fit into half of what is free, true as many as fit.
    cache: Setting = "auto"

    def count(self) -> int:
        """The number of worker processes; 0 loads in the training process."""
        # More than the usable cores only take turns; more than 8 outrun any CPU training.
        return min(8, usable_cores()) if self.num_workers == "auto" else self.num_workers


class _Batches(paddle.io.BatchSampler):
    """A part's share of the batches of one epoch, as lists of sample keys, from batch `skip` on.

    A last batch of fewer samples than parts leaves some parts without a share: they have a batch less.
    """

    def __init__(
        self,
        indices: Sequence[int] | np.ndarray,
        epoch: int,
        batch_size: int,
        drop_last: bool,
        skip: int,
        part: int,
        parts: int,
    ) -> None:
        self.indices, self.epoch = indices, epoch
        count = len(indices)
        end = count - count % batch_size if drop_last else count
        starts = range(skip * batch_size, end, batch_size)
        shares = [(start, distributed.share(min(batch_size, end - start), part, parts)) for start in starts]
        self.shares = [(start, share) for start, share in shares if share]

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for start, share in self.shares:
            first = int(self.indices[start])
            yield [SampleKey(self.epoch, int(self.indices[start + i]), first) for i in share]

    def __len__(self) -> int:
        return len(self.shares)


def _start_worker(_: int) -> None:
    # Ctrl-C, or SIGTERM to a group, reaches every process. The training process decides what happens, and ends its
    # workers; until then they keep serving. They also end when it is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


_Arriving = Generator[list[paddle.Tensor], None, None]


class _Normalised:
    """A collate function that normalises its batches."""

    def __init__(self, collate: Callable[[list[Any]], Any], normalization: Normalization) -> None:
        self.collate, self.normalization = collate, normalization

    def __call__(self, samples: list[Any]) -> list[np.ndarray]:
        return self.normalization.batch(self.collate(samples))


class Loader:
    """Iterates over this process's share of the batches of a split.

    Args:
        collate: turns a list of samples into a list of arrays.
        normalization: done to batches of pixels in the training process, after their transfer (on a GPU, which would
            have to give them back for it, in the workers).
        cache: that of the dataset, which is opened before the first pass.
        seed: with the epoch, fixes the order (if `sampler.shuffle`) and what the dataset draws.
        part: number of this process, of `parts`; default: as the job was launched.

    Attributes:
        batch_size: of all processes together.
        waited: seconds that were spent waiting for batches so far.
    """

    def __init__(
        self,
        dataset: KeyedDataset,
        sampler: Sampler,
        workers: Workers,
        collate: Callable[[list[Any]], Any],
        seed: int,
        part: int | None = None,
        parts: int | None = None,
        normalization: Normalization | None = None,
        cache: ImageCache | None = None,
    ) -> None:
        self.dataset, self.sampler, self.workers, self.collate, self.seed = dataset, sampler, workers, collate, seed
        self.normalization, self.cache, self.waited = normalization, cache, 0.0
        self._ahead: tuple[int, _Arriving, int] | None = None  # the epoch, its batches, how many they are
        self.part = distributed.rank() if part is None else part
        self.parts = distributed.world() if parts is None else parts
        self.batch_size = sampler.batch_size * self.parts
        if len(self) == 0:
            raise UserError(
                f"a batch of {self.batch_size} with drop_last leaves nothing of {len(dataset)} images; "
                "-o DataLoader.Train.sampler.batch_size=N takes a smaller one, and "
                "-o DataLoader.Train.sampler.drop_last=false the rest"
            )

    def __len__(self) -> int:
        """Batches in an epoch, of all processes together."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + bool(rest and not self.sampler.drop_last)

    def check_shares(self) -> None:
        """Raise UserError if the last batch is too small for every process to have a share: training needs one."""
        rest = len(self.dataset) % self.batch_size
        if not self.sampler.drop_last and 0 < rest < self.parts:
            raise UserError(
                f"the last batch of an epoch has {rest} images for {self.parts} processes; leave it out with "
                "-o DataLoader.Train.sampler.drop_last=true, or use another batch_size"
            )

    def epoch(self, epoch: int = 0, skip: int = 0, ahead: bool = False) -> Generator[list[paddle.Tensor], None, None]:
        """The batches of epoch number `epoch`, from batch `skip` on.

        Args:
            ahead: have workers prepare the next epoch as soon as this one's batches have all arrived. Who asks for it
                calls `close` in the end.
        Raises:
            UserError: what the dataset raised for a sample, wherever it was prepared.
        """
        arriving, left = self._take(epoch, skip)
        with contextlib.closing(arriving):
            while True:
                began = time.monotonic()
                batch = next(arriving, None)
                self.waited += time.monotonic() - began
                if batch is None:
                    return
                left -= 1
                if left == 0 and ahead:
                    self._ahead = (epoch + 1, *self._prepare(epoch + 1, 0))
                yield batch

    def once(self) -> Loader:
        """A loader of the same batches for a single pass, for which no decoded images have to be kept.

        They come before their normalisation: pixels, where they are normalised apart.
        """
        other = copy.copy(self)
        other.normalization = other.cache = other._ahead = None
        return other

    def close(self) -> None:
        """End the workers that prepare the next epoch, where there are any, and let go of images that are kept."""
        self._end_ahead()
        if self.cache is not None:
            self.cache.close()

    def _end_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead[1].close()
            self._ahead = None

    def _take(self, epoch: int, skip: int) -> tuple[_Arriving, int]:
        if self._ahead is not None and skip == 0 and self._ahead[0] == epoch:
            (_, arriving, count), self._ahead = self._ahead, None
            return arriving, count
        self._end_ahead()
        return self._prepare(epoch, skip)

    def _prepare(self, epoch: int, skip: int) -> tuple[_Arriving, int]:
        """Begin to prepare the batches of an epoch; gives where they arrive, and how many there are."""
        count = len(self.dataset)
        indices = order(self.seed, epoch, count) if self.sampler.shuffle else range(count)
        batches = _Batches(indices, epoch, self.batch_size, self.sampler.drop_last, skip, self.part, self.parts)
        workers = min(self.workers.count(), len(batches))
        if self.cache is not None:
            self.cache.open(workers)
        return self._of_workers(batches, workers) if workers else self._own(batches), len(batches)

    def _own(self, batches: _Batches) -> _Arriving:
        """Batches that this process prepares."""
        for keys in batches:
            arrays = self.collate([self.dataset[key] for key in keys])
            normalised = arrays if self.normalization is None else self.normalization.batch(arrays)
            yield [tensor_of(array) for array in normalised]

    def _of_workers(self, batches: _Batches, workers: int) -> _Arriving:
        """Batches that worker processes prepare, from now on; they end with the generator."""
        normalization, collate = self.normalization, self.collate
        if normalization is not None and paddle.get_device() != "cpu":
            collate, normalization = _Normalised(collate, normalization), None
        loader = paddle.io.DataLoader(
            GuardedDataset(self.dataset, UserError),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=GuardedCollate(collate, UserError),
            return_list=True,
            use_shared_memory=self.workers.use_shared_memory,
            worker_init_fn=_start_worker,
        )
        iterator = iter(loader)
        end = functools.partial(shut_down_workers, iterator)
        atexit.register(end)  # if nobody closes this generator, Python would wait for workers that ignore SIGTERM
        arriving = _arriving(iterator, normalization, end)
        next(arriving)  # so that closing it ends the workers, even if nobody takes a batch
        return arriving


def _arriving(iterator: Any, normalization: Normalization | None, end: Callable[[], None]) -> _Arriving:
    """The batches of an iterator over guarded ones, after a first item that is none. `end` is called in the end."""
    try:
        yield []
        for guarded in batches_of(iterator):
            batch = unguarded(guarded)
            if normalization is not None:
                images, *_ = normalization.batch([batch[0].numpy()])
                batch[0] = tensor_of(images)
            yield batch
    except WorkerKilled as error:
        raise UserError(
            f"a process that prepares images was killed by {signal.Signals(error.args[0]).name}, most likely "
            "for memory; use fewer (-o DataLoader.Train.loader.num_workers=1) or a smaller batch, then --resume"
        ) from error
    finally:
        end()
        atexit.unregister(end)
