"""Where the time of training steps goes: its parts, operators, and our kernels beside the limits of the machine.

Times are Paddle's profiler's, of the main thread. An operator's own time counts, not what it calls.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import profiler

from ppcls_ext.core.config import Config
from ppcls_ext.core.device import kernel_threads
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.peak import memory_gbps, peak_gflops
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.training.trainer import Trainer

WARM_UP = 3  # steps before those that count: kernels are compiled, workers start, memory is fetched
PARTS = ("data", "forward and loss", "gradients", "optimizer", "average")
REST = "Python, and what Paddle does around operators"
_OPERATOR = re.compile(r"^(?:Global_)?(?:GradNodePyLayer_)?(.+?)(?:GradNode(?:Final)?)?(?: dygraph)?$")


@dataclass
class Cost:
    """What all calls of one thing took.

    Attributes:
        bytes, flops: see `ppcls_ext.models.kernels.work`; 0 where they are not known.
    """

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0
    flops: int = 0

    def add(self, seconds: float, moved: int = 0, flops: int = 0) -> None:
        """Count a call."""
        self.calls += 1
        self.seconds += seconds
        self.bytes += moved
        self.flops += flops


@dataclass
class Profile:
    """Costs of all profiled steps together.

    Attributes:
        images: of all steps.
        seconds: of all steps, data included.
        parts: of a step, by names of `PARTS`.
        operators: Paddle's, Paddle's calls of gradients, and kernels, by name; `REST` is what none of them took.
        problems: kernels with their sizes.
        gflops, gbps: what this machine shows in multiply-adds on registers and in a copy, with as many threads.
    """

    steps: int
    threads: int
    gflops: float
    gbps: float
    images: int = 0
    seconds: float = 0.0
    parts: dict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    operators: dict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    problems: dict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))

    def of_limit(self, cost: Cost) -> float:
        """The least time that this machine could need, as a share of what it took; NaN where nothing is known."""
        least = max(cost.bytes / self.gbps, cost.flops / self.gflops) / 1e9
        return least / cost.seconds if least and cost.seconds else float("nan")

    def read(self, node: Any, works: dict[str, Any]) -> None:
        """Take in an event of Paddle's profiler with those inside it.

        Args:
            works: the `KernelWork` of each kernel's events, by their name.
        """
        seconds = (node.end_ns - node.start_ns) / 1e9
        own = seconds - sum((inner.end_ns - inner.start_ns) / 1e9 for inner in node.children_node)
        if node.name in PARTS:
            self.parts[node.name].add(seconds)
        if node.name in works:
            work = works[node.name]
            self.problems[work.problem].add(seconds, work.bytes, work.flops)
            self.operators[work.problem.split()[0]].add(seconds, work.bytes, work.flops)
            return
        if node.name == "data":
            self.operators["waiting for data"].add(seconds)
            return
        if node.type == profiler.TracerEventType.Operator:
            kernels = [inner for inner in _inner(node) if inner.name in works]
            self.operators[operator_name(node.name)].add(seconds - sum(_seconds(inner) for inner in kernels))
            for inner in kernels:
                self.read(inner, works)
            return
        self.operators[REST].add(own)
        for inner in node.children_node:
            self.read(inner, works)


def operator_name(event: str) -> str:
    """`conv2d` of Paddle's `conv2d dygraph`, `Conv2d, gradient` of `Global_Conv2dGradNode`."""
    found = _OPERATOR.match(event)
    assert found is not None
    if found[1] == "GradNodeAccumulation":
        return "sum of gradients"
    return f"{found[1]}, gradient" if "GradNode" in event and not found[1].endswith("_backward") else found[1]


def _inner(node: Any) -> Iterator[Any]:
    for inner in node.children_node:
        yield inner
        yield from _inner(inner)


def _seconds(node: Any) -> float:
    return float(node.end_ns - node.start_ns) / 1e9


def profile(config: Config, steps: int) -> Profile:
    """Train so many steps of a config, after `WARM_UP` others; nothing is saved.

    Raises:
        UserError: bad config or data.
    """
    trainer = Trainer(make_task(config))
    trainer.task.prepare()
    if trainer.global_section.pretrained_model:
        trainer.learner.load_pretrained(trainer.global_section.pretrained_model)
    trainer.learner.train_mode()
    batches = _batches(trainer)
    try:
        for number in range(WARM_UP):
            trainer.learner.step(next(batches), number)
        return _profiled(trainer, batches, steps)
    finally:
        batches.close()
        trainer.loader.close()


