"""Data parallel training on Paddle's own engine: what the processes of a job must agree on.

`python -m paddle.distributed.launch` starts the processes and says by their environment who is who. Without it every
function here leaves things as they are. All processes hold the same weights at every step: each takes its share of a
global batch, and gradients are those of the mean over the global batch. Communication is Paddle's: NCCL between GPUs,
Gloo between CPU processes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import paddle
from paddle import distributed as engine

from ppcls_ext.core import display
from ppcls_ext.core.device import processes_of_job
from ppcls_ext.core.errors import PeerLost, UserError
from ppcls_ext.upstream.paddle import join_job, tensor_of

T = TypeVar("T")

LAUNCHER_SECONDS = 10.0  # the launcher looks at its processes every second

_peer_lost = threading.Event()
_told_to_end = threading.Event()


def start(device: str) -> None:
    """Join the job that this process was launched in; does nothing where it was started alone.

    Only the first process (rank 0) writes to the screen afterwards; the others still report errors.

    Args:
        device: full name, as `device.set_device` gives it.
    """
    if processes_of_job() < 2 or engine.is_initialized():
        return
    if device == "cpu":
        os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
    join_job()
    signal.signal(signal.SIGTERM, _end)
    if not is_main():
        display.mute()


def _end(number: int, frame: FrameType | None) -> None:
    """End as SIGTERM does, unless a peer is lost: what this process has to say about that comes first."""
    _told_to_end.set()
    if not _peer_lost.is_set():
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def wait_for_launcher() -> None:
    """Wait until the launcher ends this process, which lost a peer and has said so; `LAUNCHER_SECONDS` at most.

    The launcher shows the log of rank 0 as it grows, and the end of the first failed process's log on top of that. If
    rank 0 failed too, what it said would be shown twice, and would pass for the reason of the failure.
    """
    _told_to_end.wait(LAUNCHER_SECONDS)


def world() -> int:
    """The number of processes."""
    return int(engine.get_world_size()) if engine.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return int(engine.get_rank()) if engine.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that logs and saves."""
    return rank() == 0


def share(count: int, part: int, parts: int) -> range:
    """Which of `count` things are part number `part` of `parts`: consecutive, sizes differ by one at most."""
    return range(part * count // parts, (part + 1) * count // parts)


def in_step(batches: Iterable[T]) -> Iterator[T]:
    """`batches`, of which all processes have the same number.

    Raises:
        UserError: in all processes, when one of them could not read a sample.
    """
    iterator, end = iter(batches), object()
    while True:
        failure = ""
        try:
            batch: Any = next(iterator, end)
        except UserError as error:
            if world() == 1:
                raise
            failure = str(error)
        if largest(int(bool(failure))):
            raise UserError(next(filter(None, gathered(failure))))
        if batch is end:
            return
        yield batch


def largest(number: int) -> int:
    """The largest of the numbers that the processes give."""
    if world() == 1:
        return number
    tensor = tensor_of(np.array([number], np.int64))
    communicate(engine.all_reduce, tensor, engine.ReduceOp.MAX)
    return int(tensor)


def sums(numbers: Sequence[int]) -> list[int]:
    """Each number summed over the processes; they give equally many."""
    if world() == 1:
        return list(numbers)
    tensor = paddle.to_tensor(list(numbers), "int64")
    communicate(engine.all_reduce, tensor)
    return [int(number) for number in tensor]


def mean(value: paddle.Tensor) -> paddle.Tensor:
    """The mean over the processes of a tensor without gradient."""
    if world() == 1:
        return value
    total = value.detach().clone()
    communicate(engine.all_reduce, total)
    return total / world()


def gathered(value: T) -> list[T]:
    """What each process gives, in their order."""
    if world() == 1:
        return [value]
    values: list[T] = []
    communicate(engine.all_gather_object, values, value)
    return values


def communicate(operation: Callable[..., Any], *arguments: Any) -> None:
    """Run something of Paddle's that needs the other processes.

    Raises:
        PeerLost: one of them is gone.
    """
    try:
        operation(*arguments)
    except RuntimeError as error:
        logs = os.environ.get("PADDLE_LOG_DIR")
        where = f"; its reason is in {logs}/workerlog.*" if logs else ""
        _peer_lost.set()
        raise PeerLost(
            f"{PeerLost.BEGINNING}{where}. The state saved last is whole: "
            "start the job again with --resume and the run folder"
        ) from error
