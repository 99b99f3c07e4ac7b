"""The command line: `pplcnet COMMAND`, and the same as `tools/*.py`.

Every command is a module of this package with the attributes of `Command`. A new one is a new file and its name in
`COMMANDS`. Exit status: 0 done, 1 a check failed, 2 bad input or usage, 70 an error that nobody foresaw, 130 or 143
interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn, Protocol

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
from ppcls_ext.cli.crash import EXIT_STATUS, save_report
from ppcls_ext.core.display import complain, shown_log
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
        complain(f"{self.prog}: {text}{see} {self.prog} --help")
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
    _add_debug(parser)
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
        _add_debug(own[command.NAME])
        own[command.NAME].set_defaults(run=command.run)
    return parser, own


def _add_debug(parser: argparse.ArgumentParser) -> None:
    # Without a default of its own, so that the parser of a command does not undo what stands before the command.
    help_text = "after an error, show the traceback too"
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=help_text)


def _parse(given: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line; whatever is wrong with it ends the process with one line and status 2."""
    parser, own = _parsers()
    if not given:
        parser.error(f"a command is missing; {nearest('', own)}")
    first = next((word for word in given if word != "--debug"), "--debug")
    if not first.startswith("-") and first not in own:
        parser.error(f"no command '{first}'; {nearest(first, own)}")
    if first == "--debug":
        parser.error(f"a command is missing; {nearest('', own)}")
    arguments, unknown = parser.parse_known_args(given)
    if unknown:
        at_fault = own.get(first, parser)
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
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
    except SystemExit as end:  # after --help and --version, too
        end.code = _flushed("", end.code)
        raise
    sigterm = Sigterm()
    try:
        with shown_log(), sigterm:
            return int(_flushed(f" {arguments.command}", arguments.run(arguments)))
    except BrokenPipeError:  # the reader of our output went away, such as `| head`
        sys.stderr.close()
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if getattr(arguments, "debug", False):
            traceback.print_exc()
        # What was raised within a call of Paddle's comes out as another error.
        text, status = _explained(Terminated() if sigterm.came else error)
        complain(f"pplcnet {arguments.command}: {text}")
        _drop_what_cannot_be_written()
        if isinstance(error, PeerLost):
            from ppcls_ext.core.distributed import wait_for_launcher

            wait_for_launcher()
        return status


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


class Sigterm:
    """While entered, SIGTERM lets a command put away what it has begun, such as processes; a second one is at once.

    Attributes:
        came: whether there was one.
    """

    def __init__(self) -> None:
        self.came = False
        self._main = threading.current_thread() is threading.main_thread()  # other threads may not set a handler
        self._before: Any = None

    def _end(self, number: int, frame: FrameType | None) -> NoReturn:
        self.came = True
        signal.signal(number, signal.SIG_DFL)
        raise Terminated

    def __enter__(self) -> None:
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._end)

    def __exit__(self, *_: object) -> None:
        if self._main and (self.came or signal.getsignal(signal.SIGTERM) == self._end):  # else a job has its own
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)


def _flushed(command: str, status: Any) -> Any:
    """The exit status, once what was written to stdout is out: Python itself would say in two lines that it is not."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of it went away, such as `| head`
        _drop_what_cannot_be_written()
    except OSError as error:
        complain(f"pplcnet{command}: standard output: {error.strerror}; nothing more can be written there")
        _drop_what_cannot_be_written()
        return UserError.exit_status
    return status


def _drop_what_cannot_be_written() -> None:
    """Python writes the rest of stdout when it ends, and says in two lines of its own where it cannot."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explained(error: BaseException) -> tuple[str, int]:
    """The line about what ended a command, and the exit status."""
    if isinstance(error, (UserError, CheckFailed)):
        return str(error), error.exit_status
    if isinstance(error, Terminated):
        return "ended by SIGTERM", 143
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, OSError):
        return _place_and_reason(error), UserError.exit_status
    if isinstance(error, MemoryError):
        what = " ".join(str(error).split())[:200]
        return f"out of memory ({what or 'no more is free'}); use smaller images or batches", UserError.exit_status
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package not in ("", "ppcls_ext", "det", "seg"):  # if it is ours, the installation is broken
            how = f"needs the package {package}; python -m pip install 'pplcnet[train]', or use the lock"
            return how, UserError.exit_status
    report = save_report(error)
    kept = f"report it with {report}" if report else "no place could be written for a report; --debug shows all of it"
    return f"an error in the program itself ({type(error).__name__}: {str(error)[:300]}); {kept}", EXIT_STATUS


if __name__ == "__main__":
    sys.exit(main())
