"""What the cores and the memory can do at most: the figures that the speed of an operator is a share of."""

from __future__ import annotations

import ctypes
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from llvmlite import binding as llvm
from threadpoolctl import threadpool_limits

PEAK_SIZES = (256, 512, 1024)  # sides of square matrices; which size runs fastest depends on the caches
PEAK_SECONDS = 0.3  # each product and each loop is measured this long

# Lanes of a vector (SSE and NEON, AVX2, AVX-512): which is fastest depends on the processor. Two units of multiply-adds
# that take 4 or 5 cycles each need 8 to 10 independent chains to be busy; 12 leave registers for the constants.
LANES, CHAINS = (4, 8, 16), 12
STEPS = 100_000  # a loop takes so many between two looks at the clock: about 0.2 ms

COPIED_BYTES = 256 * 2**20  # far more than caches hold
COPIES = 5


def peak_gflops(threads: int) -> float:
    """GFLOP/s in float32 that the cores of this process reach with so many threads: the best of everything tried.

    Multiply-adds on registers are what a core can do at most. A matrix product, of whichever library NumPy has, is
    slower than these on all x86 processors that were tried; it stands for those whose vectors LLVM does not know.
    """
    return max(product_gflops(threads), *(multiply_add_gflops(lanes, threads) for lanes in LANES))


def product_gflops(threads: int) -> float:
    """GFLOP/s of the fastest of many float32 matrix products."""
    rng = np.random.default_rng(0)
    best = 0.0
    with threadpool_limits(threads):
        for size in PEAK_SIZES:
            a, b = rng.standard_normal((2, size, size), dtype=np.float32)
            end = time.perf_counter() + PEAK_SECONDS
            while (start := time.perf_counter()) < end:
                a @ b
                best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best


def multiply_add_gflops(lanes: int, threads: int) -> float:
    """GFLOP/s of multiply-adds of vectors that never leave the registers: the best of each thread, all at once."""
    loop = multiply_adds(lanes)
    loop(STEPS)
    best = [0.0] * threads

    def run(thread: int) -> None:
        end = time.perf_counter() + PEAK_SECONDS
        while (start := time.perf_counter()) < end:
            loop(STEPS)  # without the GIL, as all calls of ctypes
            best[thread] = max(best[thread], 2 * lanes * CHAINS * STEPS / (time.perf_counter() - start) / 1e9)

    running = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    return sum(best)


@functools.cache
def multiply_adds(lanes: int) -> Callable[[int], float]:
    """A compiled loop of `CHAINS` independent multiply-adds of `lanes` floats a step; it takes the number of steps."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    features["prefer-256-bit"] = False  # LLVM would split vectors of 16 on Intel's processors
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=2
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_assembly(lanes)), machine)
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64)(engine.get_function_address("multiply_adds"))
    _ENGINES.append(engine)  # the code goes with it
    return function


_ENGINES: list[object] = []


def _assembly(lanes: int) -> str:
    """The loop in LLVM's language: x = x * a + a in each chain, where a is slightly less than 1, so that x stays."""
    vector, chains = f"<{lanes} x float>", range(CHAINS)
    starts = [f"%x{k} = phi {vector} [ %a, %entry ], [ %y{k}, %loop ]" for k in chains]
    multiply_add = f"call {vector} @llvm.fmuladd.v{lanes}f32"
    steps = [f"%y{k} = {multiply_add}({vector} %x{k}, {vector} %a, {vector} %a)" for k in chains]
    sums = [f"%s{k} = fadd {vector} {f'%s{k - 1}' if k > 1 else '%y0'}, %y{k}" for k in chains[1:]]
    return "\n".join(
        [
            f"declare {vector} @llvm.fmuladd.v{lanes}f32({vector}, {vector}, {vector})",
            "define float @multiply_adds(i64 %steps) {",
            "entry:",
            f"%one = insertelement {vector} undef, float 0x3FEFFFFFE0000000, i32 0",
            f"%a = shufflevector {vector} %one, {vector} undef, <{lanes} x i32> zeroinitializer",
            "br label %loop",
            "loop:",
            "%step = phi i64 [ 0, %entry ], [ %next, %loop ]",
            *starts,
            *steps,
            "%next = add i64 %step, 1",
            "%more = icmp slt i64 %next, %steps",
            "br i1 %more, label %loop, label %end",
            "end:",
            *sums,
            f"%result = extractelement {vector} %s{CHAINS - 1}, i32 0",
            "ret float %result",
            "}",
        ]
    )


def memory_gbps(threads: int) -> float:
    """GB/s, read and written together, that this machine shows when so many threads copy: the best of a few times."""
    source = np.ones(COPIED_BYTES // 8)
    goal = np.empty_like(source)
    parts = list(zip(np.array_split(goal, threads), np.array_split(source, threads), strict=True))
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(COPIES):
            start = time.perf_counter()
            list(pool.map(lambda part: np.copyto(*part), parts))
            best = max(best, 2 * COPIED_BYTES / (time.perf_counter() - start) / 1e9)
    return best
