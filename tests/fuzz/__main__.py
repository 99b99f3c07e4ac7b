"""`python -m tests.fuzz --seconds 600`: every target on random inputs, in turns, until the time is over.

An input is a fault if it lets something out, takes over five seconds, starts a process, or changes a file outside the
folder of inputs. It is saved, and so is its traceback; the exit status is then 1. `--atheris` lets atheris draw inputs
by what they reach in the code (`pip install atheris`); it ends at the first fault, which it saves in the same folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hypothesis import settings

HANG = 5  # seconds
TURN = 50  # inputs of a target before the next one has its turn
LONGEST = 4096  # bytes that an input is drawn from

# What no reader does, by its name as an audit event of Python.
PROCESSES = ("os.system", "subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


class Hang(Exception):
    """An input took too long."""


class Escaped(BaseException):
    """An input started a process, or changed a file that is not its own; no `except Exception` hides it."""


def _alarm(*_: object) -> None:
    raise Hang(f"over {HANG} s")


class FolderWatch:
    """While `on`, raises Escaped at what starts a process or changes a file outside the given folders.

    An audit hook stays for the rest of the process.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.on = False
        self._allowed = tuple(f"{os.path.realpath(folder)}{os.sep}" for folder in folders)
        sys.addaudithook(self._hook)

    def __enter__(self) -> None:
        self.on = True

    def __exit__(self, *_: object) -> None:
        self.on = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in PROCESSES:
            raise Escaped(f"{event} {arguments!r:.200}")
        if (event in CHANGES or (event == "open" and _writes(*arguments[1:3]))) and not isinstance(arguments[0], int):
            path = os.path.realpath(os.fsdecode(arguments[0] or ""))
            if not f"{path}{os.sep}".startswith(self._allowed) and path != os.devnull:
                raise Escaped(f"{event} {path}")


def _writes(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def prepare(instrumented: bool) -> None:
    """Import what is to be tested, and do all that this process does once."""
    settings.register_profile("fuzz", database=None)  # inputs that fail are kept here, not there
    settings.load_profile("fuzz")
    os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="pplcnet-fuzz-")
    import matplotlib.font_manager  # noqa: F401  (it writes its cache now, and not while an input is run)

    if instrumented:
        import atheris

        with atheris.instrument_imports(include=["ppcls_ext", "det", "seg"]):
            from tests.fuzz import targets  # noqa: F401


def main(given: Sequence[str] | None = None) -> int:
    """Run the targets; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--inputs", type=int, default=10**12, help="end after so many inputs")
    parser.add_argument("--target", action="append", help="only this one (may be repeated)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-faults"), help="folder for inputs that fail")
    parser.add_argument("--atheris", action="store_true", help="draw inputs by what they reach in the code")
    arguments = parser.parse_args(given)
    if arguments.atheris and find_spec("atheris") is None:
        parser.error("--atheris needs the package atheris; python -m pip install atheris")
    prepare(arguments.atheris)
    from tests.fuzz import targets
    from tests.fuzz.checks import folder

    for name in arguments.target or ():
        if name not in targets.TARGETS:
            parser.error(f"no target '{name}'; known: {', '.join(targets.TARGETS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    watch = FolderWatch([folder(), Path(".hypothesis")])  # hypothesis keeps constants of the code there
    names = arguments.target or list(targets.TARGETS)
    return (_guided if arguments.atheris else _drawn)(arguments, names, watch)


def _drawn(arguments: argparse.Namespace, names: Sequence[str], watch: FolderWatch) -> int:
    """Random inputs, in turns."""
    from tests.fuzz.targets import from_bytes

    signal.signal(signal.SIGALRM, _alarm)
    rng, end = random.Random(arguments.seed), time.monotonic() + arguments.seconds
    counts = dict.fromkeys(names, 0)
    faults: set[str] = set()
    slowest = 0.0
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopped.append(number))
    while time.monotonic() < end and sum(counts.values()) < arguments.inputs and not stopped:
        for name in names:
            run = from_bytes(name)
            for _ in range(0 if stopped else TURN):
                data = rng.randbytes(rng.randrange(LONGEST))
                begin = time.monotonic()
                signal.alarm(HANG)
                try:
                    with watch:
                        run(data)
                except (Exception, Escaped):  # whatever a target lets out is a fault
                    signal.alarm(0)
                    _keep(arguments.out, name, data, faults)
                signal.alarm(0)
                slowest = max(slowest, time.monotonic() - begin)
                counts[name] += 1
    print(f"{sum(counts.values())} inputs, {len(faults)} kinds of faults, the slowest took {slowest:.2f} s: {counts}")
    return 1 if faults else 0


def _guided(arguments: argparse.Namespace, names: Sequence[str], watch: FolderWatch) -> int:
    """The same targets under atheris; the first byte of an input says which. Does not come back: libFuzzer exits."""
    import atheris

    from tests.fuzz.targets import from_bytes

    runs = [from_bytes(name) for name in names]

    def one(data: bytes) -> None:
        if data:
            with watch:
                runs[data[0] % len(runs)](data[1:])

    flags = [f"-max_total_time={arguments.seconds:.0f}", f"-runs={arguments.inputs}", f"-timeout={HANG}"]
    flags += [f"-max_len={LONGEST}", "-len_control=0"]  # long inputs from the start
    flags += [f"-seed={arguments.seed + 1}", f"-artifact_prefix={arguments.out}/"]
    atheris.Setup([sys.argv[0], *flags], one)
    atheris.Fuzz()
    return 0


def _keep(out: Path, name: str, data: bytes, faults: set[str]) -> None:
    """Save the first input of each kind of fault; a kind is the place in the code where it was raised."""
    text = traceback.format_exc()
    frames = traceback.extract_tb(sys.exc_info()[2])
    kind = f"{name} {frames[-1].filename}:{frames[-1].lineno} {text.splitlines()[-1][:80]}"
    if kind in faults:
        return
    faults.add(kind)
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    (out / f"{stem}.bin").write_bytes(data)
    (out / f"{stem}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    print(f"fault: {kind} ({stem})")


if __name__ == "__main__":
    sys.exit(main())
