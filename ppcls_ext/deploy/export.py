"""Export for Paddle Inference: both formats, batch norm folded, a recipe beside them, and proof that they work."""

from __future__ import annotations

import importlib.util
import io
import itertools
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml
from paddle.static import InputSpec

from ppcls_ext.core.config import Config
from ppcls_ext.core.device import usable_cores
from ppcls_ext.core.display import bar, say
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.files import atomic_write, atomic_write_bytes, put_folder_in_place, restore_folder
from ppcls_ext.core.locks import FolderLock
from ppcls_ext.core.run_folder import RunFolder
from ppcls_ext.core.version import __version__
from ppcls_ext.deploy.parity import Parity, check_parity, worse
from ppcls_ext.deploy.trained import build_with_weights, dygraph_outputs
from ppcls_ext.models.folding import fold_batch_norm, fold_branches
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.engines.base import FLOAT, FLOAT_FORMATS, FORMATS
from ppcls_ext.runtime.exported import PARITY, RECIPE, RECIPE_CHECKSUM, is_recipe, sealed, sha256
from ppcls_ext.tasks.deployment import Deployment
from ppcls_ext.tasks.finding import make_task
from ppcls_ext.tasks.task import Task
from ppcls_ext.upstream.imports import quiet_import
from ppcls_ext.upstream.onnx import paddle2onnx, quiet_converter
from ppcls_ext.upstream.paddle import legacy_graph, methods_converted_once

OPSET = 17  # version of ONNX's operators: the newest that paddle2onnx 2.1 writes in full and every engine reads
MOST_AT_ONCE = 4  # engines that are checked at the same time, each in a process of some hundred megabytes
ANY_BATCH_TRIED = (1, 3)  # the check runs batches of these sizes, where the batch is free

# The outputs of these must equal dygraph's. OpenVINO is an extra: its row is reported, and does not fail an export.
REQUIRED_ENGINES = ("native", "onednn", "onnxruntime")

# Formats that are written before batch norms are folded. Paddle's oneDNN passes fold them in this one, and only where
# they have done so do they fuse the bias and the activation too: a graph that comes folded runs half as fast again.
UNFOLDED = ("pdmodel",)

# The formats that are written for each value of `--formats`.
CHOICES: dict[str, tuple[str, ...]] = {
    "both": ("json", "pdmodel"),
    "json": ("json",),
    "pdmodel": ("pdmodel",),
    "onnx": ("json", "onnx"),  # made from the json format
    "all": FLOAT_FORMATS,
}


class CannotTranslate(CheckFailed):
    """A network that paddle2onnx cannot turn into ONNX."""


def chosen_formats(choice: str | None) -> tuple[str, ...]:
    """The formats to write for a choice; None is all that can be written here.

    Raises:
        UserError: the choice needs the converter to ONNX, and it is not installed.
    """
    if choice is None:
        return CHOICES["all" if importlib.util.find_spec("paddle2onnx") else "both"]
    if "onnx" in CHOICES[choice]:
        onnx_converter()
    return CHOICES[choice]


def save_graph(deployment: Deployment, prefix: Path, model_format: str) -> None:
    """Trace the deployment's model and write it at `prefix` in one of Paddle's two formats."""
    spec = [InputSpec([None if n == -1 else n for n in i.shape], i.dtype, i.name) for i in deployment.inputs]
    prefix.parent.mkdir(parents=True, exist_ok=True)
    if model_format == "json":
        graph = paddle.jit.to_static(deployment.model, input_spec=spec, full_graph=True)
        with methods_converted_once(), quiet_import():
            paddle.jit.save(graph, str(prefix))
    else:
        with legacy_graph(), methods_converted_once(), quiet_import():
            graph = paddle.jit.to_static(deployment.model, input_spec=spec, full_graph=True)
            paddle.jit.save(graph, str(prefix))
    graph.forward.rollback()  # else the model keeps this trace, and would not show norms that are folded later


def onnx_converter() -> Any:
    """The module that writes ONNX. Raises UserError where it is not installed."""
    try:
        return paddle2onnx()
    except ImportError as error:
        raise UserError("ONNX needs the package paddle2onnx: python -m pip install paddle2onnx") from error


def save_onnx(folder: Path) -> None:
    """Translate the json format in `folder` to ONNX."""
    model, params = (str(folder / name) for name in FORMATS["json"])
    target = folder / FORMATS["onnx"][0]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        converter = onnx_converter()
        with quiet_converter():
            converter.export(model, params, str(target), opset_version=OPSET, optimize_tool="None")
    except Exception as error:  # the parser of paddle2onnx raises whatever it meets
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise CannotTranslate(
            f"export: paddle2onnx cannot translate this network ({lines[0]}); use --formats both"
        ) from error
    if not target.is_file():  # it reports some failures on stdout and raises nothing
        raise CannotTranslate("export: paddle2onnx wrote no file for this network; use --formats both")


