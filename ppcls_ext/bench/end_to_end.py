"""`pplcnet benchmark --end-to-end`: how long it takes from an image file to its result, beside what others take.

Every subject runs in processes of its own and all take turns, as in `ppcls_ext.bench.benchmark`; a call begins with the
path of an image, whose file the system has in memory, and ends with its result.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.bench.benchmark import ratio_interval, summary, versions
from ppcls_ext.bench.command import check_target, milliseconds
from ppcls_ext.bench.end_to_end_worker import PADDLECLAS, PREDICTOR, SCRIPT
from ppcls_ext.bench.photos import name_photos, write_photos
from ppcls_ext.bench.scripts import agreement
from ppcls_ext.bench.settings import Settings
from ppcls_ext.bench.turns import TimedProcess, Turns, failing, take_all_turns
from ppcls_ext.core.device import usable_cores
from ppcls_ext.core.display import UNDEFINED, say, show_table
from ppcls_ext.core.errors import CheckFailed
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.images import find_images
from ppcls_ext.core.machine import machine
from ppcls_ext.runtime.auto import candidates
from ppcls_ext.runtime.choice import AUTO
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.exported import Exported, read_exported

STREAM_BATCH = 8  # images in a batch of a stream, where the model takes any number
STREAM_IMAGES = 48
WARM_CALLS = 4  # calls that warm a process up; more would take long with photos of phones


@dataclass(frozen=True)
class PhotoSubject:
    """What turns photos into results.

    Attributes:
        kind: a `Predictor`, the script that people write by hand, or PaddleClas's own predictor.
        engine, decode: of a Predictor.
    """

    kind: str
    folder: Path
    engine: str = ""
    decode: str = ""

    @property
    def name(self) -> str:
        """What tables call it."""
        names = {SCRIPT: "OpenCV + ONNX Runtime script", PADDLECLAS: "PaddleClas's predictor, onednn"}
        return names.get(self.kind, f"Predictor, {self.engine}, {self.decode}")


def photo_subjects(exported: Exported, engines: Sequence[str]) -> list[PhotoSubject]:
    """What can be measured with an export here: the baselines first, then a Predictor on each engine.

    Args:
        engines: none: each that is installed, has its format in the folder, and is of float32 or accepted.
    """
    kinds = [engine_class(name) for name in ENGINES if name != "native"]
    usable = [kind for kind in kinds if set(kind.formats) & set(exported.formats) and exported.accepts(kind)]
    engines = engines or [kind.name for kind in usable if kind.installed()]
    found = []
    if exported.task == "classification" and "pdmodel" in exported.formats and not exported.takes_pixels:
        found.append(PhotoSubject(PADDLECLAS, exported.folder))
    if "onnx" in exported.formats and engine_class("onnxruntime").installed():
        found.append(PhotoSubject(SCRIPT, exported.folder))
    return found + [
        PhotoSubject(PREDICTOR, exported.folder, engine, decode) for engine in engines for decode in ("exact", "scaled")
    ]


class PhotoMeasurement(Turns):
    """A subject under way on a set of photos."""

    def __init__(self, subject: PhotoSubject, photos: Sequence[Path], settings: Settings, threads: int = 1) -> None:
        super().__init__(subject.name, settings)
        self.subject, self.photos, self.threads = subject, photos, threads
        self.gists: list[np.ndarray] = []

    def start(self, batch: int = 1) -> None:
        """Open a process and warm it up; the first one also says how many calls a turn has."""
        subject, settings = self.subject, self.settings
        session = self.session = PhotoSession(self.threads, settings.pin)
        self.gists = session(
            "start",
            kind=subject.kind,
            folder=str(subject.folder),
            engine=subject.engine,
            decode=subject.decode,
            threads=self.threads,
            batch=batch,
            files=[str(photo) for photo in self.photos],
        )
        warm = session("turn", calls=min(settings.warmup, WARM_CALLS))
        self.plan(warm["seconds"] / len(warm["ns"]))


class PhotoSession(TimedProcess):
    """A process of a `PhotoWorker`."""

    def __init__(self, threads: int, pin: Sequence[int]) -> None:
        super().__init__(threads, "ppcls_ext.bench.end_to_end_worker", pin)


def measure(subjects: Sequence[PhotoSubject], photos: Sequence[Path], settings: Settings) -> list[PhotoMeasurement]:
    """Time one call after the other of every subject on a set of photos, on one thread, interleaved."""
    measurements = [PhotoMeasurement(subject, photos, settings) for subject in subjects]
    take_all_turns(measurements, settings, PhotoMeasurement.start)
    return measurements


def throughput(
    subjects: Sequence[PhotoSubject], photos: Sequence[Path], settings: Settings, threads: int, batch: int
) -> list[float | None]:
    """Images a second of a stream in each Predictor, on so many threads: the median of three turns.

    More threads than there are cores to bind to run unbound.
    """
    if threads > len(settings.pin):
        settings = settings.model_copy(update={"pin": ()})
    measurements = [PhotoMeasurement(subject, photos, settings, threads) for subject in subjects]
    images = STREAM_IMAGES if photos[0].stat().st_size < 2**19 else STREAM_IMAGES // 4
    with ExitStack() as stack:
        for each in measurements:
            stack.callback(each.close)
            if each.subject.kind == PREDICTOR:
                with failing(each):
                    each.start(batch)
        rates: list[list[float]] = [[] for _ in measurements]
        for _ in range(3):
            for each, rate in zip(measurements, rates, strict=True):
                if each.session is not None:
                    with failing(each):
                        rate.append(each.session("stream", images=images))
    return [float(np.median(rate)) if rate else None for rate in rates]


def rows_of(measurements: Sequence[PhotoMeasurement], settings: Settings) -> list[dict[str, Any]]:
    """A row of the report for each subject: its times, and how many times as fast as each baseline it is."""
    baselines = [each for each in measurements if each.subject.kind != PREDICTOR and each.failure is None]
    exact = next((each for each in measurements if each.subject.decode == "exact" and each.failure is None), None)
    rows = []
    for each in measurements:
        row: dict[str, Any] = {"subject": each.subject.name, **asdict(each.subject), "failure": each.failure}
        row["folder"] = str(each.subject.folder)
        if each.failure is None:
            row["n"] = int(each.samples.size)
            row["ms"] = summary(each.samples)
            row["times_as_fast_as"] = {
                base.subject.kind: ratio_interval(base.samples, each.samples, settings.seed, settings.shares())
                for base in baselines
                if base is not each
            }
            if exact is not None:
                pairs = zip(each.gists, exact.gists, strict=True)
                row["agreement"] = float(np.mean([agreement(a, b) for a, b in pairs]))
        rows.append(row)
    return rows


def end_to_end(
    folders: Sequence[Path], engines: Sequence[str], images: Sequence[str], settings: Settings, json_file: Path | None
) -> dict[str, Any]:
    """Measure and show it for each export and each set of photos; gives a JSON-able report.

    Args:
        engines: none: every one that can run here.
        images: files, folders or globs; none: photos of two sizes are drawn.
    Raises:
        UserError: not an export, an unknown engine, images that are not there. CheckFailed: a Predictor failed.
    """
    if json_file is not None:
        check_target(json_file)
    exports = [read_exported(folder) for folder in folders]
    subjects = [photo_subjects(exported, engines) for exported in exports]
    cores = usable_cores()
    results = []
    with tempfile.TemporaryDirectory(prefix="pplcnet-") as scratch:
        sets = name_photos([Path(file) for file in find_images(images)]) if images else write_photos(Path(scratch))
        for exported, chosen in zip(exports, subjects, strict=True):
            batch = exported.batch if exported.batch != -1 else STREAM_BATCH
            for name, photos in sets.items():
                runs = measure(chosen, photos, settings)
                result: dict[str, Any] = {
                    "model": str(exported.folder),
                    "photos": name,
                    "batch": batch,
                    "rows": rows_of(runs, settings),
                }
                for threads in sorted({1, cores}):
                    rates = throughput(chosen, photos, settings, threads, batch)
                    for row, rate in zip(result["rows"], rates, strict=True):
                        row.setdefault("images_per_s", {})[str(threads)] = rate
                show(result)
                results.append(result)
    report = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(_engines_of(exports, subjects)),
        "settings": settings.model_dump(mode="json"),
        "results": results,
    }
    if json_file is not None:
        atomic_write_text(json_file, json.dumps(report, indent=1) + "\n")
        say(f"written to {json_file}")
    failed = [row for result in results for row in result["rows"] if row["failure"] and row["kind"] == PREDICTOR]
    if failed:
        raise CheckFailed(f"{failed[0]['subject']}: {failed[0]['failure']}")
    return report


def _engines_of(exports: Sequence[Exported], subjects: Sequence[Sequence[PhotoSubject]]) -> list[str]:
    """The engines that were measured; of `auto`, those that it chose from."""
    found = {s.engine for chosen in subjects for s in chosen if s.engine}
    if AUTO in found:
        found = found - {AUTO} | {name.engine for exported in exports for name in candidates(exported)}
    return sorted(found)


def show(result: Mapping[str, Any]) -> None:
    """The table of an export on a set of photos."""
    threads = sorted({int(n) for row in result["rows"] for n in row["images_per_s"]})
    columns = ["subject", "median ms", "p99", "faster than PaddleClas", "than script", "as exact"]
    columns += [f"images/s, {n} thread{'s' * (n > 1)}" for n in threads]
    rows = []
    for row in result["rows"]:
        if row["failure"]:
            rows.append((row["subject"], "failed", *[UNDEFINED] * (len(columns) - 2)))
            continue
        rates = (row["images_per_s"][str(n)] for n in threads)
        rows.append(
            (
                row["subject"],
                milliseconds(row["ms"]["median"]),
                milliseconds(row["ms"]["p99"]),
                *(_ratio(row["times_as_fast_as"].get(kind)) for kind in (PADDLECLAS, SCRIPT)),
                f"{row['agreement']:.1%}" if "agreement" in row else UNDEFINED,
                *(UNDEFINED if rate is None else f"{rate:.1f}" for rate in rates),
            )
        )
    show_table(
        f"{result['model']}, {result['photos']}: image file to result; streams of batch {result['batch']}",
        columns,
        rows,
    )
    for row in result["rows"]:
        if row["failure"]:
            say(f"{row['subject']}: {row['failure']}")


def _ratio(found: Mapping[str, float] | None) -> str:
    return UNDEFINED if found is None else f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
