"""`python -m tests.fuzz --seconds 600`: every target on random inputs, in turns, until the time is over.

An input that fails or takes over five seconds is saved, and so is its traceback; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.targets import TARGETS, from_bytes

HANG = 5  # seconds
TURN = 50  # inputs of a target before the next one has its turn
LONGEST = 4096  # bytes that an input is drawn from


class Hang(Exception):
    """An input took too long."""


def _alarm(*_: object) -> None:
    raise Hang(f"over {HANG} s")


def main() -> int:
    """Run the targets; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--inputs", type=int, default=10**12, help="end after so many inputs")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-faults"), help="folder for inputs that fail")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, _alarm)
    rng, end = random.Random(arguments.seed), time.monotonic() + arguments.seconds
    names = arguments.target or list(TARGETS)
    counts = dict.fromkeys(names, 0)
    faults: set[str] = set()
    slowest = 0.0
    while time.monotonic() < end and sum(counts.values()) < arguments.inputs:
        for name in names:
            run = from_bytes(name)
            for _ in range(TURN):
                data = rng.randbytes(rng.randrange(LONGEST))
                begin = time.monotonic()
                signal.alarm(HANG)
                try:
                    run(data)
                except Exception:  # whatever a target lets out is a fault
                    signal.alarm(0)
                    _keep(arguments.out, name, data, faults)
                signal.alarm(0)
                slowest = max(slowest, time.monotonic() - begin)
                counts[name] += 1
    print(f"{sum(counts.values())} inputs, {len(faults)} kinds of faults, the slowest took {slowest:.2f} s: {counts}")
    return 1 if faults else 0


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
    print(f"fault: {kind} ({stem})", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