def save_formats(deployment: Deployment, folder: Path, formats: Sequence[str]) -> None:
    """Write the deployment's model in each of the formats."""
    for model_format in formats:
        if model_format == "onnx":
            save_onnx(folder)
        else:
            save_graph(deployment, folder / FORMATS[model_format][0].rsplit(".", 1)[0], model_format)


def write_recipe(
    task: Task,
    deployment: Deployment,
    folder: Path,
    formats: Sequence[str],
    folded: bool,
    checked: Mapping[str, Any] | None = None,
) -> None:
    """Write `inference.yml`, with the checksums of the other files in the folder and of itself.

    Args:
        checked: what a check of the graphs found, if one was made.
    """
    recipe = {
        "task": task.name,
        "network": task.config["Arch"]["name"],
        "made_by": {"pplcnet": __version__, "paddlepaddle": paddle.__version__},
        "formats": {f: FORMATS[f][0] for f in formats},
        "batch_norm_folded": folded,
        "inputs": [{"name": i.name, "shape": list(i.shape), "dtype": i.dtype} for i in deployment.inputs],
        "outputs": list(deployment.outputs),
        **deployment.recipe,
        "checked": checked,
    }
    save_recipe(folder, recipe)


def save_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Write `recipe` as the `inference.yml` of an exported folder, with the checksums of the other files and of itself.

    Checksums that it holds already are replaced. A crash leaves the old file or the new one.
    """
    content = {key: value for key, value in recipe.items() if key not in ("checksums", RECIPE_CHECKSUM)}
    content["checksums"] = {name: sha256(folder / name) for name in _files(folder)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    atomic_write(folder / RECIPE, lambda file: file.write_text(sealed(text), encoding="utf-8", newline="\n"))


def _files(folder: Path) -> list[str]:
    """Every file of an export but its recipe, relative to it."""
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return [name for name in files if name != RECIPE]


def write_parity(
    folder: Path, batches: Sequence[Any], expected: Sequence[Any], expected_of_onnx: Sequence[Any] | None = None
) -> None:
    """Write a handful of inputs and the outputs that dygraph has for them, so that any machine can check its engines.

    `input_B_I` is input I of batch B, `output_B_O` its output O; `onnx_output_B_O` where ONNX gives other outputs than
    the other formats. `ppcls_ext.runtime.exported.read_parity` reads them.
    """
    arrays: dict[str, Any] = {}
    for kind, values in (("input", batches), ("output", expected), ("onnx_output", expected_of_onnx or ())):
        arrays |= {f"{kind}_{b}_{k}": np.asarray(a) for b, batch in enumerate(values) for k, a in enumerate(batch)}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    atomic_write_bytes(folder / PARITY, content.getvalue())


def export(config: Config, formats: str | None = None, fold: bool = True) -> Path:
    """Export the weights of a config or run folder; gives the folder written.

    The export is made beside that folder and moved there when its check has passed; one that fails is kept as
    `<folder>.rejected`, and an earlier export stays as it was.

    Args:
        formats: a key of `CHOICES`; None is all that can be written, without ONNX where it cannot be had.
        fold: fold branches of training into one convolution, and batch norms into convolutions; batch norms not in
            the formats of `UNFOLDED`.
    Raises:
        UserError: bad config or weights. CheckFailed: an engine crashes or gives another output than dygraph.
    """
    chosen = chosen_formats(formats)
    task = make_task(config)
    folder = Path(config.global_section.save_inference_dir or RunFolder.of(config).path / "inference")
    target = Path(os.path.realpath(folder))  # a symlink keeps pointing where it did
    with FolderLock(target.parent, "export into", f".{target.name}.lock"):  # beside it, since it is replaced as a whole
        return _export(task, folder, target, chosen, formats, fold)


def _export(task: Task, folder: Path, target: Path, chosen: Sequence[str], formats: str | None, fold: bool) -> Path:
    restore_folder(target)
    if (folder.exists() and not folder.is_dir()) or (
        folder.is_dir() and not (folder / RECIPE).is_file() and any(folder.iterdir())
    ):
        raise UserError(
            f"export folder {folder}: it holds something else; choose another with -o Global.save_inference_dir"
        )
    deployment = task.deployment(build_with_weights(task, "export"))
    forms = [deployment] if deployment.also is None else [deployment, deployment.also]
    for form in forms:
        form.model.eval()

    fixed = deployment.inputs[0].shape[0]
    batches = [deployment.samples(n) for n in (ANY_BATCH_TRIED if fixed == -1 else (fixed,))]
    expected = [[dygraph_outputs(form.model, batch) for batch in batches] for form in forms]

    work = target.with_name(f".{target.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="pplcnet-") as scratch:
        if fold:
            fold_branches(deployment.model)  # this folds those of the other form too, since both share their layers
        for form, where in zip(forms, (work, Path(scratch)), strict=False):
            save_formats(form, where, [f for f in chosen if f in UNFOLDED])
        if fold:
            fold_batch_norm(deployment.model, *(paddle.to_tensor(array) for array in batches[0]))
        try:
            checks = _save_and_check(forms, work, Path(scratch), chosen, batches, expected)
        except CannotTranslate as error:
            if formats is not None:
                raise
            say(f"onnx is left out: {error}")
            chosen = CHOICES["both"]
            checks = _save_and_check(forms, work, Path(scratch), chosen, batches, expected)
    checked = {
        "tolerance": deployment.tolerance,
        "max_difference_from_dygraph": {f"{c.model_format}/{c.engine}": c.difference for c in checks},
    }
    write_parity(work, batches, expected[0], expected[1] if deployment.onnx_is_also and "onnx" in chosen else None)
    write_recipe(task, deployment, work, chosen, fold, checked)

    failed = [c for c in checks if c.engine in REQUIRED_ENGINES and not c.holds(deployment.tolerance)]
    for check in checks:
        say(_line(check, deployment.tolerance))
    if failed:
        rejected = _place_of_rejected(target)
        shutil.rmtree(rejected, ignore_errors=True)
        work.rename(rejected)
        raise CheckFailed(
            f"export: {_line(failed[0], deployment.tolerance)}; {_way_out(failed, checks)}; kept as {rejected}"
        )
    put_folder_in_place(work, target)
    for remark in deployment.remarks:
        say(remark)
    say(f"exported to {folder}")
    return folder


def _place_of_rejected(target: Path) -> Path:
    """Where an export that does not hold is kept: in place of an earlier one, and of nothing else."""
    names = (f"{target.name}.rejected{number or ''}" for number in itertools.count())
    places = (target.with_name(name) for name in names)
    return next(place for place in places if is_recipe(place / RECIPE) or not os.path.lexists(place))


def _save_and_check(
    forms: Sequence[Deployment],
    folder: Path,
    scratch: Path,
    formats: Sequence[str],
    batches: Sequence[Any],
    expected: Sequence[Sequence[Any]],
) -> list[Parity]:
    """Write the first form in `folder` and another in `scratch`, and check both; of two outcomes the worse counts.

    Formats of `UNFOLDED` are there already.
    """
    first = forms[0]
    kept = [f for f in formats if f != "onnx"] if first.onnx_is_also else formats
    save_formats(first, folder, [f for f in kept if f not in UNFOLDED])
    checks = {(c.model_format, c.engine): c for c in _check(folder, kept, batches, expected[0], first)}
    for form, outputs in zip(forms[1:], expected[1:], strict=True):
        save_formats(form, scratch, [f for f in formats if f not in UNFOLDED])
        for found in _check(scratch, formats, batches, outputs, form):
            pair = (found.model_format, found.engine)
            checks[pair] = worse(checks.get(pair, found), found)
        if first.onnx_is_also and "onnx" in formats:
            shutil.copytree((scratch / FORMATS["onnx"][0]).parent, (folder / FORMATS["onnx"][0]).parent)
    return list(checks.values())


def _check(
    folder: Path, formats: Sequence[str], batches: Sequence[Any], expected: Sequence[Any], deployment: Deployment
) -> list[Parity]:
    """Run each format in `folder` on each engine that runs it, as many engines at once as there are cores."""
    every = {name: engine_class(name) for name in ENGINES}
    kinds = {name: kind for name, kind in every.items() if kind.precision == FLOAT and kind.installed()}
    runs = {name: [f for f in formats if f in kind.formats] for name, kind in kinds.items()}
    engines = [name for name, own in runs.items() if own]
    checks: list[Parity] = []

    def run(engine: str) -> list[Parity]:
        return check_parity(folder, runs[engine], engine, batches, expected, deployment.difference)

    with bar(len(engines), "check") as progress, ThreadPoolExecutor(min(usable_cores(), MOST_AT_ONCE)) as pool:
        for found in pool.map(run, engines):
            checks += found
            progress.advance()
    return sorted(checks, key=lambda check: formats.index(check.model_format))


def _line(check: Parity, tolerance: float) -> str:
    name = f"{check.model_format} on {check.engine}"
    if check.difference is None:
        return f"{name}: {check.reason}"
    verdict = "equals dygraph" if check.holds(tolerance) else "differs from dygraph"
    return f"{name}: {verdict} (largest difference {check.difference:.1e}, tolerance {tolerance:.0e})"


def _way_out(failed: Sequence[Parity], checks: Sequence[Parity]) -> str:
    """What someone can do whose export failed like this."""
    bad = {(c.model_format, c.engine) for c in failed}
    good_formats = [
        f for f in FLOAT_FORMATS if any(c.model_format == f for c in checks) and not any(f == b for b, _ in bad)
    ]
    if good_formats:
        return f"export only the format that works: --formats {good_formats[0]}"
    if {e for _, e in bad} == {"onednn"}:
        return "use engine native, which gives dygraph's output, or another Paddle version for oneDNN"
    return "try --no-fold; if that fails too, this network cannot run on this version of Paddle Inference"
