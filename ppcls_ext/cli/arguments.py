"""What the flags of several commands share: their types, the flags that name a config, and reading it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ppcls_ext.core.config import Config, load_config
from ppcls_ext.core.device import set_threads
from ppcls_ext.runtime.choice import AUTO
from ppcls_ext.runtime.engines import ENGINES

DEFAULT_ENGINE = "onednn"
CONFIG_HELP = "read this config: a name that `pplcnet configs` lists, a YAML file, or a run folder"


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got '{text}'") from None


def positive(text: str) -> int:
    """A whole number from 1."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return number


def real(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got '{text}'") from None


def positive_number(text: str) -> float:
    """A number above 0, and finite."""
    number = real(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def names(text: str) -> tuple[str, ...]:
    """Names between commas, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def wholes(text: str) -> tuple[int, ...]:
    """Whole numbers between commas, each once."""
    return tuple(map(whole, names(text)))


def listed(choices: Sequence[str]) -> str:
    """Names in a sentence: `json, csv or coco`."""
    *most, last = choices
    return f"{', '.join(most)} or {last}" if most else last


def engine_names(auto: bool = True) -> str:
    """The registered engines, and `auto` where a command takes it, in a sentence."""
    return listed((*ENGINES, *([AUTO] if auto else [])))


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True, what: str = CONFIG_HELP) -> None:
    """`-c CONFIG` and `-o KEY=VALUE`, which most commands have.

    Args:
        required: the command cannot do without `-c`.
        what: the help of `-c`.
    """
    group = parser.add_argument_group("config")
    group.add_argument("-c", "--config", required=required, metavar="CONFIG", help=what)
    group.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the config, such as Global.epochs=10 (may be repeated)",
    )


def read_config(name: str, overrides: Sequence[str]) -> Config:
    """The config that `-c` and `-o` name, with the threads set that it asks for.

    Raises:
        UserError: see `ppcls_ext.core.config.load_config`.
    """
    # Paddle reads the number of threads once, while it is imported, and a config may set that number. Therefore a
    # command reads its config first and imports what needs Paddle afterwards, inside its `run`: no module of this
    # package may import Paddle, or a module that does, at its top.
    config = load_config(name, overrides)
    set_threads(config.global_section.threads)
    return config
