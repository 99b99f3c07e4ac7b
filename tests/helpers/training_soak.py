"""A long training whose memory, open files and threads must stay as they are.

    python -m tests.helpers.training_soak --minutes 60 --folder FOLDER

Trains a tiny classifier on pictures that it makes, with workers, an evaluation and a state every epoch. After a tenth
of the time everything has been in use once; see `tests.helpers.growth` for what then counts. Exit status 1: growth.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from ppcls_ext.core.run_folder import read_log
from tests.helpers.configs import config_of, write_config
from tests.helpers.growth import Sample, report, sample
from tests.helpers.sets import write_set


def soak(folder: Path, minutes: float, workers: int, seconds: float = 2.0) -> tuple[list[Sample], int]:
    """Train for so long; gives a sample every few seconds, and how many steps there were."""
    folder.mkdir(parents=True)
    write_set(folder / "images", train=64, val=8)
    config = config_of(folder / "images", folder)
    config["Global"] |= {"epochs": 100_000, "image_shape": [3, 32, 32], "print_batch_step": 10}
    for split in ("Train", "Eval"):
        config["DataLoader"][split]["loader"] = {"num_workers": workers}
    command = [sys.executable, "-m", "ppcls_ext.cli", "train", "-c", str(write_config(folder / "run.yaml", config))]
    end, samples = time.monotonic() + 60 * minutes, []
    with open(folder / "output.txt", "wb") as output:
        training = subprocess.Popen(command, stdout=output, stderr=output)
        process = psutil.Process(training.pid)
        while time.monotonic() < end and training.poll() is None:
            time.sleep(seconds)
            try:
                samples.append(sample(process))
            except psutil.NoSuchProcess:  # a worker that ended meanwhile
                continue
        training.terminate()
        training.wait()
    events = read_log(next(folder.rglob("log.jsonl")))
    return samples, max((event["step"] for event in events), default=0)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.training_soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args(argv)
    samples, steps = soak(given.folder, given.minutes, given.workers)
    return report(samples, f"{steps} steps in {given.minutes:g} minutes")


if __name__ == "__main__":
    sys.exit(main())
