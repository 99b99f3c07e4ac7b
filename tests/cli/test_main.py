"""Every command has the same shape, every usage error is one line, and every failure has its status."""

from __future__ import annotations

import argparse
import errno
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ppcls_ext import __version__
from ppcls_ext.cli import configs
from ppcls_ext.cli import main as command_line
from ppcls_ext.cli.main import COMMANDS, Command, build_parser, main
from ppcls_ext.core.errors import CheckFailed, UserError
from tests.helpers.help import help_of
from tests.helpers.processes import SECONDS

NAMES = [command.NAME for command in COMMANDS]
METAVARS = {
    *("CONFIG", "FOLDER", "SPACE", "FILE", "IMAGE", "ENGINE", "FORMAT", "NETWORK", "CORE", "KEY=VALUE", "WORD", "HOW"),
    *("N", "N,N", "ENGINE,ENGINE", "HEIGHT", "WIDTH", "SECONDS", "SCORE", "SHARE", "HOST", "MS", "I/N", "ADDRESS"),
}


def usage_error(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The only line that wrong usage prints."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


# Help


def test_the_list_of_commands_has_each_with_its_line() -> None:
    shown = help_of()
    for command in COMMANDS:
        assert f"{command.NAME} {command.HELP}" in shown
        assert "\n" not in command.HELP


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_a_command_says_what_it_does_with_two_examples_that_parse(command: Command) -> None:
    shown = help_of(command.NAME)
    assert " ".join(command.DESCRIPTION.split()) in shown
    assert len(command.EXAMPLES) == 2
    for example in command.EXAMPLES:
        assert example in shown
        program, *arguments = shlex.split(example)
        assert program == "pplcnet"
        parsed = build_parser().parse_args(arguments)
        assert parsed.command == command.NAME


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_flags_are_in_groups_with_help_and_one_vocabulary_of_values(command: Command) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    command.add_arguments(parser)
    assert "options:" not in parser.format_help()  # where argparse puts what has no group
    assert "positional arguments:" not in parser.format_help()
    for action in parser._actions:
        assert action.help
        assert not action.help.endswith(".")
        if action.nargs != 0:
            metavars = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
            assert set(metavars) <= METAVARS


@pytest.mark.slow
def test_the_parser_is_built_without_heavy_imports() -> None:
    heavy = ("paddle", "cv2", "scipy", "matplotlib", "pandas", "sklearn", "psutil")
    code = (
        "import sys; from ppcls_ext.cli.main import build_parser; build_parser(); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stdout.strip() == "[]"


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capfd.readouterr().out == f"pplcnet {__version__}\n"


# Usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pplcnet: a command is missing; known: advise, benchmark, check-data"),
        (["trian"], "pplcnet: no command 'trian'; did you mean 'train'?"),
        (["check_data"], "pplcnet: no command 'check_data'; did you mean 'check-data'?"),
        (["--bogus"], "pplcnet: no flag '--bogus'; did you mean '--debug'?"),
        (["--xyz"], "pplcnet: no flag '--xyz'; known: --debug, --version, -h"),
        (["--debug"], "pplcnet: a command is missing; known: "),
        (["--bogus", "train"], "pplcnet: no flag '--bogus'; "),
        (["train", "--resum"], "pplcnet train: argument --resume: expected one argument"),
        (["train", "--resumed=x"], "pplcnet train: no flag '--resumed'; did you mean '--resume'?"),
        (
            ["eval", "-c", "x", "-w", "x"],
            "pplcnet eval: no flag '-w'; known: -h, -c, -o, --engine, --save-dir, --json, --draw",
        ),
        (["infer", "-m", "x", "photo.jpg"], "pplcnet infer: 'photo.jpg' belongs to no flag"),
        (["eval"], "pplcnet eval: the following arguments are required: -c/--config"),
        (["export", "-c", "x", "--formats", "xml"], "pplcnet export: argument --formats: invalid choice: 'xml'"),
        (["infer", "--threshold", "much"], "pplcnet infer: argument --threshold: expected a number, got 'much'"),
        (["study", "-c", "x", "--seeds", "1.5"], "pplcnet study: argument --seeds: expected a whole number, got '1.5'"),
        (["benchmark", "-m", "x", "--threads", "two"], "argument --threads: expected a whole number, got 'two'"),
        (["benchmark", "-m", "x", "--threads", "a\nb"], "argument --threads: expected a whole number, got 'a b'"),
        (["benchmark", "-m", "x", "--soak", "0"], "argument --soak: expected 1 or more, got 0"),
        (["reproduce", "--tables", "2,x"], "argument --tables: expected a whole number, got 'x'"),
        (["advise", "-m", "", "--latency", "1"], "argument -m/--model: expected a name or path, got ''"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    line = usage_error(arguments, capfd)
    assert message in line
    program = line.partition(":")[0]
    assert line.endswith(f"ee {program} --help")


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_flag_of_any_command_is_one_line(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    required = {
        "advise": ["--latency", "1"],
        "eval": ["-c", "x"],
        "check-data": ["-c", "x"],
        "export": ["-c", "x"],
        "study": ["-c", "x"],
    }
    given = required.get(name, ["-m", "x"] if name in ("benchmark", "serve") else [])
    line = usage_error([name, *given, "--00000"], capfd)
    assert line.startswith(f"pplcnet {name}: no flag '--00000'; known: ")
    assert line.endswith(f"ee pplcnet {name} --help")


def test_flags_may_be_cut_short() -> None:
    assert build_parser().parse_args(["train", "--conf", "x"]).config == "x"


# Failures


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("this is wrong"), 2, "this is wrong"),
        (CheckFailed("this does not hold"), 1, "this does not hold"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), 2, "out/x: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device"),
        (OSError("the stream\n  is broken"), 2, "the stream is broken"),
        (ConnectionResetError(), 2, "ConnectionResetError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_failure_is_one_line_with_its_status(
    error: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: argparse.Namespace) -> int:
        raise error

    fails = SimpleNamespace(
        NAME="fails", HELP="", DESCRIPTION="", EXAMPLES=("", ""), add_arguments=lambda parser: None, run=run
    )
    monkeypatch.setattr(command_line, "COMMANDS", (*COMMANDS, fails))
    assert main(["fails"]) == status
    assert capfd.readouterr().err == f"pplcnet fails: {line}\n"


def test_sigterm_is_one_line_and_what_was_begun_is_put_away(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[str] = []

    def run(arguments: argparse.Namespace) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            events.append("put away")
        return 0

    monkeypatch.setattr(configs, "run", run)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["configs"]) == 128 + signal.SIGTERM
    assert capfd.readouterr().err == "pplcnet configs: ended by SIGTERM\n"
    assert events == ["put away"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_within_a_call_that_makes_another_error_of_it_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: argparse.Namespace) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise SystemError("a result with an exception set") from error
        return 0

    monkeypatch.setattr(configs, "run", run)
    assert main(["configs"]) == 128 + signal.SIGTERM
    assert capfd.readouterr().err == "pplcnet configs: ended by SIGTERM\n"


def test_a_handler_of_sigterm_that_a_command_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of a job waits for its launcher after its own error."""
    before, own = signal.getsignal(signal.SIGTERM), lambda *_: None

    def run(arguments: argparse.Namespace) -> int:
        signal.signal(signal.SIGTERM, own)
        return 0

    monkeypatch.setattr(configs, "run", run)
    try:
        assert main(["configs"]) == 0
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """`pplcnet configs` fails as nobody foresaw; gives the folder of reports."""

    def run(arguments: object) -> int:
        secret = "of a local variable"  # noqa: F841
        raise LookupError("the [/b] of\nall faults")

    monkeypatch.setattr(configs, "run", run)
    monkeypatch.setattr(sys, "argv", ["pplcnet", "configs"])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("API_TOKEN", "of the environment")
    return tmp_path / "pplcnet"


def test_what_nobody_foresaw_is_one_line_and_a_report(broken: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 70
    (line,) = capfd.readouterr().err.splitlines()
    (report,) = broken.iterdir()
    assert line == (
        "pplcnet configs: an error in the program itself (LookupError: the [/b] of\\nall faults); "
        f"report it with {report}"
    )
    text = report.read_text(encoding="utf-8")
    assert report.stat().st_mode & 0o777 == 0o600
    assert "Traceback" in text
    assert "command: pplcnet configs" in text
    assert '"paddlepaddle": "' in text
    assert "of the environment" not in text
    assert "= of a local" not in text


@pytest.mark.parametrize("arguments", [["--debug", "configs"], ["configs", "--debug"]])
def test_debug_shows_the_traceback(arguments: list[str], broken: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 70
    shown = capfd.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.splitlines()[-1].startswith("pplcnet configs: an error in the program itself")


def test_a_report_goes_elsewhere_where_its_folder_cannot_be_made(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["configs"]) == 70
    assert f"report it with {tmp_path}/home/.local/state/pplcnet/crash-" in capfd.readouterr().err


def test_too_little_memory_is_bad_input(
    broken: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    def run(arguments: object) -> int:
        raise MemoryError("Unable to allocate 7 EiB")

    monkeypatch.setattr(configs, "run", run)
    assert "out of memory (Unable to allocate 7 EiB); use smaller images or batches" in fails("configs")
    assert not broken.exists()
