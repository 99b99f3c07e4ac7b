"""An exported folder: reading `inference.yml` and checking that the files are those that export wrote.

The folder may come from anywhere, so nothing in it is trusted: file names are fixed here and never taken from the
recipe, and every value of the recipe has a type and bounds.
"""

from __future__ import annotations

import hashlib
import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.core.bounds import MOST_CLASSES
from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.reading import Unreadable, check_regular, decoded, read_regular
from ppcls_ext.core.yaml_files import YamlFault, YamlLimits, parse_yaml
from ppcls_ext.runtime.checks import shown
from ppcls_ext.runtime.engines.base import FLOAT, FOREIGN_PDMODEL, FORMATS, Engine

RECIPE = "inference.yml"
PARITY = "parity.npz"  # inputs of the network, and the outputs that dygraph has for them
FROM_ONNX = ("onnx", "int8")  # int8 is made from the ONNX file and gives the same outputs
RECIPE_CHECKSUM = "recipe_sha256"  # the last line of the recipe: the checksum of all that stands before it

LARGEST_RECIPE = 16 * 2**20  # bytes; 22,000 labels take one
LARGEST_PARITY = 256 * 2**20  # bytes
MOST_LABELS = MOST_CLASSES
LONGEST_LABEL = 1000  # characters
RECIPE_LIMITS = YamlLimits(size=LARGEST_RECIPE, depth=32, nodes=2 * MOST_LABELS, scalar=65_536)
MOST_INPUTS = 8
MOST_ENGINES = 100
LARGEST_DIMENSION = 65536
DTYPES = ("float32", "float64", "int32", "int64", "uint8")  # types that an input may have

_CHECKSUM_LINE = re.compile(rb"^" + RECIPE_CHECKSUM.encode() + rb": ([0-9a-f]{64})\n\Z", re.MULTILINE)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ExportedInput:
    """An input of the network; -1 in `shape` is any size."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Exported:
    """An exported folder whose recipe was read and checked.

    Attributes:
        folder: where it lies.
        recipe: all of `inference.yml`; the task's own parts (`preprocess`, `postprocess`) are checked by the task.
        task: name of the task.
        formats: names of the model formats in the folder.
        inputs: of the network.
        labels: names of the classes, in order of their numbers.
        accepted: engines with reduced precision that export found faster and as good (`precision` of the recipe).
        checksums: SHA-256 of each file, by its name relative to the folder; empty in exports of earlier versions.
    """

    folder: Path
    recipe: Mapping[str, Any]
    task: str
    formats: tuple[str, ...]
    inputs: tuple[ExportedInput, ...]
    labels: tuple[str, ...]
    accepted: tuple[str, ...]
    checksums: Mapping[str, str]

    @property
    def batch(self) -> int:
        """Images that the network takes at once; -1 is any number."""
        return self.inputs[0].shape[0]

    @property
    def takes_pixels(self) -> bool:
        """Whether the network takes uint8 pixels and normalises by itself."""
        return self.inputs[0].dtype == "uint8"

    def shapes(self, batch: int, size: tuple[int, int] | None = None) -> list[tuple[int, ...]] | None:
        """The shape of each input for a batch.

        Args:
            batch: images; an export with a fixed number keeps that.
            size: height and width, where they are free; without them the shapes of such an export are not known: None.
        Raises:
            UserError: a size that the network does not take.
        """
        shapes = []
        for entry in self.inputs:
            shape = [batch if entry.shape[0] == -1 else entry.shape[0], *entry.shape[1:]]
            sides = slice(1, 3) if entry.dtype == "uint8" else slice(2, 4)  # pixels are [N, H, W, 3]
            if size is not None and len(shape) == 4:
                if any(have not in (-1, want) for have, want in zip(shape[sides], size, strict=True)):
                    raise UserError(f"exported model {self.folder}: its input is fixed at {shape}, asked for {size}")
                shape[sides] = size
            shapes.append(tuple(shape))
        return shapes if all(min(shape) > 0 for shape in shapes) else None

    def accepts(self, kind: type[Engine]) -> bool:
        """Whether an engine computes in float32, or export has accepted its reduced precision."""
        return kind.precision == FLOAT or kind.name in self.accepted

    def verify(self, files: Iterable[str]) -> None:
        """Compare files, named relative to the folder, with their checksums, where the export has any.

        A missing file is left to who opens it, and can say what it is needed for; unless one that other tools write
        would be opened in its place.
        Raises:
            UserError: a file that cannot be read, has no checksum, or is not what export wrote.
        """
        for name in files if self.checksums else ():
            if not (self.folder / name).exists():
                if name in FORMATS["pdmodel"] and (self.folder / FOREIGN_PDMODEL[0]).exists():
                    raise _refused(
                        self.folder, f"{name}: no such file, but {FOREIGN_PDMODEL[0]}, which has no checksum"
                    )
                continue
            try:
                found = sha256(self.folder / name)
            except OSError as error:
                raise _refused(self.folder, f"{name}: {error.strerror or error}") from error
            if found != self.checksums.get(name):
                raise _refused(self.folder, f"{name} is not the file that export wrote")


def sha256(file: Path) -> str:
    """The checksum of a file, in hexadecimal digits. Raises OSError where it cannot be read."""
    digest = hashlib.sha256()
    check_regular(file)
    with open(file, "rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def sealed(text: str) -> str:
    """A recipe's text with its checksum as the last line."""
    return f"{text}{RECIPE_CHECKSUM}: {hashlib.sha256(text.encode()).hexdigest()}\n"


