"""Workarounds for PaddlePaddle itself."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import logging
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def silence_paddle_warnings() -> None:
    """paddle 3.2.2 warns on import that ccache (for building C++ extensions) is absent, and on each batch norm
    in training that it tracks statistics, and on the first `split` that PyTorch's differs. None of them tells
    a user of this package anything. Go when Paddle stops.
    """
    warnings.filterwarnings("ignore", message="No ccache found")
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    warnings.filterwarnings("ignore", message=r"\s*Non compatible API")


@contextlib.contextmanager
def sigterm_kept() -> Iterator[None]:
    """Inside, Paddle may be imported, in any thread, and SIGTERM then does what it did before.

    The import of paddle 3.2.2 puts a handler in C++ in place of whatever is there, which prints a trace of 14 lines;
    its handlers of crashes stay. Can go when the import leaves SIGTERM alone.
    """
    # `signal.signal` is for the main thread alone.
    get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    get.argtypes, put.argtypes = [ctypes.c_int], [ctypes.c_int, ctypes.c_void_p]
    get.restype = put.restype = ctypes.c_void_p
    before = get(signal.SIGTERM)
    try:
        yield
    finally:
        put(signal.SIGTERM, before)


def let_mkl_use_avx2() -> None:
    """The MKL inside paddle 3.2.2 (mklml of 2019) takes a path of long ago on processors that are not Intel's.
    `MKL_DEBUG_CPU_TYPE=5` names AVX2; MKL reads it at its first product. Can go with another BLAS in the wheel.
    """
    try:
        cpu = Path("/proc/cpuinfo").read_text()
    except OSError:
        return  # not Linux: another wheel, with another BLAS
    if ("AuthenticAMD" in cpu or "HygonGenuine" in cpu) and " avx2 " in cpu:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


def new_tensor(shape: Sequence[int]) -> Any:
    """A float32 tensor on the CPU whose values are yet to be written, whatever Paddle's default dtype is.

    `paddle.empty` of paddle 3.2.2 spends 10 us on its arguments, which adds up in steps of a hundred layers. Can go
    when `paddle.empty` is as fast as what it calls.
    """
    import paddle

    return paddle._C_ops.empty(shape, paddle.float32, paddle.CPUPlace())


def tensor_of(array: np.ndarray) -> Any:
    """An array as a tensor, on the device that is set.

    `paddle.to_tensor` of paddle 3.2.2 leaks 112 bytes a call, which is 4 MB in an hour of short steps: a list of its
    keywords and a name. On the CPU the values are written into an empty tensor instead. Can go when memory stays the
    same over 100,000 calls of `paddle.to_tensor`.
    """
    import paddle

    if paddle.get_device() != "cpu":
        return paddle.to_tensor(array)
    place = paddle.CPUPlace()
    tensor = paddle._C_ops.empty(array.shape, paddle.base.framework.convert_np_dtype_to_dtype_(array.dtype), place)
    tensor.get_tensor().set(array, place)
    return tensor


_OVERWRITTEN: dict[str, str] = {}  # OMP_NUM_THREADS as written below -> as it was before


def asked_threads() -> str:
    """OMP_NUM_THREADS as the environment gave it, where `import_paddle_with_threads` has overwritten it since."""
    now = os.environ.get("OMP_NUM_THREADS", "")
    return _OVERWRITTEN.get(now, now)


def import_paddle_with_threads(threads: int) -> None:
    """paddle 3.2.2 prints two lines of warning on stderr at import when OMP_NUM_THREADS is above 1, about data
    parallel training on OpenBLAS builds; the published wheels use MKL. Can go when Paddle warns only then.

    Once it is imported nothing changes, since the environment then says how many threads it has.
    """
    if "paddle" in sys.modules:
        return
    _OVERWRITTEN[str(threads)] = os.environ.get("OMP_NUM_THREADS", "")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("GLOG_minloglevel", "2")  # saving a .pdmodel logs a line otherwise; errors still show
    with contextlib.redirect_stderr(io.StringIO()):
        importlib.import_module("paddle")


def free_tensors_in_lots() -> None:
    """paddle 3.2.2 frees the tensors that a predictor is done with in a thread of its own, and wakes that thread after
    nearly every operator: a fifth of a call of a small network on oneDNN. With `FLAGS_eager_delete_tensor_gb` above 0
    it is woken once so much can be freed; 32 MB are enough, and are what a predictor takes more. A value from the
    environment stays. Can go when Paddle frees in the thread that runs the operators.
    """
    import paddle

    if "FLAGS_eager_delete_tensor_gb" not in os.environ:
        paddle.set_flags({"FLAGS_eager_delete_tensor_gb": 1 / 32})


def join_job() -> None:
    """`paddle.distributed.init_parallel_env()`; paddle 3.2.2 prints flags that nobody has modified on stderr.
    The redirection can go when it does not.
    """
    import paddle

    with contextlib.redirect_stderr(io.StringIO()):
        paddle.distributed.init_parallel_env()


class GuardedDataset:
    """A dataset whose failures are samples, for `paddle.io.DataLoader` with workers.

    paddle 3.2.2 does not bring an exception of a worker to the one who iterates: it ends in "Blocking queue is
    killed" or a hang. So failures travel as values: `GuardedCollate` begins each batch with a status, one byte or
    a pickled exception, and `unguarded` takes it off. Can go when the loader raises what its workers raised.

    Args:
        expected: exceptions that travel as they are; others become a RuntimeError with the worker's traceback.
    """

    def __init__(self, dataset: Any, expected: type[Exception]) -> None:
        self.dataset, self.expected = dataset, expected

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except Exception as error:
            return _portable(error, self.expected)


class GuardedCollate:
    """A collate function that puts the status before the batch; see `GuardedDataset`."""

    def __init__(self, collate: Callable[[list[Any]], Any], expected: type[Exception]) -> None:
        self.collate, self.expected = collate, expected

    def __call__(self, samples: list[Any]) -> list[Any]:
        """Collate the samples, or hand on the first failure among them."""
        import numpy as np

        failure = next((sample for sample in samples if isinstance(sample, Exception)), None)
        if failure is None:
            try:
                return [np.zeros(1, np.uint8), *self.collate(samples)]
            except Exception as error:
                failure = _portable(error, self.expected)
        return [np.frombuffer(pickle.dumps(failure), np.uint8).copy()]


def _portable(error: Exception, expected: type[Exception]) -> Exception:
    """An exception that can be pickled and says as much in another process."""
    return error if isinstance(error, expected) else RuntimeError("".join(traceback.format_exception(error)))


def unguarded(guarded: Sequence[Any]) -> list[Any]:
    """The batch without its status; raises what a worker raised. See `GuardedDataset`."""
    status, *batch = guarded
    if len(status) > 1:
        raise pickle.loads(status.numpy().tobytes())  # put there by our own worker
    return batch


def batches_of(iterator: Any) -> Iterator[Any]:
    """What an iterator of `paddle.io.DataLoader` with workers gives.

    paddle 3.2.2 says "Blocking queue is killed" and logs a line where a worker was killed; here it is a WorkerKilled.
    Can go when the loader raises that.
    """
    log = logging.getLogger()
    log.addFilter(_not_of_workers)
    try:
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except (SystemError, RuntimeError, OSError) as error:
                killed = [-worker.exitcode for worker in iterator._workers if (worker.exitcode or 0) < 0]
                if not killed:
                    raise
                raise WorkerKilled(killed[0]) from error
            yield batch
    finally:
        log.removeFilter(_not_of_workers)


class WorkerKilled(Exception):
    """A worker of a loader ended by a signal, whose number is the argument."""


def _not_of_workers(record: logging.LogRecord) -> bool:
    return "workers exit unexpectedly" not in record.getMessage()


WORKER_SECONDS = 2.0  # a worker has this long to end by itself


def shut_down_workers(iterator: Any) -> None:
    """paddle 3.2.2: an iterator of `paddle.io.DataLoader` that is left before its end keeps its worker processes
    until it is collected as garbage; if the program ends first, their end is reported as a crash. And a worker that
    is still writing a batch that nobody reads never ends: it is waited for a little, then killed.
    Can go when the iterator has a public `close`.
    """
    workers = list(iterator._workers)
    iterator._try_shutdown_all(timeout=WORKER_SECONDS)
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()


def restore_state(holder: Any, state: dict[str, Any]) -> None:
    """`holder.set_state_dict(state)` for a schedule, or an optimizer that has one.

    paddle 3.2.2: a warm-up puts the state of the schedule inside it back, then warns that this part of the
    state was not used. Can go when LinearWarmup.set_state_dict takes out what it has used.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There are some unused values in state_dict")
        holder.set_state_dict(state)


