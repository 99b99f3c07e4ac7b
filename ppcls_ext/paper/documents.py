"""What `pplcnet reproduce` reads: its own measurements, and run folders of training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import pydantic

from ppcls_ext.core.config import Config, load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.reading import Unreadable, read_json
from ppcls_ext.core.run_folder import RunFolder
from ppcls_ext.data.lists import read_labels
from ppcls_ext.models.spec import SPECS
from ppcls_ext.paper.tables import NUMBERS

RAW = "reproduce.json"  # the measurements, which the report folder keeps

_Positive = Annotated[float, pydantic.Field(gt=0)]


def _utf8(text: str) -> str:
    """JSON may hold halves of characters (surrogates), which no report can be written with."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("not a text of UTF-8")
    return text


_Text = Annotated[str, pydantic.AfterValidator(_utf8)]
_Scalar = _Text | int | float | bool | None


class _Checked(pydantic.BaseModel):
    """What is read of a part of the document; other keys may stand beside. Numbers are finite, and no text is one."""

    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)


class _Environment(_Checked):
    """`environment`."""

    command: _Text
    pplcnet: _Text
    python: _Text
    packages: dict[_Text, _Text | None]
    cpu: _Text
    platform: _Text


class _Milliseconds(_Checked):
    """`ms` of a row, milliseconds."""

    median: _Positive


class _Ratio(_Checked):
    """`ratio_to_first` of a row, with its interval."""

    ratio: _Positive
    low: float
    high: float


class _Row(_Checked):
    """A row of a benchmark: a failure, or a latency and a ratio (None: to nothing)."""

    label: _Text
    failure: _Text | None
    warnings: list[_Text]
    ms: _Milliseconds | None = None
    ratio_to_first: _Ratio | None = None

    @pydantic.model_validator(mode="after")
    def _measured(self) -> _Row:
        if self.failure is None and (self.ms is None or "ratio_to_first" not in self.model_fields_set):
            raise ValueError("neither a failure nor a latency with a ratio")
        return self


class _Report(_Checked):
    """`report` of a benchmark."""

    command: _Text
    created: _Text
    results: list[_Row]
    warnings: list[_Text]
    machine: dict[_Text, _Scalar | list[_Text]]
    versions: dict[_Text, _Text | None]


class _Benchmark(_Checked):
    """A table at an input size on an engine: its report, or why there is none."""

    table: int
    variant: _Text
    engine: _Text
    report: _Report | None = None
    failure: _Text | None = None

    @pydantic.model_validator(mode="after")
    def _either(self) -> _Benchmark:
        if self.report is None and ("report" in self.model_fields_set or self.failure is None):
            raise ValueError("neither a report nor a failure")
        return self


class _Network(_Checked):
    """An entry of `networks`: its counts, or why it could not be built."""

    failure: _Text = ""
    params: int | None = None
    flops: int | None = None

    @pydantic.model_validator(mode="after")
    def _either(self) -> _Network:
        if not self.failure and (self.params is None or self.flops is None):
            raise ValueError("neither counts nor a failure")
        return self


class _Run(_Checked):
    """An entry of `runs`, as `read_run` gives it."""

    name: _Text
    distilled: bool
    arch: dict[_Text, Any]
    input: list[int]
    classes: int
    images: int | None
    metrics: dict[_Text, Any] | None

    @pydantic.model_validator(mode="after")
    def _evaluated(self) -> _Run:
        if self.metrics is not None and self.images is None:
            raise ValueError("metrics without a number of images")
        return self


class _Repeated(_Checked):
    """A ratio in both runs, see `ppcls_ext.paper.repeat.Repeated`."""

    model_config = pydantic.ConfigDict(extra="forbid")

    table: int
    variant: _Text
    engine: _Text
    label: _Text
    first: _Positive
    second: _Positive


class _SecondRun(_Checked):
    """What is kept of a second run, see `ppcls_ext.paper.repeat.second_run`."""

    measured: list[_Text]
    cpu: _Text
    ratios: list[_Repeated]


class _Document(_Checked):
    """What reports are made from."""

    created: _Text
    environment: _Environment
    tables: list[Annotated[int, pydantic.Field(ge=min(NUMBERS), le=max(NUMBERS))]]
    engines: Annotated[list[_Text], pydantic.Field(min_length=1)]
    threads: int
    quick: bool
    runs: list[_Run]
    networks: dict[_Text, _Network]
    benchmarks: list[_Benchmark]
    second: _SecondRun | None = None


def read_raw(out: Path, flag: str = "--out") -> dict[str, Any]:
    """What `reproduce` left in a folder, which `flag` has named. Raises UserError for anything else."""
    file = out / RAW
    try:
        document = read_json(file)
    except Unreadable as error:
        raise UserError(f"{file}: cannot be read ({error}); give another {flag}") from error
    try:
        _Document.model_validate(document)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        reason = f"{at}: {first['msg']}" if at else first["msg"]
        raise UserError(f"{file}: not a file that reproduce wrote ({reason}); give another {flag}") from error
    found: dict[str, Any] = document
    return found


# Keys of an `Arch` section that do not change the network.
NEUTRAL = ("class_num", "pretrained", "use_ssld")


def identity_of(config: Config) -> dict[str, Any]:
    """What tells that a run is of a network, as plain data; two names of one PP-LCNet have the same."""
    arch = {key: value for key, value in (config.get("Arch") or {}).items() if key not in NEUTRAL}
    if set(arch) == {"name"} and arch["name"] in SPECS:
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
    if not isinstance(metrics, dict) or type(metrics.get("images")) is not int:
        raise UserError(f"{file}: not a file that pplcnet eval wrote; run pplcnet eval again")
    return metrics