def read_exported(folder: str | Path) -> Exported:
    """Read and check the recipe of an exported folder. Model files are checked by `Exported.verify`.

    Raises:
        UserError: not an exported folder, one that was changed after export, or a recipe of another shape.
    """
    if not isinstance(folder, (str, Path)):
        raise UserError(f"exported model {shown(folder)}: give the path of a folder that pplcnet export wrote")
    folder = Path(folder)
    recipe = _read_recipe(folder)
    if not isinstance(recipe, dict):
        raise _refused(folder, f"{RECIPE} holds no keys and values")
    inputs = tuple(_input(folder, entry) for entry in _list(folder, recipe, "inputs", MOST_INPUTS))
    if not inputs:
        raise _refused(folder, f"{RECIPE}: inputs is empty")
    labels = tuple(_label(folder, entry) for entry in _list(folder, recipe, "labels", MOST_LABELS))
    if not labels:
        raise _refused(folder, f"{RECIPE}: labels is empty")
    formats = recipe.get("formats")
    if not isinstance(formats, dict) or not formats:
        raise _refused(folder, f"{RECIPE}: formats must name the model files, got {shown(formats)}")
    for name, file in formats.items():
        if name not in FORMATS:
            raise _refused(folder, f"{RECIPE}: model format {shown(name)} is unknown; {nearest(str(name), FORMATS)}")
        if file != FORMATS[name][0]:
            raise _refused(folder, f"{RECIPE}: format {name} must be in {FORMATS[name][0]}, got {shown(file)}")
    task = recipe.get("task")
    if not isinstance(task, str):
        raise _refused(folder, f"{RECIPE}: task must be a name, got {shown(task)}")
    for key in ("preprocess", "postprocess"):
        if not isinstance(recipe.get(key), dict):
            raise _refused(folder, f"{RECIPE}: {key} must be keys and values, got {shown(recipe.get(key))}")
    return Exported(
        folder, recipe, task, tuple(formats), inputs, labels, _accepted(folder, recipe), _checksums(folder, recipe)
    )


# What zipfile and NumPy raise for damaged archives, besides errors of their own; encrypted ones are a RuntimeError.
_DAMAGED = (OSError, ValueError, KeyError, IndexError, EOFError, TypeError, RuntimeError, MemoryError, SyntaxError)


