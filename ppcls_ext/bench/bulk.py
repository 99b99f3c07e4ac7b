"""Images/s of `pplcnet infer` as one process, as shares in several, and with Ray, in turns.

    python -m ppcls_ext.bench.bulk -m FOLDER -i PHOTOS --rounds 3

Each way runs a short and a long list in each round. What the long one takes more is what its further images take; the
rest is the start and the end, which a long run does not feel.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ppcls_ext.core.device import usable_cores
from ppcls_ext.core.display import complain, say, show_table
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.images import find_images, read_bytes

Way = Callable[[Path, Path], Sequence[str]]  # the command for a folder of images and a folder for the results


def ways(model: Path, cores: int, with_ray: bool) -> dict[str, Way]:
    """The commands by name. A stream with one thread of the network decodes in another one.

    Args:
        model: exported folder.
        cores: processes that share the list; what is compared has all of them.
    """
    command = str(Path(sys.executable).with_name("pplcnet"))  # users run the one of this environment
    infer = [command, "infer", "-m", str(model), "--format", "parquet"]

    def stream(images: Path, results: Path) -> Sequence[str]:
        return [*infer, "-i", str(images), "--save", str(results / "all.parquet")]

    def shards(images: Path, results: Path) -> Sequence[str]:
        share = [*infer, "-i", str(images), "--threads", "1", "--shard", f"{{}}/{cores}"]
        save = ["--save", str(results / "{}.parquet")]
        return ["xargs", "-a", str(_numbers(results, cores)), "-P", str(cores), "-I{}", *share, *save]

    def ray(images: Path, results: Path) -> Sequence[str]:
        return [*infer, "-i", str(images), "--ray", "--save", str(results / "ray")]

    def one_thread(images: Path, results: Path) -> Sequence[str]:
        return [*stream(images, results), "--threads", "1"]

    named: dict[str, Way] = {"stream": stream, "stream, 1 thread": one_thread, f"{cores} shards": shards}
    return {**named, "ray": ray} if with_ray else named


def _numbers(folder: Path, count: int) -> Path:
    file = folder / "numbers"
    file.write_text("".join(f"{number}\n" for number in range(1, count + 1)))
    return file


def folder_of(photos: Sequence[str], count: int, folder: Path) -> Path:
    """A folder with so many links to the photos, each as often as the others."""
    folder.mkdir()
    for number, photo in enumerate(itertools.islice(itertools.cycle(photos), count)):
        (folder / f"{number:07}{Path(photo).suffix}").symlink_to(Path(photo).absolute())
    return folder


def seconds(command: Sequence[str]) -> float:
    """What a command takes. Raises CheckFailed if it fails."""
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckFailed(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
    return time.monotonic() - start


def measure(commands: dict[str, Way], lists: tuple[Path, Path], counts: tuple[int, int], rounds: int) -> None:
    """Run all ways in turns, each round in the opposite order, and show what they take."""
    rates: dict[str, list[float]] = {name: [] for name in commands}
    starts: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds):
        for name in list(commands)[:: -1 if number % 2 else 1]:
            took = []
            for images in lists:
                with tempfile.TemporaryDirectory() as results:
                    took.append(seconds(commands[name](images, Path(results))))
            rates[name].append((counts[1] - counts[0]) / (took[1] - took[0]))
            starts[name].append(took[0] - counts[0] / rates[name][-1])
            say(f"round {number + 1}: {name}: {rates[name][-1]:.0f} images/s, start {starts[name][-1]:.1f} s")
    first = next(iter(commands))
    rows = []
    for name in commands:
        middle = statistics.median(rates[name])
        ratio = statistics.median(a / b for a, b in zip(rates[name], rates[first], strict=True))
        spread = f"{min(rates[name]):.0f} ... {max(rates[name]):.0f}"
        rows.append((name, f"{middle:.0f}", spread, f"{ratio:.2f}", f"{statistics.median(starts[name]):.1f}"))
    show_table(None, ("way", "images/s", "spread", "ratio", "start and end, s"), rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags, and measure; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ppcls_ext.bench.bulk", description=__doc__)
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("-i", "--images", nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", type=int, default=256, help="images of the short list")
    parser.add_argument("--long", type=int, default=3500, help="images of the long list")
    parser.add_argument("--no-ray", action="store_true")
    try:
        _compare(parser.parse_args(argv))
    except (UserError, CheckFailed) as error:
        complain(f"bulk: {error}")
        return error.exit_status
    return 0


def _compare(arguments: argparse.Namespace) -> None:
    photos = find_images(arguments.images)
    read = sum(len(read_bytes(photo)) for photo in photos)  # from now on they are in the system's cache
    say(f"{len(photos)} photos of {read / len(photos) / 1024:.1f} KiB, {usable_cores()} cores")
    counts = (arguments.short, arguments.long)
    with tempfile.TemporaryDirectory() as folder:
        lists = tuple(folder_of(photos, count, Path(folder) / str(count)) for count in counts)
        commands = ways(arguments.model, usable_cores(), not arguments.no_ray)
        measure(commands, (lists[0], lists[1]), counts, arguments.rounds)


if __name__ == "__main__":
    sys.exit(main())
