"""Many results of one Predictor, whose memory, open files and threads must stay as they are.

    python -m tests.helpers.predictor_soak --task detection --engine onednn --folder FOLDER

The network is small and untrained, and exported into the folder, unless one is there or `-m EXPORT` names another.
Images of 50 sizes go through `stream`, as JPEG and PNG. One of fifty is broken, so that what errors hold shows, too.
Exit status 1: growth, see `tests.helpers.growth`.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import psutil

from ppcls_ext.runtime.predictor import Predictor
from tests.helpers.growth import Sample, report, sample

TASKS = ("classification", "detection", "segmentation")
MAKE_EXPORT = """
import sys
from pathlib import Path
from tests.helpers import exports
from tests.helpers.sets import write_set

task, folder = sys.argv[1], Path(sys.argv[2])
if task == "classification":
    exports.classifier(folder, write_set(folder.parent / "images", train=2, val=1), "all")
else:
    {"detection": exports.detector, "segmentation": exports.segmenter}[task](folder, "all")
"""
SIZES = 50
SAMPLES = 200  # over the whole run


def exported(task: str, folder: Path) -> Path:
    """An export of a small network of a task in all formats, which is made where it is not there."""
    model = folder / "inference"
    if not model.is_dir():
        # In a process of its own, since what trains would count as memory of what predicts.
        subprocess.run([sys.executable, "-c", MAKE_EXPORT, task, str(folder)], check=True)
    return model


def pictures(largest: int, seed: int = 0) -> list[bytes]:
    """An image of each size, as the content of a file: blobs, since noise is larger and nothing like a photo. One is
    cut off in the middle.
    """
    random = np.random.default_rng(seed)
    found = []
    for number in range(SIZES):
        height, width = random.integers(largest // 4, largest, 2, endpoint=True).tolist()
        blobs = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        pixels = cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)
        found.append(cv2.imencode((".jpg", ".png")[number % 2], pixels)[1].tobytes())
    found[-1] = found[-1][: len(found[-1]) // 2]
    return found


def soak(folder: Path, engine: str, runs: int, largest: int) -> tuple[list[Sample], int]:
    """So many results; gives samples along the way, and how many images could not be read."""
    process, samples, broken = psutil.Process(), [], 0
    images: Iterator[bytes] = itertools.islice(itertools.cycle(pictures(largest)), runs)
    with Predictor(folder, engine, threads=1, errors="keep") as predict:
        for number, result in enumerate(predict.stream(images), start=1):
            broken += result.error is not None
            if number % max(1, runs // SAMPLES) == 0:
                samples.append(sample(process))
    return samples, broken


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.predictor_soak", description=__doc__)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("-m", "--model", type=Path)
    group.add_argument("--task", choices=TASKS)
    parser.add_argument("--folder", type=Path, default=Path("output/predictor_soak"))
    parser.add_argument("--engine", required=True)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--largest", type=int, default=160, help="side of the images, in pixels, at most")
    given = parser.parse_args(argv)
    model = given.model or exported(given.task, given.folder / given.task)
    samples, broken = soak(model, given.engine, given.runs, given.largest)
    what = given.task or given.model
    return report(samples, f"{what} on {given.engine}: {given.runs} images, {broken} of them broken")


if __name__ == "__main__":
    sys.exit(main())
