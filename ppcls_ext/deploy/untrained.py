"""Networks without data or weights, made fit for timing, counted and exported: what is measured of an architecture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import paddle

from ppcls_ext.core.config import Config, dump_config, load_config
from ppcls_ext.core.device import set_device
from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write_text
from ppcls_ext.core.reading import Unreadable, read_json
from ppcls_ext.core.seeding import seed_all
from ppcls_ext.core.stored import STORED, Count, Stored, checked
from ppcls_ext.core.version import __version__
from ppcls_ext.deploy.export import UNFOLDED, onnx_converter, save_formats, write_recipe
from ppcls_ext.models.activations import give_realistic_statistics
from ppcls_ext.models.counting import count
from ppcls_ext.models.factory import SEARCHED
from ppcls_ext.models.folding import fold_batch_norm, fold_branches
from ppcls_ext.models.network_spec import CLASSES, NetworkSpec
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.engines.base import FLOAT_FORMATS
from ppcls_ext.tasks.deployment import Input
from ppcls_ext.tasks.finding import make_task

CONFIG = "PPLCNet_x1_0"  # of networks by name or spec: 224 x 224, unless a spec says another size
BATCH = "Export.batch=1"  # what is counted and timed of a network by name or spec is one image
MADE = "network.json"  # written last into the folder of a network: with it the folder is whole

# Batch norms take their statistics from so many inputs, with sides halved until they are no longer than this: the
# statistics of noise hardly depend on the size, the time does.
STATISTICS_BATCH, STATISTICS_SIDE = 4, 512


@dataclass(frozen=True)
class Network:
    """A network to measure: a shipped config and what is changed in it. The name is that of its folder."""

    name: str
    config: str
    overrides: tuple[str, ...]

    def load(self) -> Config:
        """The config of the network."""
        return load_config(self.config, self.overrides)


def network_of_spec(spec: NetworkSpec, class_num: int = CLASSES) -> Network:
    """The network of a spec, for one image a call of the side that the spec is for."""
    arch = f"Arch={{name: {SEARCHED}, arch: '{spec.text}', class_num: {class_num}}}"
    shape = f"Global.image_shape=[3,{spec.input_size},{spec.input_size}]"
    return Network(spec.name, CONFIG, (BATCH, shape, arch))


@dataclass(frozen=True)
class Built:
    """A network that was built; `activations` is a `models.activations.Summary` as a mapping."""

    __pydantic_config__ = STORED

    params: Count
    flops: Count
    activations: dict[str, float]


class _Made(Stored):
    """What the file beside a network holds; those of earlier versions have no `formats`."""

    built: Built
    made_from: dict[str, str]
    formats: list[str] = []


def build(network: Network, work: Path, formats: Sequence[str]) -> Built:
    """Export a network into the folder `work / network.name`, or read what is there of this version and config.

    A file about it that is damaged counts as none: the network is made again.
    Args:
        formats: of `ppcls_ext.runtime.engines.base.FORMATS`.
    Raises:
        UserError: see `load_config` and `make_task`. CheckFailed: see `give_realistic_statistics`.
    """
    folder = work / network.name
    config = network.load()
    identity = {
        "pplcnet": __version__,
        "paddlepaddle": paddle.__version__,
        "config": dump_config(config),
    }
    file = folder / MADE
    built = built_before(file, identity, formats)
    if built is not None:
        return built
    shutil.rmtree(folder, ignore_errors=True)

    task = make_task(config)
    set_device("cpu")
    seed_all(task.global_section.seed)
    model = task.build_model()
    model.eval()
    deployment = task.deployment(model)
    deployment.model.eval()
    inputs = noise_inputs(deployment.inputs)
    summary = give_realistic_statistics(model, *inputs)
    fold_branches(deployment.model)
    counted = count(deployment.model, *(paddle.zeros(i.shape, i.dtype) for i in deployment.inputs))
    save_formats(deployment, folder, [f for f in formats if f in UNFOLDED])
    fold_batch_norm(deployment.model, *inputs)
    save_formats(deployment, folder, [f for f in formats if f not in UNFOLDED])
    write_recipe(task, deployment, folder, formats, folded=True)
    built = Built(counted.params, counted.flops, summary._asdict())
    record = {"built": asdict(built), "made_from": identity, "formats": sorted(formats)}
    atomic_write_text(file, json.dumps(record, indent=1) + "\n")
    return built


def formats_for(engines: Sequence[str], flag: str = "--engines") -> list[str]:
    """The formats to build networks in for engines.

    Args:
        flag: by which the engines were named, for messages.
    Raises:
        UserError: none, or one that is unknown, not installed, or runs no such networks.
    """
    if not engines:
        raise UserError(f"{flag}: none is given; known: {', '.join(ENGINES)}")
    needed = {engine_class(engine).formats[0] for engine in engines}
    for engine in engines:
        if not engine_class(engine).installed():
            raise UserError(f"{flag} {engine}: it needs the package {engine_class(engine).package}; install it")
        if engine_class(engine).formats[0] not in FLOAT_FORMATS:
            raise UserError(
                f"{flag} {engine}: it runs networks that export has calibrated on data, not these; leave it out"
            )
    if "onnx" in needed:
        onnx_converter()
        needed.add("json")  # an ONNX file is converted from this format
    return [name for name in FLOAT_FORMATS if name in needed]


def built_before(file: Path, identity: Mapping[str, str], formats: Sequence[str]) -> Built | None:
    """What a file says of a network that is there; None where there is none, another one, or the file is damaged."""
    try:
        made = checked(_Made, read_json(file))
    except (Unreadable, ValueError):
        return None
    if made.made_from != identity or not set(formats) <= set(made.formats):
        return None
    return made.built


def noise_inputs(inputs: Sequence[Input]) -> list[paddle.Tensor]:
    """Normal noise of unit scale, as normalised photographs have, in the shape of each input (N, C, H, W)."""
    tensors = []
    for _, (_, channels, *sides), dtype in inputs:
        while max(sides) > STATISTICS_SIDE:
            sides = [side // 2 for side in sides]
        tensors.append(paddle.randn([STATISTICS_BATCH, channels, *sides], dtype))
    return tensors
