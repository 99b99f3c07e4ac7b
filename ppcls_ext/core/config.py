"""YAML -> config: PaddleClas's schema plus `_base_`, `-o key=value` overrides, and no key that nobody reads.

A config is a plain nested dict. This module checks the top-level sections and `Global`; every other section is
checked, key by key, by the one that builds from it (`ppcls_ext.core.registry.call_checked` and `parse`).
"""

from __future__ import annotations

import ast
import copy
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import yaml

from ppcls_ext.core import bounds
from ppcls_ext.core.bounds import LARGEST_SEED, LARGEST_SIDE, MOST_EPOCHS, MOST_STEPS, MOST_THREADS, mapping
from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.text import SHOWN, is_digits, one_line, shown
from ppcls_ext.core.yaml_files import CONFIG, YamlFault, fault_of_number, fault_of_text, parse_yaml, read_yaml

RUN_CONFIG = "config.yaml"  # the resolved config in a run folder
BEST_WEIGHTS = "best.pdparams"  # weights with the best metric
LAST_WEIGHTS = "last.pdparams"  # weights of the last evaluation; a run without evaluation leaves those of its end
LABELS = "labels.txt"  # names of the classes, a line each
ENVIRONMENT = "environment.json"  # versions and machine of the run
REPLACING = ("_replace_", "_delete_")  # keys of a mapping that replaces the base's whole
STUDIES = "studies"  # folder of configs/ whose files are studies (`ppcls_ext.paper.study`) and no configs
LATEST_STATE = "latest.safetensors"  # everything that an exact resume needs


class Section(pydantic.BaseModel):
    """Base of the typed parts of a config: immutable, unknown keys are errors, and numbers are finite."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """Pydantic would read true as 1."""
        field = cls.model_fields.get(info.field_name or "")
        if bounds.holds_flag(value) and field is not None and not bounds.takes_flag(field.annotation):
            raise ValueError("true and false are no values of it")
        return value


S = TypeVar("S", bound=Section)


# What pydantic puts behind a key that may have values of several types: the type that it tried.
_BRANCH = re.compile(r"(str|int|float|bool|none)$|(dict|list|tuple|literal|constrained|function|lax)[\[-]")


def parse(kind: type[S], values: Mapping[str, Any] | None, where: str) -> S:
    """Read a typed section from a config.

    Raises:
        UserError: an unknown key (with the nearest known one), a missing one, or a value of the wrong type.
    """
    given = mapping(values, where)
    for key in given:
        if not isinstance(key, str):
            raise UserError(f"{where}.{key}: unknown key; {nearest(str(key), kind.model_fields)}")
    try:
        return kind(**given)
    except pydantic.ValidationError as error:
        # An unknown key goes first: it may be a missing one, misspelt.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        at = ".".join([where, *(str(part) for part in first["loc"] if not _BRANCH.match(str(part)))])
        if first["type"] == "extra_forbidden":
            known = _section_at(kind, first["loc"][:-1]).model_fields
            raise UserError(f"{at}: unknown key; {nearest(str(first['loc'][-1]), known)}") from error
        if first["type"] == "missing":
            raise UserError(f"{at}: this key is missing") from error
        hint = "; write it as a list, such as [a, b]" if first["type"] in ("tuple_type", "list_type") else ""
        fault = first["msg"].removeprefix("Value error, ")  # which pydantic puts before the words of a ValueError
        got = shown(first["input"])
        raise UserError(f"{at}: {fault[0].lower()}{fault[1:]}, got {got}{hint}") from error


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("must be a number of images, or -1 for any")
    return value


# Batch of an export: a number of images, or -1 for any.
Batch = Annotated[int, pydantic.Field(ge=-1, le=65_536), pydantic.AfterValidator(_not_zero)]
Side = Annotated[int, pydantic.Field(ge=1, le=LARGEST_SIDE)]  # height or width of an image
InputKind = Literal["float32", "uint8"]  # an exported network takes normalised [N, 3, H, W], or pixels [N, H, W, 3]


def _section_at(kind: type[Section], location: Sequence[str | int]) -> type[Section]:
    """The section inside `kind` that pydantic's location of an error leads to."""
    for name in location:
        field = kind.model_fields.get(str(name))
        inner = field.annotation if field is not None else None
        if isinstance(inner, type) and issubclass(inner, Section):
            kind = inner
    return kind


