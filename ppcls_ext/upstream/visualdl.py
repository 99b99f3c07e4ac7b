"""Workarounds for VisualDL, which draws the curves of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppcls_ext.upstream.imports import quiet_import


class _NoScalars:
    """Takes what a LogWriter takes, and writes nothing; VisualDL's own way to do so, `write_to_disk`, fails."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def scalars_writer(folder: str, failed: Callable[[OSError], None]) -> Any:
    """A LogWriter whose training goes on where its file cannot be written.

    VisualDL 2.5.3 writes in a thread, which a failed flush (a full disk) ends with a traceback; the training then waits
    for ever to hand it the next value, or for its end. Can go when `_AsyncWriterThread.run` catches what flush raises.

    Args:
        failed: told the first error; what comes after it is not written, nor told.
    """
    with quiet_import():
        from visualdl import LogWriter
        from visualdl.writer import record_writer

    original = record_writer.RecordWriter

    class Tolerant(original):  # type: ignore[misc, valid-type]
        failure: OSError | None = None

        def write(self, data: bytes) -> None:
            self._tried(super().write, data)

        def flush(self) -> None:
            self._tried(super().flush)

        def close(self) -> None:
            self._tried(super().close)

        def _tried(self, step: Callable[..., None], *arguments: Any) -> None:
            if self.failure is not None:
                return
            try:
                step(*arguments)
            except OSError as error:
                self.failure = error
                failed(error)

    record_writer.RecordWriter = Tolerant
    try:
        return LogWriter(logdir=folder)
    except OSError as error:  # the folder cannot be made
        failed(error)
        return _NoScalars()
    finally:
        record_writer.RecordWriter = original
