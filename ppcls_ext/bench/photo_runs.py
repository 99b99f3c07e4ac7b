"""Timing what turns photos into results: subjects, their processes, and the turns that they take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from typing_extensions import override

from ppcls_ext.bench.end_to_end_worker import PADDLECLAS, PREDICTOR, SCRIPT
from ppcls_ext.bench.settings import Settings
from ppcls_ext.bench.turns import DISCARDED, LEAST_CALLS, TimedProcess, Turns, failing, take_turns
from ppcls_ext.core.device import usable_cores
from ppcls_ext.core.display import bar, say
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.exported import Exported
from ppcls_ext.runtime.process import EngineFailed

STREAM_BATCH = 8  # images at once, where the model takes any number
STREAM_SECONDS = 0.5  # a timed stream takes no longer; there are three for each number of threads
WARM_CALLS = 2  # no more calls to warm up: a photo of a phone takes a while
LONG_SECONDS = 0.02  # a call that takes so long does not mind who has used the caches before
LEAST_ROUNDS = 3  # each process has as many, however long a call takes

PhotoSets = Mapping[str, Sequence[Path]]  # the photos of each set, by its name


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
    """What can be measured with an export here: the references first, then a Predictor on each engine.

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


class PhotoRun(Turns):
    """A subject under way on a set of photos.

    Attributes:
        shares: rounds of each process, in order.
        gists: of the result of each photo.
        images_per_s: of a stream, by the number of threads; None where it has none or fails.
    """

    def __init__(self, subject: PhotoSubject, photos: Sequence[Path], settings: Settings) -> None:
        super().__init__(subject.name, settings)
        self.subject, self.files = subject, [str(photo) for photo in photos]
        self.shares: list[int] = []
        self.gists: list[np.ndarray] = []
        self.images_per_s: dict[int, float | None] = {}
        self.seconds = 0.0  # a call took so long while it warmed up

    def begin(self, session: PhotoSession) -> None:
        """Go on in a process, which other sets of photos share; the first one also says how many calls a turn has."""
        self.session = session
        self.gists = session("use", files=self.files)
        warm = session("turn", calls=min(self.settings.warmup, WARM_CALLS))
        self.seconds = warm["seconds"] / len(warm["ns"])
        self.discarded = DISCARDED if self.seconds < LONG_SECONDS else 0
        self.plan(self.seconds)

    @override
    def close(self) -> None:
        """Let go of the process, which goes on for other runs; who opened it ends it."""
        self.session = None

    def stream(self, session: PhotoSession, threads: int, batch: int) -> None:
        """Time a stream in a process that has so many threads: the median of three turns."""
        seconds = min(STREAM_SECONDS, self.settings.seconds / 10)
        try:
            rates = [session("stream", files=self.files, batch=batch, seconds=seconds) for _ in range(3)]
        except EngineFailed as failed:  # calls may work where batches do not, so the row has only no figure
            say(f"{self.name}: streams of batch {batch} on {threads} threads failed: {failed}")
            return
        self.images_per_s[threads] = float(np.median(rates))


class PhotoSession(TimedProcess):
    """A process of a `PhotoWorker` for a subject."""

    def __init__(self, subject: PhotoSubject, threads: int, pin: Sequence[int]) -> None:
        super().__init__(threads, "ppcls_ext.bench.end_to_end_worker", pin)
        self._subject, self._threads = subject, threads

    def start(self) -> None:
        """Open the subject's model."""
        subject = self._subject
        self(
            "start",
            kind=subject.kind,
            folder=str(subject.folder),
            engine=subject.engine,
            decode=subject.decode,
            threads=self._threads,
        )


def measure(
    subjects: Sequence[PhotoSubject], sets: PhotoSets, settings: Settings, batch: int
) -> dict[str, list[PhotoRun]]:
    """Time one call after the other of every subject on sets of photos, on one thread, interleaved; and streams of
    each Predictor, on one thread and on every core.

    Where calls take long there are fewer rounds than the settings say, so that all takes about their seconds.
    Args:
        batch: of the streams.
    Returns:
        a run for each subject, by the name of the set.
    """
    runs = {name: [PhotoRun(subject, photos, settings) for subject in subjects] for name, photos in sets.items()}
    order = np.random.default_rng(settings.seed)
    shares, cores = settings.shares(), usable_cores()
    with bar(len(shares) + (cores > 1), "measure") as progress:
        for number, share in enumerate(shares, start=1):
            with _sessions(subjects, 1, settings.pin) as sessions:
                for of_set in runs.values():
                    _take_share(of_set, sessions, share, settings, order)
                if number == len(shares):
                    _stream_all(runs, sessions, 1, batch)
            progress.advance()
        if cores > 1:
            pin = settings.pin if len(settings.pin) >= cores else ()  # more threads than cores to bind to run unbound
            with _sessions(subjects, cores, pin) as sessions:
                _stream_all(runs, sessions, cores, batch)
            progress.advance()
    return runs


def _take_share(
    runs: Sequence[PhotoRun],
    sessions: Sequence[PhotoSession | str],
    share: int,
    settings: Settings,
    order: np.random.Generator,
) -> None:
    """The rounds of all subjects on a set of photos in one process each."""
    for run, session in zip(runs, sessions, strict=True):
        if isinstance(session, str):
            run.failure = session
        elif run.failure is None:
            with failing(run):
                run.begin(session)
    running = [run for run in runs if run.failure is None]
    rounds = _rounds(share, running, settings)
    take_turns(running, rounds, order)
    for run in running:
        run.shares.append(rounds)


def _rounds(share: int, running: Sequence[PhotoRun], settings: Settings) -> int:
    """Rounds of a process on a set: its share, or as many as its share of the seconds allows."""
    if settings.iterations or not running:
        return share
    allowed = settings.seconds * len(running) * share / settings.rounds
    takes = sum(run.seconds * (run.calls + run.discarded) for run in running)
    long = any(run.calls == LEAST_CALLS for run in running)  # of short calls, a round has as many as there is time for
    return min(share, max(LEAST_ROUNDS, round(allowed / takes))) if long else share


def _stream_all(
    runs: Mapping[str, Sequence[PhotoRun]], sessions: Sequence[PhotoSession | str], threads: int, batch: int
) -> None:
    for of_set in runs.values():
        for run, session in zip(of_set, sessions, strict=True):
            run.images_per_s[threads] = None
            if run.subject.kind == PREDICTOR and run.failure is None and not isinstance(session, str):
                run.stream(session, threads, batch)


@contextmanager
def _sessions(subjects: Sequence[PhotoSubject], threads: int, pin: Sequence[int]) -> Iterator[list[PhotoSession | str]]:
    """A process for each subject, or why it has none; all end at the end."""
    with ExitStack() as stack:
        sessions: list[PhotoSession | str] = []
        for subject in subjects:
            session = PhotoSession(subject, threads, pin)
            stack.callback(session.close)
            try:
                session.start()
                sessions.append(session)
            except EngineFailed as failed:
                sessions.append(str(failed))
        yield sessions