def _batches(trainer: Trainer) -> Generator[Any]:
    """The batches of each step, for ever."""
    for epoch in itertools.count():
        with contextlib.closing(trainer.loader.epoch(epoch, 0, True)) as batches:
            while group := list(itertools.islice(batches, trainer.global_section.update_freq)):
                yield group


def _profiled(trainer: Trainer, batches: Iterator[Any], steps: int) -> Profile:
    threads = kernel_threads()
    found = Profile(steps, threads, peak_gflops(threads), memory_gbps(threads))
    works: dict[str, Any] = {}
    recorder = profiler.Profiler(targets=[profiler.ProfilerTarget.CPU], on_trace_ready=_ignore)
    with _kernels_observed(works):
        recorder.start()
        for number in range(WARM_UP, WARM_UP + steps):
            with profiler.RecordEvent("data"):
                group = next(batches)
            trainer.learner.step(group, number)
            found.images += sum(len(batch[0]) for batch in group)
            recorder.step()
        recorder.stop()
    for root in recorder.profiler_result.get_data().values():
        for step in root.children_node:
            if step.type == profiler.TracerEventType.ProfileStep and step.children_node:
                found.seconds += _seconds(step)
                found.read(step, works)
    return found


def _ignore(_: Any) -> None:
    """Paddle would write a file."""


@contextlib.contextmanager
def _kernels_observed(works: dict[str, Any]) -> Iterator[None]:
    if paddle.get_device() != "cpu":
        yield
        return
    from ppcls_ext.models.kernels.threads import observed  # imported only here, since it loads a compiler
    from ppcls_ext.models.kernels.work import work_of

    def observer(kernel: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
        work = work_of(kernel, arguments)
        works[work.problem] = work
        return profiler.RecordEvent(work.problem)

    with observed(observer):
        yield


def check_profilable(processes: int, resumes: bool) -> None:
    """Raises UserError for what a profile does not go with."""
    if processes > 1 or resumes:
        raise UserError("--profile: it trains a few steps of a new run in one process; leave out --nproc and --resume")


Row = tuple[Any, ...]


def tables(found: Profile, most: int = 25) -> list[tuple[str, list[str], list[Row]]]:
    """Title, columns and rows of what to show: parts, operators, and the `most` expensive problems of kernels."""
    step = found.seconds / found.steps
    speed = f"{found.images / found.seconds:.1f} images/s"
    title = f"{found.steps} steps of {step * 1e3:.1f} ms ({speed}), threads: {found.threads}"
    parts = [(name, _ms(found.parts[name], found), _share(found.parts[name], found)) for name in PARTS]
    limits = f"this machine: {found.gflops:.0f} GFLOP/s, {found.gbps:.1f} GB/s"
    if found.problems:
        limits += "; bytes and FLOPs are those of our kernels"
    columns = ["calls a step", "ms a step", "share", "GB/s", "GFLOP/s", "of the limit"]
    kernels = ("kernels by size", ["kernel", *columns], _rows(found, found.problems, most))
    return [
        (title, ["part", "ms a step", "share"], parts),
        (limits, ["operator", *columns], _rows(found, found.operators, most)),
        *([kernels] if found.problems else []),
    ]


def _rows(found: Profile, costs: dict[str, Cost], most: int) -> list[Row]:
    ranked = sorted(costs.items(), key=lambda item: -item[1].seconds)
    rest = Cost(*(sum(values) for values in zip(*(vars(cost).values() for _, cost in ranked[most:]), strict=True)))
    if rest.calls:
        ranked = [*ranked[:most], ("all others", rest)]
    return [_row(name, cost, found) for name, cost in ranked]


def _row(name: str, cost: Cost, found: Profile) -> Row:
    limit = found.of_limit(cost)
    return (
        name,
        f"{cost.calls / found.steps:.{0 if cost.calls >= found.steps else 1}f}",  # of some sizes of several, below 1
        _ms(cost, found),
        _share(cost, found),
        f"{cost.bytes / cost.seconds / 1e9:.1f}" if cost.bytes else "",
        f"{cost.flops / cost.seconds / 1e9:.1f}" if cost.flops else "",
        "" if math.isnan(limit) else f"{limit:.0%}",
    )


def _ms(cost: Cost, found: Profile) -> str:
    return f"{cost.seconds / found.steps * 1e3:.2f}"


def _share(cost: Cost, found: Profile) -> str:
    return f"{cost.seconds / found.seconds:.1%}"
