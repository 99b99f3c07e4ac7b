"""What `pplcnet reproduce` reads: its own measurements, and run folders of training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import pydantic

from ppcls_ext.core.bounds import mapping
from ppcls_ext.core.config import Config, load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.reading import Unreadable, read_json
from ppcls_ext.core.run_folder import RunFolder
from ppcls_ext.core.stored import Positive, Scalar, Stored, checked
from ppcls_ext.data.lists import read_labels
from ppcls_ext.models.spec import SPECS
from ppcls_ext.paper.tables import NUMBERS
from ppcls_ext.runtime.engines import ENGINES

RAW = "reproduce.json"  # the measurements, which the report folder keeps
RAW_TODAY = "today.json"  # those of later networks


def _known_engine(name: str) -> str:
    if name not in ENGINES:
        raise ValueError(f"engine {name[:40]!r} is unknown")
    return name


Engine = Annotated[str, pydantic.AfterValidator(_known_engine)]


class _Environment(Stored):
    """`environment`."""

    command: str
    pplcnet: str
    python: str
    packages: dict[str, str | None]
    cpu: str
    platform: str


class _Milliseconds(Stored):
    """`ms` of a row, milliseconds."""

    median: Positive


class _Ratio(Stored):
    """`ratio_to_first` of a row, with its interval."""

    ratio: Positive
    low: float
    high: float


class _Row(Stored):
    """A row of a benchmark: a failure, or a latency and a ratio (None: to nothing)."""

    label: str
    failure: str | None
    warnings: list[str]
    ms: _Milliseconds | None = None
    ratio_to_first: _Ratio | None = None

    @pydantic.model_validator(mode="after")
    def _measured(self) -> _Row:
        if self.failure is None and (self.ms is None or "ratio_to_first" not in self.model_fields_set):
            raise ValueError("neither a failure nor a latency with a ratio")
        return self


class _Report(Stored):
    """`report` of a benchmark."""

    command: str
    created: str
    results: list[_Row]
    warnings: list[str]
    machine: dict[str, Scalar | list[str]]
    versions: dict[str, str | None]


class _Benchmark(Stored):
    """A table at an input size on an engine: its report, or why there is none."""

    table: int
    variant: str
    engine: Engine
    report: _Report | None = None
    failure: str | None = None

    @pydantic.model_validator(mode="after")
    def _either(self) -> _Benchmark:
        if self.report is None and ("report" in self.model_fields_set or self.failure is None):
            raise ValueError("neither a report nor a failure")
        return self


class _Network(Stored):
    """An entry of `networks`: its counts, or why it could not be built."""

    failure: str = ""
    params: int | None = None
    flops: int | None = None

    @pydantic.model_validator(mode="after")
    def _either(self) -> _Network:
        if not self.failure and (self.params is None or self.flops is None):
            raise ValueError("neither counts nor a failure")
        return self


class _Run(Stored):
    """An entry of `runs`, as `read_run` gives it."""

    name: str
    distilled: bool
    arch: dict[str, Any]
    input: list[int]
    classes: int
    images: int | None
    metrics: dict[str, Any] | None

    @pydantic.model_validator(mode="after")
    def _evaluated(self) -> _Run:
        if self.metrics is not None and self.images is None:
            raise ValueError("metrics without a number of images")
        return self


class _Repeated(Stored):
    """A ratio in both runs, see `ppcls_ext.paper.repeat.Repeated`."""

    model_config = pydantic.ConfigDict(extra="forbid")

    table: int
    variant: str
    engine: str
    label: str
    first: Positive
    second: Positive


class _SecondRun(Stored):
    """What is kept of a second run, see `ppcls_ext.paper.repeat.second_run`."""

    measured: list[str]
    cpu: str
    ratios: list[_Repeated]


class _Document(Stored):
    """What reports are made from."""

    created: str
    environment: _Environment
    tables: list[Annotated[int, pydantic.Field(ge=min(NUMBERS), le=max(NUMBERS))]]
    engines: Annotated[list[str], pydantic.Field(min_length=1)]
    threads: int
    quick: bool
    runs: list[_Run]
    networks: dict[str, _Network]
    benchmarks: list[_Benchmark]
    second: _SecondRun | None = None


class _TodayMilliseconds(_Milliseconds):
    """`ms` of a row of `today.json`: `spread` is the interquartile range over the median."""

    spread: Annotated[float, pydantic.Field(ge=0)]


class _TodayRow(_Row):
    """A row of `today.json`, whose first network is the reference."""

    ms: _TodayMilliseconds | None = None


class _TodayMachine(Stored):
    """`machine` of a report, as far as the page shows it."""

    cpu: str
    usable_cores: int
    flags: list[str]
    platform: str


class _TodayReport(Stored):
    """`report` of a part."""

    command: str
    created: str
    results: list[_TodayRow]
    warnings: list[str]
    machine: _TodayMachine
    versions: dict[str, str | None]


class _TodayPart(Stored):
    """An engine with a number of threads: its report, or why there is none."""

    engine: Engine
    threads: int
    report: _TodayReport | None = None
    failure: str | None = None

    @pydantic.model_validator(mode="after")
    def _either(self) -> _TodayPart:
        if (self.report is None) == (self.failure is None) or {"report", "failure"} <= self.model_fields_set:
            raise ValueError("neither a report nor a failure")
        return self


class _TodayDocument(Stored):
    """What `reproduce --today` makes its page and its figure from."""

    environment: dict[str, Any]
    quick: bool
    networks: dict[str, _Network]
    parts: list[_TodayPart]


def read_raw(out: Path, flag: str = "--out") -> dict[str, Any]:
    """What `reproduce` left in a folder, which `flag` has named. Raises UserError for anything else."""
    return _read(_Document, out / RAW, "reproduce", flag)


def read_today(out: Path) -> dict[str, Any]:
    """What `reproduce --today` left in a folder. Raises UserError for anything else."""
    return _read(_TodayDocument, out / RAW_TODAY, "reproduce --today", "--out")


def _read(kind: type[Stored], file: Path, command: str, flag: str) -> dict[str, Any]:
    try:
        document = read_json(file)
    except Unreadable as error:
        raise UserError(f"{file}: cannot be read ({error}); give another {flag}") from error
    try:
        checked(kind, document)
    except ValueError as error:
        raise UserError(f"{file}: not a file that {command} wrote ({error}); give another {flag}") from error
    found: dict[str, Any] = document
    return found


# Keys of an `Arch` section that do not change the network.
NEUTRAL = ("class_num", "pretrained", "use_ssld")


def identity_of(config: Config) -> dict[str, Any]:
    """What tells that a run is of a network, as plain data; two names of one PP-LCNet have the same."""
    arch = {key: value for key, value in mapping(config.get("Arch"), "Arch").items() if key not in NEUTRAL}
    if set(arch) == {"name"} and isinstance(arch["name"], str) and arch["name"] in SPECS:
        arch = dataclasses.asdict(SPECS[arch["name"]])
    plain: dict[str, Any] = json.loads(json.dumps({"arch": arch, "input": config.global_section.image_shape[1:]}))
    return plain


def read_run(folder: Path) -> dict[str, Any]:
    """A run's network and its last evaluation, as plain data; `metrics` is None where it has not been evaluated.

    Raises:
        UserError: not a run folder.
    """
    if not folder.is_dir():
        raise UserError(f"--runs {folder}: no such folder; give run folders of pplcnet train")
    run = RunFolder(folder)
    if not run.config.is_file() or not run.labels.is_file():
        raise UserError(f"--runs {folder}: no run of pplcnet train in it; give its run folder")
    config = load_config(folder)
    metrics = read_metrics(run.eval / "metrics.json")
    return {
        "name": folder.resolve().name,
        **identity_of(config),
        "distilled": config.get("Distill") is not None,
        "classes": len(read_labels(run.labels)),
        "images": None if metrics is None else metrics.pop("images"),
        "metrics": metrics,
    }


def read_metrics(file: Path) -> dict[str, Any] | None:
    """What `pplcnet eval` wrote; None where it has not. Raises UserError for something else."""
    if not file.is_file():
        return None
    try:
        metrics = read_json(file)
    except Unreadable as error:
        raise UserError(f"{file}: cannot be read ({error}); run pplcnet eval again") from error
    if not isinstance(metrics, dict) or type(metrics.get("images")) is not int or metrics["images"] < 1:
        raise UserError(f"{file}: not a file that pplcnet eval wrote; run pplcnet eval again")
    return metrics
