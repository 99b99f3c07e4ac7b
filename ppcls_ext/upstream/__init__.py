"""Every workaround for Paddle and its suites: one function each, saying what breaks, where, and when it can go."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import logging
import os
import pickle
import platform
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.core.errors import UserError


def install() -> None:
    """Switch on what must be in place before Paddle or a suite is imported. Imports neither; safe to repeat."""
    silence_paddle_warnings()
    let_mkl_use_avx2()
    if not any(isinstance(finder, SuiteFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SuiteFinder())
    # What was imported before us is brought to the same state: also PaddleClas's second copy of its modules.
    for name, repair in AFTER_IMPORT.items():
        for known_as in (name, f"paddleclas.{name}"):
            if known_as in sys.modules:
                repair(sys.modules[known_as])


def silence_paddle_warnings() -> None:
    """paddle 3.2.2 warns on import that ccache (for building C++ extensions) is absent, and on each batch norm
    in training that it tracks statistics, and on the first `split` that PyTorch's differs. None of them tells
    a user of this package anything. Go when Paddle stops.
    """
    warnings.filterwarnings("ignore", message="No ccache found")
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    warnings.filterwarnings("ignore", message=r"\s*Non compatible API")


def let_mkl_use_avx2() -> None:
    """The MKL inside paddle 3.2.2 (mklml of 2019) takes a path of long ago on processors that are not Intel's.
    `MKL_DEBUG_CPU_TYPE=5` names AVX2; MKL reads it at its first product. Can go with another BLAS in the wheel.
    """
    try:
        cpu = Path("/proc/cpuinfo").read_text()
    except OSError:
        return  # not Linux: another wheel, with another BLAS
    if ("AuthenticAMD" in cpu or "HygonGenuine" in cpu) and " avx2 " in cpu:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


def keep_freed_memory() -> None:
    """paddle 3.2.2 asks the system for each tensor on the CPU and gives it back at once, so that every layer of every
    step touches pages that the kernel has to clear first. Here the C library keeps what was freed, for the rest of
    the process. Can go when Paddle caches memory on the CPU as it does on a GPU.
    """
    if platform.libc_ver()[0] == "glibc":
        # No allocation in mappings of their own, and no return of the heap's free end (M_MMAP_MAX, M_TRIM_THRESHOLD).
        ctypes.CDLL(None).mallopt(-4, 0)
        ctypes.CDLL(None).mallopt(-1, -1)


def import_paddle_with_threads(threads: int) -> None:
    """paddle 3.2.2 prints two lines of warning on stderr at import when OMP_NUM_THREADS is above 1, about data
    parallel training on OpenBLAS builds; the published wheels use MKL. Can go when Paddle warns only then.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("GLOG_minloglevel", "2")  # saving a .pdmodel logs a line otherwise; errors still show
    with contextlib.redirect_stderr(io.StringIO()):
        importlib.import_module("paddle")


def join_job() -> None:
    """`paddle.distributed.init_parallel_env()`; paddle 3.2.2 prints flags that nobody has modified on stderr.
    The redirection can go when it does not.
    """
    import paddle

    with contextlib.redirect_stderr(io.StringIO()):
        paddle.distributed.init_parallel_env()


class GuardedDataset:
    """A dataset whose failures are samples, for `paddle.io.DataLoader` with workers.

    paddle 3.2.2 does not bring an exception of a worker to the one who iterates: it ends in "Blocking queue is
    killed" or a hang. So failures travel as values: `GuardedCollate` begins each batch with a status, one byte or
    a pickled exception, and `unguarded` takes it off. Can go when the loader raises what its workers raised.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: Any) -> Any:
        try:
            return self.dataset[place]
        except Exception as error:
            return _portable(error)


class GuardedCollate:
    """A collate function that puts the status before the batch; see `GuardedDataset`."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> list[Any]:
        import numpy as np

        failure = next((sample for sample in samples if isinstance(sample, Exception)), None)
        if failure is None:
            try:
                return [np.zeros(1, np.uint8), *self.collate(samples)]
            except Exception as error:
                failure = _portable(error)
        return [np.frombuffer(pickle.dumps(failure), np.uint8).copy()]


def _portable(error: Exception) -> Exception:
    """An exception that can be pickled and says as much in another process."""
    return error if isinstance(error, UserError) else RuntimeError("".join(traceback.format_exception(error)))


