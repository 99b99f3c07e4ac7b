"""Which device and how many threads: set explicitly, before the work starts."""

from __future__ import annotations

import os
import time

from ppcls_ext.core.cgroups import cores_left
from ppcls_ext.core.cpu import Watch
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.system import usable_cpus
from ppcls_ext.core.text import is_digits
from ppcls_ext.upstream.paddle import asked_threads, import_paddle_with_threads

LOOK_S = 0.3  # a look at what other processes do
WAIT_POLICY = "OMP_WAIT_POLICY"  # of threads that wait for others: passive ones sleep, others spin
MOSTLY_BUSY = 0.25  # a core that others use for three quarters of a look counts as theirs

THREADS_A_CPU = 8  # on two processors an engine answered within 3 s with 8 for each, and not within 25 s with 128

_own_policy: dict[str, str] = {}  # set by `set_threads`, and not by the user


def processes_of_job(name: str = "PADDLE_TRAINERS_NUM") -> int:
    """How many processes the job of this one has, or with PADDLE_LOCAL_SIZE on this machine: Paddle's launcher says so
    in the environment; 1 without it. Raises UserError for what the launcher does not write.
    """
    given = os.environ.get(name, "1")
    if not is_digits(given) or int(given) < 1:
        raise UserError(f"{name}={given}: Paddle's launcher writes a whole number from 1 there; unset it")
    return int(given)


def usable_cores() -> int:
    """Cores that this process may really use: its affinity, cut to the quotas of its control groups, and shared with
    the other processes of its job on this machine.
    """
    return max(1, _cores_of_the_machine() // processes_of_job("PADDLE_LOCAL_SIZE"))


def _cores_of_the_machine() -> int:
    return int(min(len(usable_cpus()), max(1.0, cores_left())))


def free_cores() -> int:
    """Usable cores that no other process keeps busy, at least one; takes a third of a second.

    In a job of several processes, which would take each other for strangers, all that are usable.
    """
    cores = usable_cores()
    if cores == 1 or "PADDLE_LOCAL_SIZE" in os.environ:
        return cores
    watch = Watch()
    time.sleep(LOOK_S)
    busy = int(watch.busy().taken + MOSTLY_BUSY)
    return max(1, min(cores, (os.cpu_count() or 1) - busy))


def cpu_threads(threads: int | None = None) -> int:
    """How many threads of the CPU to use: as given, or OMP_NUM_THREADS of the environment, or every usable core."""
    if threads is not None:
        return threads
    given = asked_threads()
    if given == "1" and "PADDLE_LOCAL_SIZE" in os.environ:
        given = ""  # Paddle's launcher writes 1 where the user gave no number, so nobody has asked for it
    return int(given) if is_digits(given) and int(given) > 0 else usable_cores()


def most_threads() -> int:
    """The largest number of threads that an engine is given: far more than there are processors would only wait for
    each other, by the thousand for minutes.
    """
    return THREADS_A_CPU * (os.cpu_count() or 1)


def set_threads(threads: int | None = None) -> int:
    """Set the threads of Paddle's CPU kernels, whose own default is one, and import Paddle, which reads them then.

    Without effect once Paddle is imported. Returns the threads that the kernels have.

    OMP_NUM_THREADS of the environment wins over the default (every usable core), not over an explicit number.
    """
    # A thread that is done before the others sleeps, where by default it would spin on a core that others may need.
    if WAIT_POLICY not in os.environ:
        os.environ[WAIT_POLICY] = _own_policy[WAIT_POLICY] = "passive"
    import_paddle_with_threads(cpu_threads(threads))
    return kernel_threads()


def environment_of_engines() -> dict[str, str]:
    """The environment for processes that only run an engine, without what `set_threads` has set for training.

    Between the short layers of a network a thread that sleeps wakes too late: with two threads, a call of a small
    network on oneDNN takes longer than with one. A `Predictor`, which sets nothing, has threads that spin for a moment.
    """
    return {name: value for name, value in os.environ.items() if _own_policy.get(name) != value}


def kernel_threads() -> int:
    """Threads of Paddle's CPU kernels, as it reads them when it is imported."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if is_digits(given) and int(given) > 0 else 1


def set_device(name: str) -> str:
    """Choose the device for everything that follows and return its full name, such as `cpu` or `gpu:0`.

    Args:
        name: `auto` (the GPU if this Paddle can use one, else the CPU), `cpu`, `gpu` or `gpu:N`.
    Raises:
        UserError: an unknown name, or a device that this machine or this build of Paddle does not have.
    """
    import paddle

    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    kind, _, index = name.partition(":")
    if name == "auto":
        name = "gpu" if gpus else "cpu"  # Paddle takes the first one, or the one that the launcher gave this process
    elif kind == "gpu" and (not index or is_digits(index)):
        if not paddle.is_compiled_with_cuda():
            raise UserError(f"Global.device: {name}, but this Paddle is built for the CPU; -o Global.device=cpu")
        if index and processes_of_job("PADDLE_LOCAL_SIZE") > 1:
            raise UserError(
                f"Global.device: {name} for every process of this job; -o Global.device=gpu gives each its own"
            )
        if int(index or 0) >= gpus:
            raise UserError(
                f"Global.device: {name}, but {gpus} GPUs are visible; -o Global.device=cpu or another index"
            )
    elif name != "cpu":
        raise UserError(f"Global.device: '{name}' is none of auto, cpu, gpu, gpu:N")
    return str(paddle.device.set_device(name) and paddle.device.get_device())
