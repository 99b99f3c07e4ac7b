"""The command line: `pplcnet COMMAND`, and the same as `tools/*.py`.

Every command is a module of this package with the attributes of `Command`. A new one is a new file and its name in
`COMMANDS`. Exit status: 0 done, 1 a check failed, 2 bad input or usage, 130 or 143 interrupted.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn, Protocol

from ppcls_ext.cli import (
    advise,
    benchmark,
    check_data,
    configs,
    eval,
    export,
    infer,
    reproduce,
    search,
    serve,
    study,
    train,
)
from ppcls_ext.core.display import err
from ppcls_ext.core.errors import CheckFailed, PeerLost, UserError, nearest
from ppcls_ext.core.version import __version__


class Command(Protocol):
    """What the module of a command has.

    Attributes:
        NAME: what users type.
        HELP: one line for the list of commands.
        DESCRIPTION: what the command does, for its own help.
        EXAMPLES: two command lines, for its own help.
    """

    NAME: str
    HELP: str
    DESCRIPTION: str
    EXAMPLES: tuple[str, str]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the flags, in groups. Nothing that is imported for it may import Paddle."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command; gives the exit status. Raises UserError or CheckFailed, which `main` shows as one line."""


# In the order of the list that `pplcnet --help` shows.
COMMANDS: tuple[Command, ...] = (
    configs,
    check_data,
    train,
    eval,
    export,
    infer,
    serve,
    benchmark,
    search,
    advise,
    study,
    reproduce,
)


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the flags in one line: the usage of a command is longer than a screen of errors."""

    def error(self, message: str) -> NoReturn:
        """Print one line, and exit with status 2."""
        text = " ".join(message.split())
        see = " See" if text.endswith("?") else "; see"
        err.print(f"{self.prog}: {text}{see} {self.prog} --help", markup=False, style="red")
        self.exit(UserError.exit_status)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command. Paddle is not imported for it."""
    return _parsers()[0]


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command line, and that of each command."""
    parser = Parser(
        prog="pplcnet",
        description="Fast vision models on the CPU, on PaddlePaddle.",
        epilog="`pplcnet COMMAND --help` shows the flags of a command, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"pplcnet {__version__}")
    # Not required, since argparse would then report a wrong flag as a missing command.
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    width = shutil.get_terminal_size().columns - 2  # argparse leaves two columns free as well
    own = {}
    for command in COMMANDS:
        own[command.NAME] = commands.add_parser(
            command.NAME,
            help=command.HELP,
            description=textwrap.fill(command.DESCRIPTION, width),
            epilog="\n  ".join(["examples:", *command.EXAMPLES]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(own[command.NAME])
        own[command.NAME].set_defaults(run=command.run)
    return parser, own


def _parse(given: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line; whatever is wrong with it ends the process with one line and status 2."""
    parser, own = _parsers()
    if not given:
        parser.error(f"a command is missing; {nearest('', own)}")
    if not given[0].startswith("-") and given[0] not in own:
        parser.error(f"no command '{given[0]}'; {nearest(given[0], own)}")
    arguments, unknown = parser.parse_known_args(given)
    if unknown:
        at_fault = own.get(given[0], parser)
        first = unknown[0]
        if not first.startswith("-"):
            at_fault.error(f"'{first}' belongs to no flag")
        flag = first.partition("=")[0]
        flags = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", at_fault.format_usage())
        if len(flag) == 2:  # any two of the short flags are alike by half: none is nearest
            at_fault.error(f"no flag '{flag}'; known: {', '.join(flags)}")
        at_fault.error(f"no flag '{flag}'; {nearest(flag, flags)}")
    return arguments


def _place_and_reason(error: OSError) -> str:
    """One line for a place that cannot be read or written; the system does not always name the place or a reason."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status. Wrong usage raises SystemExit, as argparse does."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    command, run = arguments.command, arguments.run
    try:
        return int(run(arguments))
    except (UserError, CheckFailed) as error:
        err.print(f"pplcnet {command}: {error}", markup=False, style="red")
        if isinstance(error, PeerLost):
            from ppcls_ext.core.distributed import wait_for_launcher

            wait_for_launcher()
        return error.exit_status
    except BrokenPipeError:  # the reader of our output went away, such as `| head`
        sys.stderr.close()
        return 0
    except OSError as error:
        err.print(f"pplcnet {command}: {_place_and_reason(error)}", markup=False, style="red")
        return UserError.exit_status
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "ppcls_ext", "det", "seg"):  # ours: the installation is broken
            raise
        how = f"needs the package {package}; python -m pip install 'pplcnet[train]', or use the lock"
        err.print(f"pplcnet {command}: {how}", markup=False, style="red")
        return UserError.exit_status
    except KeyboardInterrupt:
        err.print(f"pplcnet {command}: interrupted", style="red")
        return 130


if __name__ == "__main__":
    sys.exit(main())