def unguarded(guarded: Sequence[Any]) -> list[Any]:
    """The batch without its status; raises what a worker raised. See `GuardedDataset`."""
    status, *batch = guarded
    if len(status) > 1:
        raise pickle.loads(status.numpy().tobytes())  # put there by our own worker
    return batch


WORKER_SECONDS = 2.0  # for a worker to end by itself


def shut_down_workers(iterator: Any) -> None:
    """paddle 3.2.2: an iterator of `paddle.io.DataLoader` that is left before its end keeps its worker processes
    until it is collected as garbage; if the program ends first, their end is reported as a crash. And a worker that
    is still writing a batch that nobody reads never ends: it is waited for a little, then killed.
    Can go when the iterator has a public `close`.
    """
    workers = list(iterator._workers)
    iterator._try_shutdown_all(timeout=WORKER_SECONDS)
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()


def restore_state(holder: Any, state: dict[str, Any]) -> None:
    """`holder.set_state_dict(state)` for a schedule, or an optimizer that has one.

    paddle 3.2.2: a warm-up puts the state of the schedule inside it back, then warns that this part of the
    state was not used. Can go when LinearWarmup.set_state_dict takes out what it has used.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There are some unused values in state_dict")
        holder.set_state_dict(state)


def paddle2onnx() -> Any:
    """The module paddle2onnx. Raises UserError where it is not installed.

    paddle2onnx 2.1.0: its default optimisation runs polygraphy, which pip-installs what it misses, from an index of
    its own, without asking. The lock leaves polygraphy out, its one caller asks for no optimisation (engines fold
    constants themselves), and this forbids the installing. Can go when paddle2onnx stops using polygraphy.
    """
    os.environ["POLYGRAPHY_AUTOINSTALL_DEPS"] = "0"
    try:
        with quiet_import():
            return importlib.import_module("paddle2onnx")
    except ImportError as error:
        from ppcls_ext.runtime.engine import INSTALL_EXTRAS

        raise UserError(f"ONNX needs the package paddle2onnx: {INSTALL_EXTRAS}") from error


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Imports inside neither print nor warn: ppcls, ppdet and paddleseg print hints and raise Deprecation- and
    SyntaxWarnings on current Python (paddleclas 2.4.2, paddledet 2.6.0, paddleseg 2.8.0). Errors still pass.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def parameter_names_may_repeat() -> Iterator[None]:
    """Networks built inside may use parameter names that an earlier network of the process has.

    PaddleClas's MobileNetV2, ShuffleNetV2 and others (paddleclas 2.4.2) name parameters themselves, and Paddle
    refuses a name for good once it was used: without this, a process can build only one of each family.
    Can go when PaddleClas leaves the names to Paddle.
    """
    from paddle.utils import unique_name

    generator, checker = unique_name.switch()
    unique_name.switch(generator)  # generated names stay unique; the checker is new and knows no name
    try:
        yield
    finally:
        unique_name.switch(generator, checker)


class SuiteFinder(importlib.abc.MetaPathFinder):
    """Finds PaddleClas's `ppcls`, keeps it a single module, and applies our repairs as modules are imported.

    paddleclas 2.4.2 ships `ppcls` inside `paddleclas`, whose import prints a banner and edits sys.path to make
    `ppcls` importable; `paddleclas.ppcls` is then a second copy of every module. Here `ppcls` is found without
    importing `paddleclas`, and `paddleclas.ppcls` is the same modules under their other name.
    Can go when PaddleClas publishes `ppcls` as a package of its own.
    """

    ALIAS = "paddleclas.ppcls"

    def __init__(self) -> None:
        self._busy: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == self.ALIAS or name.startswith(self.ALIAS + "."):
            return importlib.machinery.ModuleSpec(name, _AliasLoader(name[len("paddleclas.") :]), is_package=True)
        if (name not in AFTER_IMPORT and name != "ppcls") or name in self._busy:
            return None
        self._busy.add(name)
        try:
            spec = (
                importlib.util.find_spec(name) if path is None else importlib.machinery.PathFinder.find_spec(name, path)
            )
        except ModuleNotFoundError:
            return None
        finally:
            self._busy.discard(name)
        if spec is None and name == "ppcls":
            spec = _ppcls_inside_paddleclas()
        if spec is not None and spec.loader is not None and name in AFTER_IMPORT:
            spec.loader = _RepairingLoader(spec.loader, AFTER_IMPORT[name])
        return spec


def _ppcls_inside_paddleclas() -> importlib.machinery.ModuleSpec | None:
    package = importlib.util.find_spec("paddleclas")
    if package is None or not package.submodule_search_locations:
        return None
    folder = Path(package.submodule_search_locations[0]) / "ppcls"
    return importlib.util.spec_from_file_location(
        "ppcls", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )


class _AliasLoader(importlib.abc.Loader):
    """Gives the module of another name."""

    def __init__(self, real_name: str) -> None:
        self.real_name = real_name

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = importlib.import_module(self.real_name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has just replaced it by the alias's


class _RepairingLoader(importlib.abc.Loader):
    """Runs a module's own loader, then our repair of it."""

    def __init__(self, loader: importlib.abc.Loader, repair: Callable[[Any], None]) -> None:
        self.loader, self.repair = loader, repair

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        self.loader.exec_module(module)
        self.repair(module)


