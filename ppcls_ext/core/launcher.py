"""A job of several processes on this machine, that Paddle's launcher starts and that says once why it failed.

What the launcher itself shows of a failure depends on who notices it first: nothing, or the same line twice. So its
output goes to a file, and the log of rank 0 is followed here.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ppcls_ext.core.errors import CheckFailed, PeerLost, UserError

POLL_SECONDS = 0.2


def run_job(processes: int, command: Sequence[str], logs: Path, prefix: str) -> int:
    """Run a command in several processes, and show what the first of them (rank 0) says, on stderr.

    Ctrl-C and SIGTERM are passed on to the processes, which save their state.

    Args:
        command: as `subprocess` takes it.
        logs: folder of the log of each process, `workerlog.RANK`, and of the launcher's, `launcher.log`.
        prefix: what a line begins with in which the command says why it failed.
    Returns:
        exit status: 0, or that of an interrupted job.
    Raises:
        UserError: it failed, for the reason that one of its processes gives.
        CheckFailed: the same with status 1; or no process gives a reason, since one of them was killed.
    """
    logs.mkdir(parents=True, exist_ok=True)
    for log in logs.glob("workerlog.*"):  # the launcher adds to what is there
        log.unlink()
    line = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
    line += ["--log_dir", str(logs), "--log_level", "ERROR", *command]
    with open(logs / "launcher.log", "wb") as output:
        # In a session of its own, so that a Ctrl-C reaches it once.
        launcher = subprocess.Popen(line, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    with _passed_on(launcher) as received:
        _follow(launcher, logs / "workerlog.0", prefix)
    if received:
        return 128 + received[0]
    if launcher.returncode:
        _fail(logs, prefix, launcher.returncode)
    return 0


@contextlib.contextmanager
def _passed_on(launcher: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Passes signals on to a launcher as long as this lasts; gives the numbers of those that came."""
    received: list[int] = []

    def pass_on(number: int, _: object) -> None:
        received.append(number)
        launcher.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _follow(launcher: subprocess.Popen[bytes], log: Path, prefix: str) -> None:
    """Show the lines of a log as they come, until the launcher ends; not those that say why the job failed."""
    shown, ended = 0, False
    while not ended:
        try:
            launcher.wait(POLL_SECONDS)
            ended = True  # the log is read once more
        except subprocess.TimeoutExpired:
            pass
        if not log.exists():
            continue
        with open(log, "rb") as file:
            file.seek(shown)
            new = file.read()
        whole = len(new) if ended else new.rfind(b"\n") + 1
        shown += whole
        for line in new[:whole].decode(errors="replace").splitlines():
            if not line.startswith(prefix):
                print(line, file=sys.stderr, flush=True)


def _fail(logs: Path, prefix: str, status: int) -> None:
    """Raise the reason that the logs give; that a peer is lost is no reason, but what follows from one."""
    for log in sorted(logs.glob("workerlog.*")):
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith(prefix) and PeerLost.BEGINNING not in line:
                failure = CheckFailed if status == CheckFailed.exit_status else UserError
                raise failure(line.removeprefix(prefix))
    raise CheckFailed(
        f"a process of this job ended without a reason, as one that is killed does (often for memory); {logs} has the "
        "logs. The state saved last is whole: start the job again with --resume and the run folder"
    )
