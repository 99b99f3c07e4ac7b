"""Workarounds for PaddleClas."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.upstream.imports import quiet_import

# paddleclas 2.4.2 imports scikit-learn with SciPy and pandas, and Matplotlib, for metrics of multi-label sets, a loss
# and a mixing of images that few use: more processor time at the start of a command than the import of Paddle. They
# are loaded once they are used. By module, what it imports. Can go when PaddleClas does that itself.
LATER: Mapping[str, Sequence[str]] = {
    "ppcls.utils.metrics": ("sklearn", "sklearn.metrics", "sklearn.preprocessing"),
    "ppcls.metric.metrics": ("sklearn", "sklearn.metrics", "sklearn.preprocessing"),
    "ppcls.loss.afdloss": ("matplotlib", "matplotlib.pyplot"),
    "ppcls.data.preprocess.ops.fmix": ("scipy", "scipy.stats"),
}


def ppcls(name: str) -> Any:
    """The module `ppcls.<name>` of PaddleClas, imported without its noise."""
    with quiet_import():
        return importlib.import_module(f"ppcls.{name}")


class PpclsFinder(importlib.abc.MetaPathFinder):
    """Finds PaddleClas's `ppcls` and keeps it a single module.

    paddleclas 2.4.2 ships `ppcls` inside `paddleclas`, whose import prints a banner and edits sys.path to make
    `ppcls` importable; `paddleclas.ppcls` is then a second copy of every module. Here `ppcls` is found without
    importing `paddleclas`, and `paddleclas.ppcls` is the same modules under their other name.
    Can go when PaddleClas publishes `ppcls` as a package of its own.
    """

    ALIAS = "paddleclas.ppcls"

    def __init__(self) -> None:
        self._busy = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of `ppcls` and of its alias below `paddleclas`; None for any other module."""
        if name == self.ALIAS or name.startswith(self.ALIAS + "."):
            return importlib.machinery.ModuleSpec(name, _AliasLoader(name[len("paddleclas.") :]), is_package=True)
        if name != "ppcls" or self._busy:
            return None
        self._busy = True
        try:
            return importlib.util.find_spec("ppcls") or _ppcls_inside_paddleclas()
        finally:
            self._busy = False