def give_ppcls_a_logger(logger_module: Any) -> None:
    """paddleclas 2.4.2: `ppcls.utils.logger` fails on None unless `init_logger` ran, which prints to stdout.
    Its messages go to the standard logger "ppcls" instead, warnings and up to stderr as usual.
    """
    if logger_module._logger is None:
        logger_module._logger = logging.getLogger("ppcls")


class _NumpyWithInt(types.ModuleType):
    """NumPy as a module that still has `int`."""

    int = int

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("numpy"), name)


def give_autoaugment_np_int(autoaugment: Any) -> None:
    """paddleclas 2.4.2: AutoAugment uses `np.int`, gone since NumPy 1.24. Can go with a release that does not."""
    autoaugment.np = _NumpyWithInt("numpy")


def take_soft_labels_as_they_are(celoss: Any) -> None:
    """paddleclas 2.4.2: without `epsilon`, CELoss sends soft labels, as of mixed batches, through a softmax, which
    makes them nearly uniform: a mixture 0.9 / 0.1 of two of 1000 classes becomes 0.0025 / 0.0011 / 0.001 ....
    Can go with a release that does not.
    """
    from paddle.nn import functional

    hard = celoss.CELoss.forward

    def forward(self: Any, x: Any, label: Any) -> dict[str, Any]:
        logits = x["logits"] if isinstance(x, dict) else x
        if self.epsilon is None and tuple(label.shape) == tuple(logits.shape):
            return {"CELoss": functional.cross_entropy(logits, label, soft_label=True)}
        return hard(self, x, label)

    celoss.CELoss.forward = forward


def register_our_archs(arch: Any) -> None:
    """PaddleClas resolves `Arch.name` by attribute of `ppcls.arch`: put our networks there, in place of its own."""
    from ppcls_ext.models.factory import register_with_paddleclas

    register_with_paddleclas(arch)


def give_ppdet_plain_loggers(logger_module: Any) -> None:
    """paddledet 2.6.0: `setup_logger` gives each of its loggers (and two with names of anybody's, "reader" and
    "sniper_coco_dataset") a handler that writes to stdout. They stay plain loggers here, warnings and up to stderr.
    """
    logger_module.setup_logger = lambda name="ppdet", output=None: logging.getLogger(name)


def let_ppdet_nms_into_pir(ops: Any) -> None:
    """paddledet 2.6.0: `multiclass_nms` appends an operator by hand while a graph is traced, which the graph of
    paddle 3 (PIR) refuses: "The type of '%BBoxes' in operator multiclass_nms3 should be one of [str, bytes, Variable]".
    Under PIR the generated call is made instead. Can go when paddledet asks for PIR too.
    """
    import paddle

    original = ops.multiclass_nms

    def multiclass_nms(
        bboxes: Any,
        scores: Any,
        score_threshold: float,
        nms_top_k: int,
        keep_top_k: int,
        nms_threshold: float = 0.3,
        normalized: bool = True,
        nms_eta: float = 1.0,
        background_label: int = -1,
        return_index: bool = False,
        return_rois_num: bool = True,
        rois_num: Any = None,
        name: str | None = None,
    ) -> tuple[Any, Any, Any]:
        limits = (score_threshold, nms_top_k, keep_top_k, nms_threshold, normalized, nms_eta, background_label)
        if not paddle.base.framework.in_pir_mode():
            return original(bboxes, scores, *limits, return_index, return_rois_num, rois_num, name)
        rows, index, counts = paddle._C_ops.multiclass_nms3(bboxes, scores, rois_num, *limits)
        return rows, counts if return_rois_num else None, index if return_index else None

    ops.multiclass_nms = multiclass_nms


