"""One trainee of `ppcls_ext.bench.training`, in a process of its own.

It answers each number on stdin with the seconds of so many training steps on one batch in memory, as a line of JSON.
Those with PyTorch import nothing of this package, so that any Python that has PyTorch can be used.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

LEARNING_RATE, MOMENTUM, DECAY = 0.05, 0.9, 3e-5
CLASSES = 1000


def ours(settings: dict[str, Any]) -> Callable[[], None]:
    """A step of this package; its kernels where `fast` says so."""
    from ppcls_ext.core.device import set_threads

    set_threads(settings["threads"])
    import paddle

    from ppcls_ext.models.factory import build_arch
    from ppcls_ext.upstream.glibc import keep_freed_memory

    paddle.set_device("cpu")
    paddle.seed(0)
    model = build_arch({"name": settings["network"]}, CLASSES)
    if settings["fast"]:
        from ppcls_ext.models.kernels import speed_up

        speed_up(model, settings["threads"])
    size = settings["size"]
    images = paddle.randn([settings["batch"], 3, size, size])
    labels = paddle.randint(0, CLASSES, [settings["batch"]])
    optimizer = paddle.optimizer.Momentum(
        LEARNING_RATE, MOMENTUM, parameters=model.parameters(), weight_decay=paddle.regularizer.L2Decay(DECAY)
    )

    def step() -> None:
        paddle.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.clear_grad()

    if settings["fast"]:
        step()
        keep_freed_memory()  # as `Task.keep_memory` does
    return step


def torch_step(settings: dict[str, Any]) -> Callable[[], None]:
    """A step of PyTorch, in the memory layout that `layout` names."""
    import torch

    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    layout = getattr(torch, settings["layout"])
    model = torch_network(settings["layers"]).to(memory_format=layout)
    network = torch.compile(model) if settings["compile"] else model
    size = settings["size"]
    images = torch.randn(settings["batch"], 3, size, size).to(memory_format=layout)
    labels = torch.randint(0, CLASSES, (settings["batch"],))
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=DECAY)
    loss = torch.nn.CrossEntropyLoss()

    def step() -> None:
        loss(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def torch_network(layers: list[dict[str, Any]]) -> Any:
    """PP-LCNet of PyTorch's layers: `layers` has kind "block" (a convolution, norm, H-Swish), "se" or "head" each."""
    from torch import nn

    class Gated(nn.Module):  # type: ignore[misc]
        def __init__(self, channels: int) -> None:
            super().__init__()
            squeeze, excite = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), squeeze, nn.ReLU(), excite, nn.Hardsigmoid())

        def forward(self, x: Any) -> Any:
            return x * self.gate(x)

    made: list[Any] = []
    for layer in layers:
        channels, out = layer["channels"], layer["out"]
        if layer["kind"] == "block":
            kernel, groups = layer["kernel"], layer["groups"]
            made.append(nn.Conv2d(channels, out, kernel, layer["stride"], kernel // 2, groups=groups, bias=False))
            made += [nn.BatchNorm2d(out), nn.Hardswish(inplace=True)]
        elif layer["kind"] == "se":
            made.append(Gated(channels))
        else:
            made += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, out, 1, bias=False), nn.Hardswish()]
            made += [nn.Dropout(0.2), nn.Flatten(), nn.Linear(out, CLASSES)]
    return nn.Sequential(*made)


def main() -> None:
    """Serve until stdin ends."""
    settings = json.loads(sys.argv[1])
    step = (torch_step if "layout" in settings else ours)(settings)
    clock = time.process_time if settings.get("processor_time") else time.perf_counter
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = clock()
            step()
            seconds.append(clock() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mb": peak}), flush=True)


if __name__ == "__main__":
    main()
