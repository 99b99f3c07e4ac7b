"""Batches from a dataset, in an order that is a function of (seed, epoch) and can be entered at any step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Literal, Protocol

import paddle
import pydantic

from ppcls_ext import upstream
from ppcls_ext.config import Section
from ppcls_ext.device import usable_cores
from ppcls_ext.errors import UserError
from ppcls_ext.seeding import order

Place = tuple[int, int]  # (epoch, index)


class PlacedDataset(Protocol):
    """A dataset whose samples may be drawn at random, as a function of the epoch and their index."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: Place) -> Any: ...


class Sampler(Section):
    """`DataLoader.<split>.sampler`."""

    name: Literal["DistributedBatchSampler", "BatchSampler"] = "DistributedBatchSampler"
    batch_size: int = pydantic.Field(default=64, ge=1)
    drop_last: bool = False
    shuffle: bool = False

    def in_order(self) -> Sampler:
        """The same batches for evaluation: in order, none dropped."""
        return self.model_copy(update={"shuffle": False, "drop_last": False})


class Workers(Section):
    """`DataLoader.<split>.loader`."""

    # Processes that prepare batches; 0: the training process itself.
    num_workers: pydantic.NonNegativeInt | Literal["auto"] = "auto"
    use_shared_memory: bool = True

    def count(self) -> int:
        # More than the usable cores only take turns; more than 8 outrun any CPU training.
        return min(8, usable_cores()) if self.num_workers == "auto" else self.num_workers


class _Batches(paddle.io.BatchSampler):
    """The batches of one epoch as lists of places, from batch `skip` on."""

    def __init__(self, indices: Iterable[int], epoch: int, batch_size: int, drop_last: bool, skip: int) -> None:
        self.places = [(epoch, int(i)) for i in indices]
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.starts = range(skip * batch_size, self._end(), batch_size)

    def _end(self) -> int:
        count = len(self.places)
        return count - count % self.batch_size if self.drop_last else count

    def __iter__(self) -> Iterator[list[Place]]:
        return (self.places[start : start + self.batch_size] for start in self.starts)

    def __len__(self) -> int:
        return len(self.starts)


def _start_worker(_: int) -> None:
    # Ctrl-C reaches every process of the terminal. The training process decides what happens; workers keep serving.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Loader:
    """Iterates over batches of a split.

    Args:
        collate: turns a list of samples into a list of arrays.
        seed: with the epoch, fixes the order (if `sampler.shuffle`) and what the dataset draws.
    """

    def __init__(
        self, dataset: PlacedDataset, sampler: Sampler, workers: Workers, collate: Callable[[list[Any]], Any], seed: int
    ) -> None:
        self.dataset, self.sampler, self.workers, self.collate, self.seed = dataset, sampler, workers, collate, seed
        if len(self) == 0:
            raise UserError(
                f"a batch of {sampler.batch_size} with drop_last leaves nothing of {len(dataset)} images; "
                "use a smaller one: -o DataLoader.Train.sampler.batch_size=N"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.dataset), self.sampler.batch_size)
        return full + bool(rest and not self.sampler.drop_last)

    def epoch(self, epoch: int = 0, skip: int = 0) -> Generator[list[paddle.Tensor], None, None]:
        """The batches of epoch number `epoch`, from batch `skip` on.

        Raises:
            UserError: what the dataset raised for a sample, wherever it was prepared.
        """
        count = len(self.dataset)
        indices = order(self.seed, epoch, count) if self.sampler.shuffle else range(count)
        batches = _Batches(indices, epoch, self.sampler.batch_size, self.sampler.drop_last, skip)
        workers = min(self.workers.count(), len(batches))
        if workers == 0:
            for places in batches:
                yield [paddle.to_tensor(array) for array in self.collate([self.dataset[place] for place in places])]
            return
        loader = paddle.io.DataLoader(
            upstream.GuardedDataset(self.dataset),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=upstream.GuardedCollate(self.collate),
            return_list=True,
            use_shared_memory=self.workers.use_shared_memory,
            worker_init_fn=_start_worker,
        )
        iterator = iter(loader)
        try:
            for guarded in iterator:
                yield upstream.unguarded(guarded)
        finally:
            upstream.shut_down_workers(iterator)
