"""`python -m ppcls_ext.bench.training`: speed of training steps beside Paddle and PyTorch.

Each trainee has a process of its own; all take turns in short rounds. The batch lies in memory: nothing is loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.bench import training_worker
from ppcls_ext.bench.benchmark import ratio_interval, versions
from ppcls_ext.core.display import complain, say, show_table
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.machine import machine
from ppcls_ext.models.spec import BLOCKS, SPECS, LCNetSpec
from ppcls_ext.runtime.timing import CONFIDENCE


@dataclass
class Trainee:
    """Something that trains; seconds of its steps by round."""

    name: str
    python: str
    settings: dict[str, Any]
    rounds: list[list[float]] = field(default_factory=list)
    peak_mb: float = 0.0
    process: subprocess.Popen[str] | None = None

    def turn(self, steps: int) -> list[float]:
        """Seconds of so many steps, in the process of this trainee. Raises UserError if it has died."""
        if self.process is None:
            # Its text is handed over, since Python would look for modules beside a file.
            source = Path(training_worker.__file__).read_text()
            command = [self.python, "-c", source, json.dumps(self.settings)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self.process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which no line of it says next
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"{self.name}: its process ended with status {self.process.wait()}; see its message above")
        answer = json.loads(line)
        self.peak_mb = answer["peak_mb"]
        return list(answer["seconds"])

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.communicate()


def layers_of(spec: LCNetSpec) -> list[dict[str, Any]]:
    """A network of the family as `training_worker.torch_network` builds it."""
    channels = spec.width(16)
    block = {"kind": "block", "groups": 1, "kernel": 3, "stride": 2, "channels": 3, "out": channels}
    layers: list[dict[str, Any]] = [block]
    for row, se, large in zip(BLOCKS, spec.se, spec.kernel5, strict=True):
        out, kernel = spec.width(row.width), 5 if large == "1" else 3
        depthwise = {"kernel": kernel, "stride": row.stride, "groups": channels, "channels": channels, "out": channels}
        layers.append({"kind": "block", **depthwise})
        if se == "1":
            layers.append({"kind": "se", "channels": channels, "out": channels})
        layers.append({**block, "kernel": 1, "stride": 1, "channels": channels, "out": out})
        channels = out
    return [*layers, {"kind": "head", "channels": channels, "out": spec.last_width}]


def trainees(
    network: str,
    threads: int,
    batch: int,
    size: int,
    torch_python: str,
    other_threads: Sequence[int] = (),
    compiled: bool = False,
) -> list[Trainee]:
    """The trainees that can run here; ratios are to the first.

    Args:
        other_threads: compare with this package itself on so many threads, and with nothing else.
        compiled: also compile PyTorch's network, which takes a minute or more.
    """
    common = {"network": network, "threads": threads, "batch": batch, "size": size}
    found = [Trainee("pplcnet", sys.executable, {**common, "fast": True})]
    if other_threads:
        for count in other_threads:
            settings = {**common, "threads": count, "fast": True}
            found.append(Trainee(f"pplcnet, {count} threads", sys.executable, settings))
        return found
    found.append(Trainee("pplcnet, Global.fast_cpu=false", sys.executable, {**common, "fast": False}))
    try:
        has_torch = subprocess.run([torch_python, "-c", "import torch"], capture_output=True).returncode == 0
    except OSError as error:
        raise UserError(f"--torch-python {torch_python}: {error.strerror}; give a Python that has PyTorch") from error
    if not has_torch:
        say("PyTorch is not installed, and left out; --torch-python names a Python that has it")
        return found
    ways = [("NCHW", "contiguous_format", False), ("channels last", "channels_last", False)]
    for name, layout, compiles in ways + [("channels last, compiled", "channels_last", True)] * compiled:
        settings = {**common, "layout": layout, "layers": layers_of(SPECS[network]), "compile": compiles}
        found.append(Trainee(f"PyTorch, {name}", torch_python, settings))
    return found


def measure(taking_part: list[Trainee], rounds: int, steps: int) -> None:
    """Fill their `rounds`; the first two steps of each process and the first of each turn are not counted."""
    try:
        for trainee in taking_part:
            trainee.turn(2)
        for number in range(rounds):
            order = taking_part if number % 2 == 0 else taking_part[::-1]
            for trainee in order:
                trainee.rounds.append(trainee.turn(steps + 1)[1:])
    finally:
        for trainee in taking_part:
            trainee.close()


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many other processes compute while this lasts."""
    found = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in found:
            process.kill()
            process.wait()