class Global(Section):
    """The `Global` section. Keys and meanings are PaddleClas's, where it has them."""

    task: str = "classification"
    device: str = "auto"  # auto, cpu, gpu, gpu:1
    seed: int = pydantic.Field(default=0, ge=0, le=LARGEST_SEED)
    output_dir: str = pydantic.Field("./output/", min_length=1)  # holds run folders, named after the config file
    epochs: int = pydantic.Field(default=1, ge=1, le=MOST_EPOCHS)
    iters: int | None = pydantic.Field(None, ge=1, le=MOST_STEPS)  # stop after so many steps; then `epochs` is not used
    least_steps: int | None = pydantic.Field(None, ge=1, le=MOST_STEPS)  # a small set gets up to ten times the epochs
    update_freq: int = pydantic.Field(default=1, ge=1, le=100_000)  # batches whose mean gradient makes a step
    freeze: tuple[str, ...] = ()  # names of layers or parameters that stay as they are, with `*` for anything
    # The run ends after so many evaluations without a better one.
    early_stop: int | None = pydantic.Field(None, ge=1, le=MOST_EPOCHS)
    eval_during_train: bool = True
    eval_interval: int = pydantic.Field(default=1, ge=1, le=MOST_EPOCHS)  # epochs between evaluations
    save_interval: int = pydantic.Field(default=1, ge=1, le=MOST_EPOCHS)  # epochs between saves of the latest state
    print_batch_step: int = pydantic.Field(default=10, ge=1, le=MOST_STEPS)  # steps between log lines
    use_visualdl: bool = True
    pretrained_model: str | None = None  # weights to start from, or to evaluate and export
    new_head: bool = False  # pretrained_model may have another number of classes
    checkpoints: str | None = None  # run folder or training state to resume
    image_shape: tuple[Literal[3], Side, Side] = (3, 224, 224)
    save_inference_dir: str | None = pydantic.Field(None, min_length=1)  # None: `inference` in the run folder
    data_root: str | None = None  # dataset paths are taken relative to it
    check_seconds: float = pydantic.Field(default=10.0, ge=0, le=1e6)  # time for decoding images before training starts
    # Threads of the CPU; default: OMP_NUM_THREADS, or every usable core, and for `train` those that are free.
    threads: int | None = pydantic.Field(None, ge=1, le=MOST_THREADS)
    fast_cpu: bool = True  # our own kernels in training and evaluation (ppcls_ext.models.kernels)


# Keys of PaddleClas that ask for something this package does not do, with the values that ask for nothing.
NOT_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "to_static": (False, None),
    "use_dali": (False, None),
    "eval_mode": ("classification", None),
    "train_mode": (None,),
}


class Config(dict[str, Any]):
    """A resolved config, and the file it came from."""

    path: Path

    @property
    def global_section(self) -> Global:
        """The checked `Global` section."""
        return parse(Global, self["Global"], "Global")