@contextlib.contextmanager
def sums_over_processes() -> Iterator[None]:
    """paddledet 2.6.0: `GFLHead.get_loss` divides by a mean over processes that is at least 1, so what it divides by
    for the whole batch is at least the number of processes, and a batch with little in it has a smaller loss in
    several. Inside, its sums stay sums, at least 1. Can go when the floor is that of the whole batch.
    """
    from paddle import distributed

    real = distributed.get_world_size
    distributed.get_world_size = lambda group=None: 1
    try:
        yield
    finally:
        distributed.get_world_size = real


def let_quality_focal_loss_promote(gfocal_loss: Any) -> None:
    """paddledet 2.6.0: `quality_focal_loss` multiplies float32 by bool, which paddle 3 refuses ("Type promotion only
    support calculations between floating-point numbers"). The same loss, as one term for all classes: positives
    aim at their quality, everything else at 0. Can go when paddledet casts.
    """
    from paddle.nn import functional

    def quality_focal_loss(pred: Any, target: tuple[Any, Any], beta: float = 2.0, use_sigmoid: bool = True) -> Any:
        label, quality = target
        classes = pred.shape[1]
        # One column more than classes: label `classes` is the background.
        goal = functional.one_hot(label, classes + 1)[:, :classes] * quality.astype("float32").unsqueeze(-1)
        cross_entropy = functional.binary_cross_entropy_with_logits if use_sigmoid else functional.binary_cross_entropy
        probability = functional.sigmoid(pred) if use_sigmoid else pred
        return (cross_entropy(pred, goal, reduction="none") * (goal - probability).abs().pow(beta)).sum(axis=1)

    gfocal_loss.quality_focal_loss = quality_focal_loss


def average_paddleseg_cross_entropy_in_floats(losses: Any) -> None:
    """paddleseg 2.8.0: `CrossEntropyLoss` multiplies int64 labels and ones by a float32 mask, which paddle 3.2.2
    refuses ("Type promotion only support calculations between floating-point numbers"). The mean over the pixels
    that count is taken here, with the same options. Can go with a paddleseg release that trains on Paddle 3.
    """
    import paddle

    def mean_over_pixels(self: Any, logit: Any, label: Any, semantic_weights: Any, loss: Any) -> Any:
        counted = label != self.ignore_index
        mask = counted.astype(loss.dtype) if self.avg_non_ignore else paddle.ones(label.shape, loss.dtype)
        loss = loss.reshape(label.shape) * mask
        if semantic_weights is not None:
            loss = loss * semantic_weights
        weights = mask
        if self.weight is not None:
            looked_up = paddle.where(counted, label, paddle.zeros_like(label))
            weights = mask * paddle.gather(self.weight, looked_up.flatten()).reshape(label.shape)
        if self.top_k_percent_pixels < 1.0:
            hard = int(self.top_k_percent_pixels * loss.size)
            loss, places = paddle.topk(loss.flatten(), hard)
            weights = paddle.gather(weights.flatten(), places)
        return loss.mean() / (weights.detach().mean() + self.EPS)

    losses.CrossEntropyLoss._post_process_loss = mean_over_pixels


# Module name -> what to do right after its import.
AFTER_IMPORT: dict[str, Callable[[Any], None]] = {
    "ppcls.utils.logger": give_ppcls_a_logger,
    "ppcls.data.preprocess.ops.autoaugment": give_autoaugment_np_int,
    "ppcls.loss.celoss": take_soft_labels_as_they_are,
    "ppcls.arch": register_our_archs,
    "ppdet.utils.logger": give_ppdet_plain_loggers,
    "ppdet.modeling.ops": let_ppdet_nms_into_pir,
    "ppdet.modeling.losses.gfocal_loss": let_quality_focal_loss_promote,
    "paddleseg.models.losses.cross_entropy_loss": average_paddleseg_cross_entropy_in_floats,
}


def ppcls(name: str) -> Any:
    """The module `ppcls.<name>` of PaddleClas, imported without its noise."""
    with quiet_import():
        return importlib.import_module(f"ppcls.{name}")


def ppdet(name: str) -> Any:
    """The module `ppdet.<name>` of PaddleDetection, imported without its noise: hints that packages for tracking
    are absent, and a filter that silences all warnings of the process for good (paddledet 2.6.0).
    """
    with quiet_import():
        return importlib.import_module(f"ppdet.{name}")


