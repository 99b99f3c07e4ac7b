"""What `pplcnet reproduce` reads: its own measurements, and run folders of training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ppcls_ext.bench.changes import is_row
from ppcls_ext.core.config import Config, load_config
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.reading import Unreadable, read_json
from ppcls_ext.core.run_folder import RunFolder
from ppcls_ext.data.lists import read_labels
from ppcls_ext.models.spec import SPECS

RAW = "reproduce.json"  # the measurements, which the report folder keeps

# What the report is made from, and its type in JSON.
PARTS = {
    "created": str,
    "environment": dict,
    "tables": list,
    "engines": list,
    "threads": int,
    "quick": bool,
    "runs": list,
    "networks": dict,
    "benchmarks": list,
}


def read_raw(out: Path) -> dict[str, Any]:
    """What `reproduce` left in a folder. Raises UserError for anything else."""
    file = out / RAW
    try:
        document = read_json(file)
    except Unreadable as error:
        raise UserError(f"{file}: cannot be read ({error}); give another --out") from error
    if (
        not isinstance(document, dict)
        or any(not isinstance(document.get(key), kind) for key, kind in PARTS.items())
        or not all(map(_is_benchmark, document["benchmarks"]))
    ):
        raise UserError(f"{file}: not a file that reproduce wrote; give another --out")
    return document


def _is_benchmark(found: Any) -> bool:
    if not isinstance(found, dict):
        return False
    kinds = {"table": int, "variant": str, "engine": str}
    if any(type(found.get(key)) is not kind for key, kind in kinds.items()):
        return False
    if "report" not in found:
        return isinstance(found.get("failure"), str)
    rows = found["report"].get("results") if isinstance(found["report"], dict) else None
    return isinstance(rows, list) and all(map(is_row, rows))


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
    if not isinstance(metrics, dict) or "images" not in metrics:
        raise UserError(f"{file}: not a file that pplcnet eval wrote; run pplcnet eval again")
    return metrics