def _literal(value: Any) -> Any:
    """PaddleClas also reads Python literals in strings: "[0.1, 0.2]" is a list, "True" a bool."""
    if isinstance(value, dict):
        return {k: _literal(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_literal(v) for v in value]
    if isinstance(value, str) and (value.startswith(("[", "(")) or value in ("True", "False", "None")):
        try:
            read = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two where it is nested too deeply
            return value
        return read if _is_plain(read) else value
    return value


def _is_plain(value: Any, depth: int = CONFIG.depth) -> bool:
    """Whether a value is one that YAML could have given, too: it has passed none of the checks of YAML."""
    if isinstance(value, (list, tuple)):
        return depth > 0 and all(_is_plain(part, depth - 1) for part in value)
    if isinstance(value, dict):
        return (
            depth > 0 and all(type(key) in (str, int) for key in value) and _is_plain([*value, *value.values()], depth)
        )
    if isinstance(value, str):
        return fault_of_text(value) is None
    return isinstance(value, (bool, int, float, type(None))) and fault_of_number(value) is None


def in_run_folder(file: Path) -> bool:
    """Whether a config file is that of a run folder, and not somebody's own of the same name."""
    return file.name == RUN_CONFIG and (file.parent / ENVIRONMENT).is_file()


def run_folder_path(config: Config) -> Path:
    """The folder that a config's run goes into: `<output_dir>/<name of the config file>`."""
    if in_run_folder(config.path):
        return config.path.parent
    return Path(config.global_section.output_dir) / config.path.stem


def trained_weights(file: Path) -> Path | None:
    """The weights that training left beside a run folder's config: the best, or without an evaluation the last.

    None where `file` is no run folder's, or the run has saved none yet.
    """
    if not in_run_folder(file):
        return None
    return next((path for name in (BEST_WEIGHTS, LAST_WEIGHTS) if (path := file.parent / name).is_file()), None)


def config_folders() -> list[Path]:
    """The folders with the configs that the package ships; a path is tried as given before these."""
    package = Path(str(importlib.resources.files("ppcls_ext")))
    return [package, package.parent]  # an installed wheel; a checkout


def find_config(path: str | Path, study: bool = False) -> Path:
    """The config file that `path` names: as given, in a run folder, or among those shipped with the package.

    `configs/PPLCNet_x1_0.yaml`, `PPLCNet_x1_0.yaml` and `PPLCNet_x1_0` all find the shipped file from any folder.

    Args:
        study: a study is looked for, so an error names the studies that are shipped instead of the configs.
    Raises:
        UserError: there is no such file, or the folder is not a run folder.
    """
    given = Path(path)
    if given.is_dir():
        if (given / RUN_CONFIG).is_file():
            return given / RUN_CONFIG
        raise UserError(f"config {given}: this folder has no {RUN_CONFIG}, so it is not a run folder; give a YAML file")
    if given.is_file():
        return given
    if not given.is_absolute():
        name = given if given.suffix in (".yaml", ".yml") else Path(f"{given}.yaml")
        for folder in config_folders():
            for candidate in (folder / name, folder / "configs" / name):
                if candidate.is_file():
                    return candidate
    kind, shipped = ("study", shipped_studies()) if study else ("config", shipped_configs())
    raise UserError(f"{kind} {given}: no such file; {nearest(given.stem, shipped)}")


def shipped_configs() -> dict[str, Path]:
    """Names (without .yaml, relative to configs/) of the configs that come with the package."""
    return {name: file for name, file in _shipped_files().items() if file.parent.name != STUDIES}


def shipped_studies() -> dict[str, Path]:
    """Names (without .yaml, relative to configs/) of the studies that come with the package."""
    return {name: file for name, file in _shipped_files().items() if file.parent.name == STUDIES}


def _shipped_files() -> dict[str, Path]:
    for folder in config_folders():
        root = folder / "configs"
        if root.is_dir():
            files = [f for f in sorted(root.rglob("*.yaml")) if not f.name.startswith("_")]
            return {str(f.relative_to(root).with_suffix("")): f for f in files}
    return {}


def merge(base: Any, change: Any) -> Any:
    """`change` over `base`: mappings are merged key by key, anything else is replaced.

    `_replace_: true` in a mapping replaces the base's whole, for another optimizer or schedule with other keys;
    `_delete_: true`, mmengine's word for it, does the same.
    """
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    if not isinstance(base, dict) or any(change.get(word) for word in REPLACING):
        base = {}
    merged = copy.deepcopy(base)
    for key, value in change.items():
        if key not in REPLACING:
            merged[key] = merge(base.get(key), value)
    return merged


def _length_given(config: Mapping[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """What of `Global` an explicit length replaces: without this, what a base says would quietly win over it.

    Args:
        given: the keys of `Global` that are given now.
    """
    section = config.get("Global")
    if not isinstance(section, Mapping):
        return {}
    replaced = {"epochs": ("iters", "least_steps"), "iters": ("least_steps",)}
    overruled = {old for new in given for old in replaced.get(new, ()) if old not in given}
    return {key: None for key in overruled if section.get(key) is not None}


def _read_with_bases(path: Path, chain: tuple[Path, ...] = (), read: list[Path] | None = None) -> dict[str, Any]:
    """A config over those that it is based on.

    Args:
        chain: the configs that are based on this one.
        read: every config that was read for the first one of the chain, however often; this one is added.
    """
    read = [] if read is None else read
    read.append(path)
    if len(read) - 1 > bounds.MOST_BASES:
        raise UserError(f"config {read[0]}: more than {bounds.MOST_BASES} configs to be based on; give it fewer")
    if path.resolve() in chain:
        raise UserError(f"config {path}: _base_ comes back to itself ({' -> '.join(p.name for p in chain)})")
    content = read_yaml(path)
    bases = content.pop("_base_", [])
    if not isinstance(bases, (str, list)) or not all(isinstance(b, str) for b in bases):
        raise UserError(f"config {path}: _base_ must be a file name or a list of them, got {bases!r}")
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        base_path = path.parent / base
        if not base_path.is_file():
            raise UserError(f"config {path}: _base_ {base}: no such file beside it")
        merged = merge(merged, _read_with_bases(base_path, (*chain, path.resolve()), read))
    given = content.get("Global")
    if isinstance(given, Mapping):
        merged = merge(merged, {"Global": _length_given(merged, list(given))})
    return merge(merged, content)


def override(config: dict[str, Any], assignment: str) -> None:
    """Apply `Section.key=value` to `config` in place. Numbers index lists; the value is YAML.

    A mapping takes the place of the whole that was there, whether or not it says so (`_replace_`, `_delete_`).

    Raises:
        UserError: no `=`, or a key that the config cannot have.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise UserError(f"-o {assignment}: expected key=value, such as Global.epochs=10")
    try:
        value = merge(None, _literal(parse_yaml(text)))
    except YamlFault as error:
        raise UserError(f"-o {assignment}: '{one_line(text, SHOWN)}' is not a YAML value ({error.problem})") from error
    *parents, last = key.split(".")
    if len(parents) >= CONFIG.depth:
        raise UserError(f"-o {one_line(key, SHOWN)}: more than {CONFIG.depth} keys below each other; give fewer")
    node: Any = config
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            index = _index(node, part, assignment)
            node = node[index]
            if not is_digits(part):  # it names an operation of the list: the next part is a key of its arguments
                node = _opened(node, part)
        elif isinstance(node, dict):
            node = _opened(node, part)
        else:
            raise UserError(f"-o {assignment}: {'.'.join(parents[:depth])} is a value and has no keys")
    if isinstance(node, list):
        index = _index(node, last, assignment)
        node[index] = value if is_digits(last) else {last: value}
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise UserError(f"-o {assignment}: {'.'.join(parents)} is a value and has no keys")


def _opened(node: dict[str, Any], part: str) -> Any:
    """The value that a mapping has under a key; where it has none, a new mapping is put there first."""
    if node.get(part) is None:
        node[part] = {}
    return node[part]


def _index(items: list[Any], part: str, assignment: str) -> int:
    names = [next(iter(item), "") if isinstance(item, dict) and len(item) == 1 else "" for item in items]
    if part in names:  # an operation of a list may be given by its name
        return names.index(part)
    if is_digits(part) and int(part) < len(items):
        return int(part)
    known = ", ".join(str(name) for name in names if name)
    raise UserError(f"-o {assignment}: '{part}' is no place in a list of {len(items)} ({known})")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file (or a run folder's), its bases and the overrides, and check what all tasks share.

    A run folder's config starts from the weights that `trained_weights` finds, unless told otherwise.
    Raises:
        UserError: see `find_config`, `read_yaml`, `override`; an unknown section or key of `Global`.
    """
    file = find_config(path)
    config = Config(_literal(_read_with_bases(file)))
    config.path = file
    config["Global"] = dict(mapping(config.get("Global"), "Global"))
    weights = trained_weights(file)
    if weights is not None:
        config["Global"]["pretrained_model"] = str(weights)
        config["Global"]["new_head"] = False
    given = [a.partition("=")[0].removeprefix("Global.") for a in overrides if a.startswith("Global.")]
    config["Global"].update(_length_given(config, given))
    for assignment in overrides:
        override(config, assignment)
    config["Global"] = dict(mapping(config["Global"], "Global"))
    for key, neutral in NOT_SUPPORTED.items():
        value = config["Global"].pop(key, None)
        if value not in neutral:
            raise UserError(f"Global.{key}: {value} is not supported by this toolkit; leave it out")
    config["Global"] = config.global_section.model_dump(mode="json")
    return config


def check_sections(config: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise UserError for a top-level section that the task does not know, or that is no mapping."""
    for section, values in config.items():
        if section not in known:
            raise UserError(f"{section}: unknown section; {nearest(str(section), known)}")
        if section != "Optimizer":  # may be a list in PaddleClas, and has an error of its own
            mapping(values, section)


def dump_config(config: Mapping[str, Any]) -> str:
    """A config as YAML text that `load_config` reads back to the same values.

    Raises:
        UserError: a value that could not be read back, such as the path of a folder whose name is not UTF-8.
    """
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    try:
        parse_yaml(text)
    except YamlFault as error:
        raise UserError(
            f"the config, with all paths and classes filled in, could not be read again ({error.problem}); give a "
            "folder or data of other names"
        ) from error
    return text