@contextlib.contextmanager
def quiet_pycocotools() -> Iterator[None]:
    """pycocotools (every version) prints what it does and its results. Its errors still pass."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def paddleseg(name: str) -> Any:
    """The module `paddleseg.<name>` of PaddleSeg, imported without its noise.

    paddleseg 2.8.0 changes NumPy's print options for the whole process when it is imported, and its logger prints
    to stdout; the options are put back, and the logger keeps to errors. Can go when it does neither.
    """
    import numpy

    with quiet_import(), numpy.printoptions():
        module = importlib.import_module(f"paddleseg.{name}")
        logger: Any = importlib.import_module("paddleseg.utils.logger")
        logger.log_level = 0
    return module


def class_map(path: str) -> Path:
    """The file that `class_id_map_file` names. PaddleClas's configs say `ppcls/utils/imagenet1k_label_list.txt`,
    which is there in a checkout of PaddleClas; elsewhere it is the one in the installed package.
    """
    if not Path(path).is_file() and path.startswith("ppcls/"):
        shipped = Path(ppcls("utils").__file__).parent.parent / path.removeprefix("ppcls/")
        if shipped.is_file():
            return shipped
    return Path(path)


def download_ppcls_weights(arch_name: str) -> Path:
    """Fetch the public weights of a PaddleClas architecture with PaddleClas's downloader; gives the local file.

    PaddleClas would unpickle the file right away, which executes what it holds: here it is only fetched.
    """
    for module_name in ("pp_lcnet", "mobilenet_v1", "mobilenet_v3"):
        urls = ppcls(f"arch.backbone.legendary_models.{module_name}").MODEL_URLS
        if arch_name in urls:
            break
    else:
        raise UserError(
            f"Arch.pretrained: no public weights are known for {arch_name}; give the path of a .pdparams file"
        )
    try:
        return Path(ppcls("utils.download").get_weights_path_from_url(urls[arch_name]))
    except Exception as error:  # the downloader raises whatever its HTTP client raises
        raise UserError(
            f"cannot download {urls[arch_name]} ({type(error).__name__}); fetch it elsewhere and give its path "
            "with -o Global.pretrained_model=FILE"
        ) from error


@contextlib.contextmanager
def legacy_graph() -> Iterator[None]:
    """`with legacy_graph(): paddle.jit.save(...)` writes the format before PIR (.pdmodel).

    paddle 3.2.2 turned some 30 functions (`base/dygraph/generated_tensor_methods_patch.py`: multiply, matmul,
    sqrt, sigmoid, ...) into calls that know only PIR: under its own guard they fail with "multiply(): argument
    (position 1) must be Value, but got Variable". Those that the suites' networks call are appended as operators
    here; operators such as `x * y` are not affected. Can go when the guard covers these functions, or with .pdmodel.
    """
    import paddle
    from paddle.base.framework import Variable
    from paddle.base.layer_helper import LayerHelper

    def appended(kind: str, real: Callable[..., Any], x: Any, y: Any = None, **attributes: Any) -> Any:
        if not isinstance(x, Variable):
            return real(x) if y is None else real(x, y)
        helper = LayerHelper(kind)
        result = helper.create_variable_for_type_inference(x.dtype)
        inputs = {"X": x} if y is None else {"X": x, "Y": y}
        helper.append_op(type=kind, inputs=inputs, outputs={"Out": result}, attrs=attributes)
        return result

    def replacement(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        if name == "matmul":
            return lambda x, y, transpose_x=False, transpose_y=False, name=None: appended(
                "matmul_v2", real, x, y, trans_x=transpose_x, trans_y=transpose_y
            )
        kind = kinds[name]
        if name in ("sigmoid", "sqrt"):
            return lambda x, name=None: appended(kind, real, x)
        return lambda x, y, name=None: appended(kind, real, x, y)

    kinds = {
        "multiply": "elementwise_mul",
        "maximum": "elementwise_max",
        "minimum": "elementwise_min",
        "matmul": "matmul_v2",
        "sigmoid": "sigmoid",
        "sqrt": "sqrt",
    }
    places = [(m, n) for m in (paddle, paddle.tensor, paddle.nn.functional, Variable) for n in kinds if hasattr(m, n)]
    saved = [getattr(place, name) for place, name in places]
    try:
        for (place, name), real in zip(places, saved, strict=True):
            setattr(place, name, paddle.jit.not_to_static(replacement(name, real)))
        with paddle.pir_utils.DygraphOldIrGuard():
            yield
    finally:
        for (place, name), real in zip(places, saved, strict=True):
            setattr(place, name, real)