def find_ppcls() -> None:
    """Make `ppcls` importable, once; see `PpclsFinder`."""
    if not any(isinstance(finder, PpclsFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, PpclsFinder())


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


def give_ppcls_a_logger(logger_module: Any) -> None:
    """paddleclas 2.4.2: `ppcls.utils.logger` fails on None unless `init_logger` ran, which prints to stdout.
    Its messages go to the standard logger "ppcls" instead, warnings and up to stderr as usual. Can go when it logs
    without `init_logger`.
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


def merge_branches(layer: Any) -> bool:
    """Merge the branches of a block of PaddleClas's PP-LCNetV2 (paddleclas 2.4.2), in eval mode; whether it was one.

    Its own `rep` leaves the branches where they are, as parameters that nothing reads: they are removed here. Can go
    when `rep` removes them.
    """
    if not (getattr(layer, "use_rep", False) and hasattr(layer, "dw_conv_list")):
        return False
    layer.rep()
    del layer.dw_conv_list
    return True


def class_id_map(path: str) -> Path:
    """The file that `class_id_map_file` names. PaddleClas's configs say `ppcls/utils/imagenet1k_label_list.txt`,
    which is there in a checkout of PaddleClas; elsewhere it is the one in the installed package.
    """
    if not Path(path).is_file() and path.startswith("ppcls/"):
        shipped = Path(ppcls("utils").__file__).parent.parent / path.removeprefix("ppcls/")
        if shipped.is_file():
            return shipped
    return Path(path)


def public_weights(arch_name: str) -> str | None:
    """Where PaddleClas publishes the weights of an architecture; None where it names none."""
    for module_name in ("pp_lcnet", "mobilenet_v1", "mobilenet_v3"):
        urls: dict[str, str] = ppcls(f"arch.backbone.legendary_models.{module_name}").MODEL_URLS
        if arch_name in urls:
            return urls[arch_name]
    return None


def public_backbone(backbone: Mapping[str, Any]) -> str | None:
    """The same for the backbone of a detector or a segmentation network; None for one that is not as published.

    Args:
        backbone: its name, and `scale` where the name has none.
    """
    if set(backbone) - {"name", "scale"} or "name" not in backbone:
        return None
    scale = "" if "scale" not in backbone else f"_x{float(backbone['scale']):g}".replace(".", "_")
    whole = f"{scale}_0" if scale and "_" not in scale[1:] else scale
    return public_weights(f"{backbone['name']}{whole}")


def resize_crops_with(operation: Any, pixels: Callable[[Any, tuple[int, int]], Any]) -> None:
    """Have a `RandCropImage` turn what it has cut out into an array only now that it is resized.

    The operation of paddleclas 2.4.2 looks at nothing but the shape of the image, cuts, and calls its resizing: so it
    can be handed what only acts like an image. Can go when paddleclas draws its crops apart from cutting them.

    Args:
        pixels: takes what was cut out, and the width and height that it is resized to; gives uint8 [h, w, 3].
    """
    resize = operation._resize_func
    operation._resize_func = lambda part, size: resize(pixels(part, size), size)


def download(url: str) -> Path:
    """Fetch public weights with PaddleClas's downloader; gives the local file.

    PaddleClas would unpickle the file right away, which executes what it holds: here it is only fetched.

    Raises:
        ConnectionError: whatever the downloader's HTTP client has raised.
    """
    try:
        return Path(ppcls("utils.download").get_weights_path_from_url(url))
    except Exception as error:
        raise ConnectionError(type(error).__name__) from error


def deploy_predictor(folder: Path, transforms: Sequence[Any], threads: int) -> Callable[[str], Any]:
    """PaddleClas's own predictor (`deploy/python/predict_cls.py`) with oneDNN, as its users run it: for comparison.

    Its modules are called `utils` and `python`, and find each other only where their folder is in `sys.path`; so this
    is for processes of which nothing else is expected.

    Args:
        folder: with inference.pdmodel and inference.pdiparams.
        transforms: a list of PaddleClas's operations.
    Returns:
        from the path of an image to the number of its best class, int64 [1].
    Raises:
        ImportError: PaddleClas or something that it needs is not installed.
    """
    import cv2  # only here: importing the package loads this module, and must stay light
    import numpy as np

    spec = importlib.util.find_spec("paddleclas")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("paddleclas is not installed")
    sys.path.insert(0, str(Path(spec.submodule_search_locations[0]) / "deploy"))
    with quiet_import():
        predict_cls = importlib.import_module("python.predict_cls")
        config = importlib.import_module("utils.config")
    settings = {
        "inference_model_dir": str(folder),
        "use_gpu": False,
        "enable_mkldnn": True,
        "cpu_num_threads": threads,
        "use_fp16": False,
        "ir_optim": True,
        "use_tensorrt": False,
        "enable_profile": False,
        "batch_size": 1,
    }
    given: dict[str, dict[str, Any]] = {
        "Global": settings,
        "PreProcess": {"transform_ops": [dict(step) for step in transforms if "DecodeImage" not in step]},
        "PostProcess": {"main_indicator": "Topk", "Topk": {"topk": 5}},
    }
    if "ToCHWImage" not in [name for step in transforms for name in step]:  # its predictor does no more than it is told
        given["PreProcess"]["transform_ops"].append({"ToCHWImage": None})
    attributes = config.AttrDict(given)
    config.create_attr_dict(attributes)
    predictor = predict_cls.ClsPredictor(attributes)

    def predict(path: str) -> Any:
        image: Any = cv2.imread(path)
        image = image[:, :, ::-1]
        return np.array(predictor.predict([image])[0]["class_ids"][:1], np.int64)

    return predict
