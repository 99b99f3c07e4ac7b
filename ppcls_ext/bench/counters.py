"""The time of each operator, from an engine's own counters, for engines that do not print it."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.engines.base import FORMATS
from ppcls_ext.runtime.engines.onnxruntime import OnnxRuntime
from ppcls_ext.runtime.engines.openvino import OpenVINO

# Engines that print their operators on stdout where ONEDNN_VERBOSE is 1: OpenVINO's CPU plugin is made of oneDNN too.
PRINTING = ("onednn", "openvino")

# A list for each call, which holds its operators in order as kind, kernel, detail, ms and flops (None: not known).
Calls = list[list[dict[str, Any]]]


def operator_flops(kind: str, inputs: Sequence[Sequence[int]], output: Sequence[int]) -> int | None:
    """Floating-point operations of an operator of ONNX Runtime or OpenVINO, two for a multiply-add.

    Args:
        inputs: the shape of each input; of a convolution [N, C, H, W] and weights with or without a group axis.
        output: its shape, channels second.
    Returns:
        None for kinds without a rule here.
    """
    if kind in ("Conv", "FusedConv", "Convolution", "GroupConvolution"):
        return 2 * math.prod(output) * (math.prod(inputs[1]) // output[1])
    if kind in ("Gemm", "FusedGemm", "MatMul", "FullyConnected"):
        return 2 * math.prod(output) * inputs[0][-1]
    return None


def onnxruntime_times(
    folder: Path, threads: int, inputs: Sequence[np.ndarray], calls: int
) -> list[list[dict[str, Any]]]:
    """The operators of each of `calls` calls on ONNX Runtime, in order (see `Calls`)."""
    ort = OnnxRuntime.library()
    with tempfile.TemporaryDirectory(prefix="pplcnet-") as scratch:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = f"{scratch}/ort"
        session = ort.InferenceSession(str(folder / FORMATS["onnx"][0]), options, providers=["CPUExecutionProvider"])
        named = dict(zip([i.name for i in session.get_inputs()], inputs, strict=True))
        for _ in range(calls):
            session.run(None, named)
        events = json.loads(Path(session.end_profiling()).read_text())
    found: list[list[dict[str, Any]]] = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            arguments = event["args"]
            shapes = [next(iter(one.values())) for one in arguments.get("input_type_shape", [])]
            results = [next(iter(one.values())) for one in arguments.get("output_type_shape", [])]
            if not found or arguments["node_index"] in {o["index"] for o in found[-1]}:
                found.append([])
            found[-1].append(
                {
                    "index": arguments["node_index"],
                    "kind": arguments["op_name"],
                    "kernel": "",
                    "detail": event["name"].removesuffix("_kernel_time"),
                    "ms": event["dur"] / 1e3,
                    "flops": operator_flops(arguments["op_name"], shapes, results[0]) if results else None,
                }
            )
    return [[{k: v for k, v in o.items() if k != "index"} for o in call] for call in found]


def openvino_times(folder: Path, threads: int, inputs: Sequence[np.ndarray], calls: int) -> list[list[dict[str, Any]]]:
    """The operators of each of `calls` calls on OpenVINO, in order (see `Calls`)."""
    core = OpenVINO.library().Core()
    settings = {**OpenVINO.settings(threads), "PERF_COUNT": True}
    compiled = core.compile_model(core.read_model(folder / FORMATS["onnx"][0]), "CPU", settings)
    request = compiled.create_infer_request()
    fixed = core.read_model(folder / FORMATS["onnx"][0])
    fixed.reshape({k: list(array.shape) for k, array in enumerate(inputs)})
    flops = _openvino_flops(core.compile_model(fixed, "CPU", settings))
    found = []
    for _ in range(calls):
        request.infer(list(inputs))
        found.append(
            [
                {
                    "kind": node.node_type,
                    "kernel": node.exec_type,
                    "detail": node.node_name,
                    "ms": node.real_time.total_seconds() * 1e3,
                    "flops": flops.get(node.node_name),
                }
                for node in request.get_profiling_info()
                if str(node.status) == "Status.EXECUTED"
            ]
        )
    return found


def _openvino_flops(compiled: Any) -> dict[str, int | None]:
    """Floating-point operations by the name of the operator, in a model whose shapes are fixed: only then known."""
    found = {}
    for node in compiled.get_runtime_model().get_ops():
        if node.get_input_size() and node.get_output_size() == 1:
            kind = node.get_rt_info()["layerType"].astype(str)
            shapes = [list(node.get_input_shape(k)) for k in range(node.get_input_size())]
            found[node.get_friendly_name()] = operator_flops(kind, shapes, list(node.get_output_shape(0)))
    return found


COUNTERS: dict[str, Callable[[Path, int, Sequence[np.ndarray], int], Calls]] = {
    OnnxRuntime.name: onnxruntime_times,
    OpenVINO.name: openvino_times,
}


def operator_times(engine: str, folder: Path, threads: int, inputs: Sequence[np.ndarray], calls: int) -> Calls:
    """The operators of each of `calls` calls, in order. Raises UserError for an engine without counters."""
    if engine not in COUNTERS:
        raise UserError(f"engine {engine} does not tell the time of its operators; profile onednn instead")
    return COUNTERS[engine](folder, threads, inputs, calls)
