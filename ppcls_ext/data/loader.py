"""Batches from a dataset, in an order that is a function of (seed, epoch) and can be entered at any step."""

from __future__ import annotations

import atexit
import functools
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import paddle
import pydantic

from ppcls_ext.core import distributed
from ppcls_ext.core.config import Section
from ppcls_ext.core.device import usable_cores
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.seeding import order
from ppcls_ext.upstream.paddle import GuardedCollate, GuardedDataset, shut_down_workers, unguarded


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
    batch_size: int = pydantic.Field(default=64, ge=1)  # images a step takes in each process
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


class Loader:
    """Iterates over this process's share of the batches of a split.

    Args:
        collate: turns a list of samples into a list of arrays.
        seed: with the epoch, fixes the order (if `sampler.shuffle`) and what the dataset draws.
        part: number of this process, of `parts`; default: as the job was launched.

    Attributes:
        batch_size: of all processes together.
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
    ) -> None:
        self.dataset, self.sampler, self.workers, self.collate, self.seed = dataset, sampler, workers, collate, seed
        self.part = distributed.rank() if part is None else part
        self.parts = distributed.world() if parts is None else parts
        self.batch_size = sampler.batch_size * self.parts
        if len(self) == 0:
            raise UserError(
                f"a batch of {self.batch_size} with drop_last leaves nothing of {len(dataset)} images; "
                "use a smaller sampler.batch_size, or sampler.drop_last=false"
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

    def epoch(self, epoch: int = 0, skip: int = 0) -> Generator[list[paddle.Tensor], None, None]:
        """The batches of epoch number `epoch`, from batch `skip` on.

        Raises:
            UserError: what the dataset raised for a sample, wherever it was prepared.
        """
        count = len(self.dataset)
        indices = order(self.seed, epoch, count) if self.sampler.shuffle else range(count)
        batches = _Batches(indices, epoch, self.batch_size, self.sampler.drop_last, skip, self.part, self.parts)
        workers = min(self.workers.count(), len(batches))
        if workers == 0:
            for keys in batches:
                yield [paddle.to_tensor(array) for array in self.collate([self.dataset[key] for key in keys])]
            return
        loader = paddle.io.DataLoader(
            GuardedDataset(self.dataset, UserError),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=GuardedCollate(self.collate, UserError),
            return_list=True,
            use_shared_memory=self.workers.use_shared_memory,
            worker_init_fn=_start_worker,
        )
        iterator = iter(loader)
        end = functools.partial(shut_down_workers, iterator)
        atexit.register(end)  # if nobody closes this generator, Python would wait for workers that ignore SIGTERM
        try:
            for guarded in iterator:
                yield unguarded(guarded)
        finally:
            end()
            atexit.unregister(end)