def step_schedule(schedule: Any, number: int) -> None:
    """Bring a schedule to a step, or an epoch, of this number; its rate then follows from the number alone.

    paddle 3.2.2: `CosineAnnealingDecay.step()` makes the next rate from the one before, so that it stays at 0 in a run
    that has come to its end and is lengthened; given a number, it is exact. Can go when `step()` is, too.
    """
    schedule.step(number)


def accumulator_names(optimizer: Any) -> set[str]:
    """What an optimizer keeps of each parameter, such as `velocity`; empty for one that keeps nothing.

    paddle 3.2.2 makes these values at the first step, and tells their names before it in private attributes alone.
    Can go when an optimizer has a public list of them.
    """
    return {getattr(optimizer, name) for name in dir(optimizer) if name.endswith("_acc_str")}


@contextlib.contextmanager
def methods_converted_once() -> Iterator[None]:
    """Inside, `paddle.jit.to_static` rewrites a method once, however many layers call it.

    paddle 3.2.2 keeps what it has rewritten by bound methods (`jit/dy2static/program_translator.py`, `FunctionCache`),
    which are gone after the call, so that it reads, rewrites and imports the same `forward` again for each block of a
    network. Can go when it looks methods up by their function.
    """
    from paddle.jit.dy2static.program_translator import FunctionCache

    convert = FunctionCache.convert_with_cache
    known: dict[Any, Any] = {}

    def once(self: Any, function: Any) -> Any:
        key = getattr(function, "__func__", function)
        if key not in known:
            known[key] = convert(self, function)
        return known[key]

    FunctionCache.convert_with_cache = once
    try:
        yield
    finally:
        FunctionCache.convert_with_cache = convert


