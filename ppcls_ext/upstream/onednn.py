"""The oneDNN inside Paddle's wheel, for what Paddle itself does not use it for in training: its matrix product."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SGEMM = "pplcnet_dnnl_sgemm"  # what compiled code calls it


@cache
def make_sgemm_known() -> bool:
    """Let code that Numba compiles call oneDNN's `dnnl_sgemm` by the name `SGEMM`; False where there is none.

    paddle 3.2.2 multiplies matrices in float32 with an MKL of 2019, which reaches less than half of what oneDNN does on
    processors that are not Intel's. Can go when training in Paddle runs on oneDNN.
    """
    import paddle
    from llvmlite import binding

    for library in sorted((Path(paddle.__file__).parent / "libs").glob("libdnnl.so*")):
        function = getattr(ctypes.CDLL(str(library)), "dnnl_sgemm", None)
        if function is not None:
            address = ctypes.cast(function, ctypes.c_void_p).value
            binding.add_symbol(SGEMM, address)
            return True
    return False


@contextlib.contextmanager
def one_openmp_thread() -> Iterator[None]:
    """While this lasts, what this thread calls stays in it: the oneDNN in paddle 3.2.2 would split a product among
    threads of its own. Can go when the wheel lets a caller choose the threads of one product.

    OpenMP keeps the number for each thread. Both of its runtimes that Paddle's wheel brings are told.
    """
    before = [runtime.omp_get_max_threads() for runtime in _openmp_runtimes()]
    try:
        for runtime in _openmp_runtimes():
            runtime.omp_set_num_threads(1)
        yield
    finally:
        for runtime, threads in zip(_openmp_runtimes(), before, strict=True):
            runtime.omp_set_num_threads(threads)


@cache
def _openmp_runtimes() -> list[ctypes.CDLL]:
    import paddle

    found = []
    for library in ("libgomp.so.1", str(Path(paddle.__file__).parent / "libs" / "libiomp5.so")):
        with contextlib.suppress(OSError):  # this wheel does not have it, so nobody can call it
            found.append(ctypes.CDLL(library))
    return found
