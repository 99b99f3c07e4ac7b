"""Predict on a list of images with Ray Data: an actor with a Predictor on each core of a machine or a cluster.

Ray Data cuts the list into blocks, hands them to the actors, runs again what an actor that died had in hand, writes a
Parquet file for each block, and remembers what is done (its checkpoints), so that a rerun skips it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppcls_ext.core.device import most_threads, usable_cores
from ppcls_ext.core.display import say
from ppcls_ext.core.errors import CheckFailed, UserError
from ppcls_ext.core.locks import locked
from ppcls_ext.core.reading import Unreadable, read_json
from ppcls_ext.deploy.encoders import ParquetEncoder
from ppcls_ext.deploy.infer import MOST_NAMED, as_begun, check_infer_flags, identity, images_of
from ppcls_ext.deploy.results_file import check_same
from ppcls_ext.deploy.shard import Shard
from ppcls_ext.runtime.choice import AUTO
from ppcls_ext.runtime.exported import read_exported
from ppcls_ext.runtime.predictor import Predictor
from ppcls_ext.upstream.ray import ended_by_sigterm, why_unreachable
from ppcls_ext.upstream.stdout import quiet_stderr

if TYPE_CHECKING:
    import pyarrow

LOCAL = "local"  # Ray's name for a cluster of this machine, which ends with the command
# Ray Data checkpoints by a column that it reads. An image's id is its index in the list: it takes 8 bytes where a path
# takes a hundred, and the results of many files are put in order by it.
ID_COLUMN = "id"
MOST_IN_BLOCK = 1024  # images; a block is what is done again when an actor dies
BLOCKS_PER_ACTOR = 8  # a short list is cut into at least so many, so that all actors end at nearly the same time
# Processors that the actors leave to Ray's other tasks, which read the list and leave out what is done: they compute
# hardly anything, but would wait for ever for a processor. On this machine Ray is told of so many more than there are.
SPARE_CPUS = 2
MOST_RETRIES = 3  # a block whose actors die is tried no more often: an image may kill every process that reads it

# What is no result begins with an underscore, which readers of Parquet folders pass over.
DONE_FOLDER = "_done"  # Ray's checkpoints
RUN_FILE = "_run.json"  # what the results depend on


@dataclass(frozen=True)
class RayRun:
    """How to predict with Ray.

    Attributes:
        model: exported folder, at the same path on every node.
        address: of a cluster; `LOCAL` starts Ray on this machine.
        folder: where the Parquet files go, on every node.
        predictor: keyword arguments of `Predictor`; its `threads` are what an actor occupies.
        options: of the postprocessing.
        resume: go on with what is in `folder`.
    """

    model: Path
    address: str
    folder: Path
    predictor: Mapping[str, Any]
    options: Mapping[str, Any]
    resume: bool = False


class PredictBlock:
    """A Predictor in an actor: from a block of ids to a block of results."""

    def __init__(self, start: str | None, model: str, arguments: Mapping[str, Any], paths: Any) -> None:
        """
        Args:
            start: the folder that paths are relative to; None: they are absolute.
            paths: the list of images, an Arrow array in Ray's memory, of which all actors of a machine share one copy.
        """
        import ray

        if start is not None:
            os.chdir(start)
        self._paths = ray.get(paths)
        self._predictor = Predictor(model, errors="keep", **arguments)

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        """Results of the images of a block, in the columns of a Parquet file of `infer`, with their ids."""
        import pyarrow

        encoder = ParquetEncoder(self._predictor.inference)
        ids = block[ID_COLUMN].to_pylist()
        images = (os.fsdecode(self._paths[image_id].as_py()) for image_id in ids)
        of_rows: list[int] = []
        for image_id, result in zip(ids, self._predictor.stream(images), strict=True):
            encoder.add(result)
            of_rows += [image_id] * (encoder.waiting - len(of_rows))
        rows = pyarrow.Table.from_batches([encoder.batch()])
        return rows.add_column(0, ID_COLUMN, pyarrow.array(of_rows, pyarrow.int64()))


def infer_with_ray(images: Sequence[str], run: RayRun, shard: Shard | None = None) -> int:
    """Predict on images, one Parquet file a block; gives the number of images without a result.

    Raises:
        UserError: Ray is not installed or its cluster is not there; nothing to predict on; results of another run in
            the folder, or of this one and not to be resumed; an export or engine that cannot be opened.
        CheckFailed: Ray could not finish.
    """
    ray = _import_ray()
    check_infer_flags(read_exported(run.model).task, run.options)
    paths = images_of(images, shard)
    if run.resume:
        run = replace(run, predictor=as_begun(run.predictor, _begun(run.folder), run.folder))
    here = {**run.predictor, "threads": min(run.predictor["threads"], most_threads())}  # nodes may have more processors
    with Predictor(run.model, **here, **run.options) as predictor:  # opens it once, before any actor does
        if predictor.engine == AUTO:
            raise UserError("infer --ray --engine auto: this model takes images of any size, so name an engine")
        taken = {"engine": predictor.engine, "model_format": predictor.model_format}
        about = {"shard": None if shard is None else str(shard), **identity(paths, predictor, run.options)}
    with own_folder(run, about):
        if paths:
            with _cluster(ray, run.address, run.predictor["threads"]):
                _predict(ray, paths, run, taken)
    say(f"results: {run.folder}")
    return _failed(run.folder, len(paths))


def _import_ray() -> Any:
    # Both are read when Ray starts. Its C++ part would call it an error on stderr that actors may start again.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's default to be: silences its warning
    try:
        import pyarrow  # noqa: F401
        import ray
        import ray.data
    except ImportError:
        raise UserError("infer --ray needs Ray Data; python -m pip install 'pplcnet[ray]', or make ray") from None
    return ray


@contextmanager
def own_folder(run: RayRun, about: Mapping[str, Any]) -> Iterator[None]:
    """Have the folder for the results of a run to oneself; what is in it already is of the same run.

    Raises:
        UserError: it is no folder; another process writes there; it has results and is not to be resumed, or they are
            of another run.
    """
    if run.folder.exists() and not run.folder.is_dir():
        raise UserError(f"{run.folder} is no folder; infer --ray writes a folder of Parquet files")
    run.folder.mkdir(parents=True, exist_ok=True)
    file = run.folder / RUN_FILE
    others = [name for name in os.listdir(run.folder) if name != RUN_FILE]
    if others and not file.is_file():
        raise UserError(f"{run.folder} holds other files; give an empty folder, or one that infer --ray has begun")
    with open(file, "a+", encoding="utf-8") as stream:
        if not locked(stream, str(run.folder), "do not let a second process write it"):
            raise UserError(f"{run.folder}: another process is writing it; wait for it, or give another folder")
        if others and not run.resume:
            raise UserError(f"{run.folder} has results already; go on with --resume, or delete it")
        if others:
            _check_run(run.folder, about)
        else:
            stream.truncate(0)
            stream.write(json.dumps(about, indent=1) + "\n")
            stream.flush()
        yield


def _check_run(folder: Path, about: Mapping[str, Any]) -> None:
    check_same(folder, _begun(folder), about)


def _begun(folder: Path) -> Mapping[str, Any]:
    """What the results in a folder depend on; nothing, where no run was begun there.

    Raises:
        UserError: what is noted of the run is not as it was written.
    """
    file = folder / RUN_FILE
    if not file.is_file() or os.listdir(folder) == [RUN_FILE]:  # without results it is written anew
        return {}
    try:
        begun = read_json(file)
    except Unreadable as error:
        raise UserError(f"{file} is not as infer wrote it ({error}); delete {folder} and begin again") from error
    if not isinstance(begun, dict):
        raise UserError(f"{file} is not as infer wrote it; delete {folder} and begin again")
    return begun


@contextmanager
def _cluster(ray: Any, address: str, threads: int) -> Iterator[None]:
    """Ray, on this machine or of a cluster, as long as the context lasts; `threads` are those of an actor."""
    arguments: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == LOCAL:
        cores = max(usable_cores(), threads)  # an actor of more threads than there are cores has room, too
        arguments |= {"num_cpus": cores + SPARE_CPUS, "include_dashboard": False}
    else:
        _check_reachable(address)
    try:
        with quiet_stderr():
            ray.init(address=address, **arguments)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"infer --ray {address}: {_one_line(error)}") from error
    try:
        with ended_by_sigterm():
            yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise UserError where nothing listens at the address of a cluster."""
    reason = why_unreachable(address)
    if reason is not None:
        raise UserError(f"infer --ray {address}: no answer ({reason}); is the address that of Ray's head?")