def read_parity(exported: Exported, model_format: str) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Batches of inputs, and the outputs that dygraph has for them in the form that the format holds.

    Exports of earlier versions have none: an empty list.
    Raises:
        UserError: the file is not the one that export wrote.
    """
    file = exported.folder / PARITY
    if not file.is_file():
        if PARITY in exported.checksums:
            raise _refused(exported.folder, f"{PARITY}: no such file")
        return []
    exported.verify([PARITY])
    if file.stat().st_size > LARGEST_PARITY:
        raise _refused(exported.folder, f"{PARITY} is larger than {LARGEST_PARITY >> 20} MB")
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > LARGEST_PARITY:
            raise _refused(exported.folder, f"{PARITY} unpacks to more than {LARGEST_PARITY >> 20} MB")
        with np.load(file, allow_pickle=False) as stored:
            outputs = "onnx_output" if model_format in FROM_ONNX and "onnx_output_0_0" in stored else "output"
            batches = range(len({name.split("_")[1] for name in stored if name.startswith("input_")}))
            return [(_arrays(stored, f"input_{b}_"), _arrays(stored, f"{outputs}_{b}_")) for b in batches]
    except (*_DAMAGED, zipfile.BadZipFile, zlib.error, tokenize.TokenError) as error:
        raise _refused(exported.folder, f"{PARITY} cannot be read ({' '.join(str(error).split())[:100]})") from error


def _arrays(stored: Mapping[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    count = sum(name.startswith(prefix) for name in stored)
    found = [stored[f"{prefix}{k}"] for k in range(count)]
    if not all(isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in found):
        raise ValueError("it holds something else than arrays of numbers")
    return found


def _refused(folder: Path, why: str) -> UserError:
    return UserError(f"exported model {folder}: {why}; export again, or copy the folder again as a whole")


def is_recipe(file: Path) -> bool:
    """Whether a file has the checksum of a recipe. Exports of before there was one count as another tool's."""
    try:
        return RECIPE_CHECKSUM.encode() in read_regular(file, LARGEST_RECIPE)
    except (Unreadable, OSError):
        return False


def _read_recipe(folder: Path) -> Any:
    file = folder / RECIPE
    if not folder.exists():
        raise UserError(f"exported model {folder}: no such folder; give the one that export wrote")
    if not file.exists():
        raise UserError(f"exported model {folder}: no {RECIPE} in it; give the folder that export wrote")
    try:
        data = read_regular(file, LARGEST_RECIPE)
    except Unreadable as error:
        raise _refused(folder, f"{RECIPE}: {error}") from error
    seal = _CHECKSUM_LINE.search(data)
    if seal is None and RECIPE_CHECKSUM.encode() in data:
        raise _refused(folder, f"{RECIPE} does not end with its checksum")
    if seal is not None and hashlib.sha256(data[: seal.start()]).hexdigest() != seal[1].decode():
        raise _refused(folder, f"{RECIPE} was changed after export")
    try:
        return parse_yaml(decoded(data), RECIPE_LIMITS)
    except (YamlFault, Unreadable) as error:
        raise _refused(folder, f"{RECIPE} is not valid YAML ({error})") from error


def _list(folder: Path, recipe: Mapping[str, Any], key: str, most: int) -> Sequence[Any]:
    values = recipe.get(key)
    if not isinstance(values, list) or len(values) > most:
        raise _refused(folder, f"{RECIPE}: {key} must be a list of at most {most}, got {shown(values)}")
    return values


def _input(folder: Path, entry: Any) -> ExportedInput:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or entry.get("dtype") not in DTYPES:
        raise _refused(folder, f"{RECIPE}: inputs must be a list of name, shape and dtype")
    shape = entry.get("shape")
    listed = shape if isinstance(shape, list) else []
    if 0 < len(listed) <= 8 and all(type(n) is int and (n == -1 or 0 < n <= LARGEST_DIMENSION) for n in listed):
        return ExportedInput(entry["name"], tuple(listed), entry["dtype"])
    raise _refused(folder, f"{RECIPE}: shape of input {shown(entry['name'])} must be a list of sizes")


def _label(folder: Path, entry: Any) -> str:
    if not isinstance(entry, str) or len(entry) > LONGEST_LABEL:
        raise _refused(folder, f"{RECIPE}: labels must be names, got {shown(entry)}")
    return entry


def _accepted(folder: Path, recipe: Mapping[str, Any]) -> tuple[str, ...]:
    found = recipe.get("precision") or {}
    if not isinstance(found, dict) or len(found) > MOST_ENGINES or not all(isinstance(name, str) for name in found):
        raise _refused(folder, f"{RECIPE}: precision must be engines and their figures, got {shown(found)}")
    return tuple(found)


def _checksums(folder: Path, recipe: Mapping[str, Any]) -> dict[str, str]:
    found = recipe.get("checksums", {})
    if not isinstance(found, dict) or len(found) > 100:
        raise _refused(folder, f"{RECIPE}: checksums must be files and their SHA-256, got {shown(found)}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise _refused(folder, f"{RECIPE}: checksum of {shown(name)} is no SHA-256")
    if found and RECIPE_CHECKSUM not in recipe:
        raise _refused(folder, f"{RECIPE} has lost its own checksum")
    return found
