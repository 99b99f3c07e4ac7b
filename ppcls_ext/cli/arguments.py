"""What the flags of several commands share: their types, the flags that name a config, and reading it."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ppcls_ext.core.bounds import LARGEST_BATCH, MOST_THREADS
from ppcls_ext.core.config import Config, load_config
from ppcls_ext.core.device import set_threads
from ppcls_ext.core.errors import UserError
from ppcls_ext.runtime.choice import AUTO, PREFERRED
from ppcls_ext.runtime.engines import ENGINES, engine_class
from ppcls_ext.runtime.engines.base import FLOAT

DEFAULT_ENGINE = PREFERRED[0]
# What the help says of defaults that `ppcls_ext.runtime.choice` and `ppcls_ext.core.device` take.
FIRST_OF_PREFERRED = f"the first that is installed and has its format in the folder: {', '.join(PREFERRED)}"
THREADS_DEFAULT = "OMP_NUM_THREADS, or every usable core"
CONFIG_HELP = "read this config: a name that `pplcnet configs` lists, a YAML file, or a run folder"


def whole(text: str) -> int:
    """A whole number of up to 18 digits."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number, got {_shown(text)}")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return number


def up_to(most: int, least: int = 1) -> Callable[[str], int]:
    """The type of a whole number from `least` to `most`."""

    def bounded(text: str) -> int:
        number = whole(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"expected {least} to {most}, got {text}")
        return number

    return bounded


threads = up_to(MOST_THREADS)
batch = up_to(LARGEST_BATCH)
port = up_to(65535, least=0)
seed = up_to(2**32 - 1, least=0)  # NumPy's generators take no larger one
core = up_to(4095, least=0)


def real(text: str) -> float:
    """A finite number."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {_shown(text)}") from None
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {_shown(text)}")
    return number


def share(text: str) -> float:
    """A number from 0 to 1."""
    number = real(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, got {text}")
    return number


def given(text: str) -> str:
    """A text that says something: an empty one comes from a variable of the shell that is not set."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected a name or path, got {_shown(text)}")
    return text


def refuse(arguments: argparse.Namespace, names: Iterable[str], reason: str) -> None:
    """Raise UserError for the first flag of `names` that is given, since it would do nothing."""
    for name in names:
        if getattr(arguments, name) not in (None, False, []):
            raise UserError(f"{reason}: leave --{name} out")


def path(text: str) -> Path:
    """The path of a file or folder."""
    return Path(given(text))


def _shown(text: str) -> str:
    """What the user gave, in a form that fits into a line."""
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return f"'{short}'" if "".join(short.split()).isprintable() else repr(short)


def positive_number(text: str) -> float:
    """A number above 0, and finite."""
    number = real(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def not_negative(text: str) -> float:
    """A number from 0, and finite."""
    number = real(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text}")
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


def engine_names(auto: bool = True, rounding: bool = True, more: Sequence[str] = ()) -> str:
    """The registered engines in a sentence.

    Args:
        auto: `auto` among them.
        rounding: those among them that compute with fewer bits than float32.
        more: what a command takes besides.
    """
    kinds = {name: engine_class(name) for name in ENGINES}
    names = [name for name, kind in kinds.items() if rounding or kind.precision == FLOAT]
    return listed((*names, *([AUTO] if auto else []), *more))


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True, what: str = CONFIG_HELP) -> None:
    """`-c CONFIG` and `-o KEY=VALUE`, which most commands have.

    Args:
        required: the command cannot do without `-c`.
        what: the help of `-c`.
    """
    group = parser.add_argument_group("config")
    group.add_argument("-c", "--config", type=given, required=required, metavar="CONFIG", help=what)
    add_override_argument(group)


def add_override_argument(group: argparse._ArgumentGroup, example: str = "Global.epochs=10") -> None:
    """`-o KEY=VALUE`, which changes the config that another flag names."""
    group.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"change a key of the config, such as {example} (may be repeated)",
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