def _predict(ray: Any, paths: Sequence[str], run: RayRun, taken: Mapping[str, Any]) -> None:
    """Have Ray Data predict on what is not done yet.

    Args:
        taken: engine and format that every actor opens, as keyword arguments of `Predictor`.
    """
    import pyarrow

    threads = run.predictor["threads"]
    actors = _actors(ray, threads)
    blocks = max(-(-len(paths) // MOST_IN_BLOCK), min(len(paths), actors * BLOCKS_PER_ACTOR))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    context.target_max_block_size = None  # all rows of an image stay in one block, so that it is done or is not
    folder = str(run.folder.absolute())
    context.checkpoint_config = ray.data.checkpoint.CheckpointConfig(
        ID_COLUMN, os.path.join(folder, DONE_FOLDER), delete_checkpoint_on_success=False
    )
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    start = os.getcwd() if any(not os.path.isabs(path) for path in paths) else None
    listed = ray.put(pyarrow.array([os.fsencode(path) for path in paths], pyarrow.large_binary()))
    arguments = {**run.predictor, **taken, **run.options}
    with warnings.catch_warnings():  # of Ray 2.64, which will have another way to bound retries; setup.py excludes it
        warnings.simplefilter("ignore")
        results = ray.data.range(len(paths), override_num_blocks=blocks).map_batches(
            PredictBlock,
            fn_constructor_args=(start, str(run.model.absolute()), arguments, listed),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=threads,
            max_task_retries=MOST_RETRIES,
        )
    try:
        results.write_parquet(folder, ray_remote_args={"num_cpus": 0})
    except (ray.exceptions.RayError, ray.data.exceptions.SystemException) as error:
        raise CheckFailed(f"infer --ray: {_one_line(error)}; what is done stays, go on with --resume") from error


def _actors(ray: Any, threads: int) -> int:
    """How many actors of so many threads a cluster has room for, beside Ray's own tasks.

    Raises:
        UserError: for none; Ray would wait for ever.
    """
    for_actors = int(ray.cluster_resources()["CPU"]) - SPARE_CPUS
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    most = min(largest, for_actors)
    if most < 1:
        raise UserError(f"infer --ray: Ray's own tasks need {SPARE_CPUS} processors, and the cluster has no more")
    if threads > most:
        raise UserError(f"infer --ray --threads {threads}: no actor of the cluster can have so many; give {most}")
    return for_actors // threads


def _one_line(error: BaseException) -> str:
    """The last line of an error, where Ray has put a whole traceback into its text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _failed(folder: Path, images: int) -> int:
    """Name some of the images without a result, and count them all."""
    from pyarrow import dataset

    results = dataset.dataset(folder, format="parquet")
    if not results.files:
        return 0
    broken = dataset.field("error").is_valid()
    named = results.head(MOST_NAMED, columns=["error"], filter=broken)["error"].to_pylist()
    failed = int(results.count_rows(filter=broken))
    for error in named:
        say(f"skipped: {error}")
    if failed > len(named):
        say(f"skipped: {failed} of {images} images in all; the column error says why")
    return failed
