"""Results as rows of CSV, JSON lines or Parquet, encoded one after the other, so that memory stays bounded."""

from __future__ import annotations

import abc
import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.files import atomic_write, put_in_place
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.results import Result

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP = 65536  # rows of a Parquet file that are read at once


class Encoder(abc.ABC):
    """Results as bytes that are appended to a file.

    Args:
        inference: whose results they are; it names the columns.
    """

    def __init__(self, inference: Inference) -> None:
        self.columns = ("image", *inference.columns, "error")
        self.types: tuple[type, ...] = (str, *inference.column_types, str)

    @abc.abstractmethod
    def begin(self) -> bytes:
        """What stands before the first result."""

    @abc.abstractmethod
    def add(self, result: Result) -> None:
        """Take a result."""

    @abc.abstractmethod
    def drain(self) -> bytes:
        """The results that were added since the last call."""

    def complete(self, part: Path, target: Path) -> None:
        """Make the file that was asked for from what was appended, which then is gone."""
        put_in_place(part, target)

    def rows(self, result: Result) -> list[tuple[Any, ...]]:
        """What was found in an image, a row each. Every image has at least one: it names the error, or has nothing
        between the image and the error where nothing was found."""
        found = result.rows() if result.ok else []
        rows = found or [(None,) * (len(self.columns) - 2)]
        return [(result.source, *row, result.error) for row in rows]


class CsvEncoder(Encoder):
    """Comma-separated values under a line of names."""

    def __init__(self, inference: Inference) -> None:
        super().__init__(inference)
        self._lines = io.StringIO()
        self._writer = csv.writer(self._lines, lineterminator="\n")

    def begin(self) -> bytes:
        """The names of the columns."""
        self._writer.writerow(self.columns)
        return self.drain()

    def add(self, result: Result) -> None:
        """Take a result."""
        self._writer.writerows(self.rows(result))

    def drain(self) -> bytes:
        """The lines since the last call."""
        text = self._lines.getvalue()
        self._lines.seek(0)
        self._lines.truncate()
        return text.encode("utf-8", "surrogateescape")  # names of files are whatever bytes they are


class JsonLinesEncoder(Encoder):
    """A JSON object a line, one for each image."""

    def __init__(self, inference: Inference) -> None:
        super().__init__(inference)
        self._lines: list[str] = []

    def begin(self) -> bytes:
        """Nothing: a line names its values."""
        return b""

    def add(self, result: Result) -> None:
        """Take a result."""
        content = result.content() if result.ok else {}
        line = {"image": result.source, "error": result.error, **content}
        self._lines.append(json.dumps(line, ensure_ascii=False) + "\n")

    def drain(self) -> bytes:
        """The lines since the last call."""
        text = "".join(self._lines)
        self._lines.clear()
        return text.encode("utf-8", "backslashreplace")  # an escape of JSON for a byte that is no UTF-8


class ParquetEncoder(Encoder):
    """Parquet, with the columns of CSV.

    A Parquet file has its index at its end, so that nothing can be appended after a crash. Until the last result is
    there, the rows are an Arrow stream, which can be cut anywhere between two batches.
    """

    def __init__(self, inference: Inference) -> None:
        super().__init__(inference)
        try:
            import pyarrow
        except ImportError:
            raise UserError(
                "infer --format parquet needs pyarrow; python -m pip install 'pplcnet[parquet]', or take --format jsonl"
            ) from None
        self._arrow = pyarrow
        kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
        named = zip(self.columns, self.types, strict=True)
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in named])
        self._rows: list[tuple[Any, ...]] = []

    @property
    def waiting(self) -> int:
        """Rows that were added since the last batch."""
        return len(self._rows)

    def begin(self) -> bytes:
        """The names and types of the columns."""
        return self._schema.serialize().to_pybytes()

    def add(self, result: Result) -> None:
        """Take a result."""
        self._rows += self.rows(result)

    def drain(self) -> bytes:
        """The rows since the last call, as one batch of an Arrow stream."""
        return self.batch().serialize().to_pybytes() if self._rows else b""

    def batch(self) -> pyarrow.RecordBatch:
        """The rows since the last call."""
        by_column = zip(*self._rows, strict=True) if self._rows else [()] * len(self.columns)
        columns = [[_utf8(value) for value in column] for column in by_column]
        self._rows.clear()
        arrays = [self._arrow.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        return self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema)

    def complete(self, part: Path, target: Path) -> None:
        """Write the Parquet file from the Arrow stream."""
        atomic_write(target, lambda temporary: self._write_parquet(part, temporary), f"{part.name}.tmp")
        part.unlink()

    def _write_parquet(self, part: Path, file: Path) -> None:
        from pyarrow import parquet

        with self._arrow.ipc.open_stream(part) as stream, parquet.ParquetWriter(file, self._schema) as writer:
            waiting: list[Any] = []
            for batch in stream:
                waiting.append(batch)
                if sum(len(each) for each in waiting) >= ROW_GROUP:
                    writer.write_table(self._arrow.Table.from_batches(waiting))
                    waiting.clear()
            if waiting:
                writer.write_table(self._arrow.Table.from_batches(waiting))


def _utf8(value: Any) -> Any:
    """A text in which bytes of a file's name that are no UTF-8 are escaped; other values as they are."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


ENCODERS: dict[str, type[Encoder]] = {"csv": CsvEncoder, "jsonl": JsonLinesEncoder, "parquet": ParquetEncoder}