def report(taking_part: list[Trainee], batch: int) -> list[dict[str, Any]]:
    """A row for each: images a second (median of all steps, and of the slowest and fastest round), and the ratio."""
    first = np.array(taking_part[0].rounds)
    rows = []
    for trainee in taking_part:
        seconds = np.array(trainee.rounds)
        speeds = batch / np.median(seconds, axis=1)
        row: dict[str, Any] = {"name": trainee.name, "images_per_s": batch / float(np.median(seconds))}
        row |= {"least": float(speeds.min()), "most": float(speeds.max()), "peak_mb": trainee.peak_mb}
        # The time of this one for each second of the first says how many times as fast the first is.
        rows.append({**row, "first_is_faster": ratio_interval(seconds, first, seed=0), "seconds": seconds.tolist()})
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Measure, show a table, and write JSON if asked to; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ppcls_ext.bench.training", description=__doc__)
    parser.add_argument("--network", default="PPLCNet_x0_5", choices=SPECS, metavar="NETWORK")
    for flag, default in (("threads", 1), ("batch", 32), ("size", 224), ("rounds", 5), ("steps", 5)):
        parser.add_argument(f"--{flag}", type=int, default=default, metavar="N")
    parser.add_argument("--torch-python", default=sys.executable, metavar="FILE", help="a Python that has PyTorch")
    parser.add_argument(
        "--other-threads", type=int, action="append", default=[], metavar="N", help="compare with itself on N threads"
    )
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="keep N cores busy with other processes")
    parser.add_argument(
        "--processor-time", action="store_true", help="seconds of the processor, not of the clock, on a busy machine"
    )
    parser.add_argument("--torch-compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    try:
        _compare(parser.parse_args(arguments))
    except UserError as error:
        complain(f"training: {error}")
        return error.exit_status
    return 0


def _compare(given: argparse.Namespace) -> None:
    for name in ("threads", "batch", "size", "rounds", "steps"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} {getattr(given, name)}: expected 1 or more")
    if any(threads < 1 for threads in given.other_threads) or given.busy < 0:
        raise UserError("--other-threads and --busy are numbers of threads and of cores")
    if given.processor_time and given.other_threads:
        raise UserError("--processor-time adds up the threads of a step, so it cannot compare numbers of them")
    sizes = given.network, given.threads, given.batch, given.size
    taking_part = trainees(*sizes, given.torch_python, given.other_threads, given.torch_compile)
    for trainee in taking_part:
        trainee.settings["processor_time"] = given.processor_time
    with busy_processes(given.busy):
        measure(taking_part, given.rounds, given.steps)
    rows = report(taking_part, given.batch)
    here = machine()
    conditions = f"{given.network}, {given.threads} threads, {given.busy} busy processes"
    conditions += ", seconds of processor time" * given.processor_time
    say(f"{here['cpu']}, {here['usable_cores']} usable cores; {conditions}")
    table = []
    for row in rows:
        ratio = row["first_is_faster"]
        speed = f"{row['images_per_s']:.1f} ({row['least']:.1f}, {row['most']:.1f})"
        interval = f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        table.append((row["name"], speed, interval, f"{row['peak_mb']:.0f}"))
    columns = ["", "images/s (slowest, fastest round)", f"the first is so many times as fast [{CONFIDENCE:.0%}]", "MB"]
    show_table(f"batch {given.batch}, {given.size} px", columns, table)
    if given.json:
        found = {"machine": here, "versions": versions(["native"]), "results": rows}
        atomic_write_text(given.json, json.dumps(found, indent=2))


if __name__ == "__main__":
    sys.exit(main())