@contextlib.contextmanager
def legacy_graph() -> Iterator[None]:
    """`with legacy_graph(): paddle.jit.save(...)` writes the format before PIR (.pdmodel).

    paddle 3.2.2 turned some 30 functions (`base/dygraph/generated_tensor_methods_patch.py`: multiply, matmul,
    sqrt, sigmoid, ...) into calls that know only PIR: under its own guard they fail with "multiply(): argument
    (position 1) must be Value, but got Variable". Those that the suites' networks call are appended as operators
    here; operators such as `x * y` are not affected. Can go when the guard covers these functions, or with .pdmodel.
    """
    import paddle
    from paddle.base.framework import Variable
    from paddle.base.layer_helper import LayerHelper

    def appended(kind: str, real: Callable[..., Any], x: Any, y: Any = None, **attributes: Any) -> Any:
        if not isinstance(x, Variable):
            return real(x) if y is None else real(x, y)
        helper = LayerHelper(kind)
        result = helper.create_variable_for_type_inference(x.dtype)
        inputs = {"X": x} if y is None else {"X": x, "Y": y}
        helper.append_op(type=kind, inputs=inputs, outputs={"Out": result}, attrs=attributes)
        return result

    def replacement(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        if name == "matmul":
            return lambda x, y, transpose_x=False, transpose_y=False, name=None: appended(
                "matmul_v2", real, x, y, trans_x=transpose_x, trans_y=transpose_y
            )
        kind = kinds[name]
        if name in ("sigmoid", "sqrt"):
            return lambda x, name=None: appended(kind, real, x)
        return lambda x, y, name=None: appended(kind, real, x, y)

    kinds = {
        "multiply": "elementwise_mul",
        "maximum": "elementwise_max",
        "minimum": "elementwise_min",
        "matmul": "matmul_v2",
        "sigmoid": "sigmoid",
        "sqrt": "sqrt",
    }
    owners = [(m, n) for m in (paddle, paddle.tensor, paddle.nn.functional, Variable) for n in kinds if hasattr(m, n)]
    saved = [getattr(owner, name) for owner, name in owners]
    try:
        for (owner, name), real in zip(owners, saved, strict=True):
            setattr(owner, name, paddle.jit.not_to_static(replacement(name, real)))
        with paddle.pir_utils.DygraphOldIrGuard():
            yield
    finally:
        for (owner, name), real in zip(owners, saved, strict=True):
            setattr(owner, name, real)
