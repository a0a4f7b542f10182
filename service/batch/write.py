"""One table out: every input column with its type, the result columns after them, the same bytes for the same rows."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

from models.text import has_surrogate
from service.batch.files import COMPRESSIONS, Ending
from service.batch.tables import Chunk


class Writer(Protocol):
    """Writes chunks with their results, in order."""

    def write(self, chunk: Chunk, results: Any) -> None:
        """Append rows; `results` is an Arrow table of as many rows. ValueError where they do not fit into this kind of file."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


def open_writer(path: Path, ending: Ending, schema: Any, results: Any) -> Writer:
    """A writer to `path`; `schema` are the input columns, None where each row has its own (JSONL to JSONL)."""
    if ending.kind == ".parquet":
        return _ParquetWriter(path, schema, results)
    return _TextWriter(path, ending, [] if schema is None else schema.names, results.names)


def open_stream(path: Path, compression: str) -> IO[bytes]:
    """`path` for writing, compressed where `compression` says so, without a time in it."""
    stream: Any = pa.OSFile(str(path), "wb")
    if compression:
        stream = pa.CompressedOutputStream(stream, COMPRESSIONS[compression])
    return cast(IO[bytes], io.BufferedWriter(stream, 1 << 20))


def header(ending: Ending, columns: Sequence[str]) -> bytes:
    """The first line of a CSV or TSV file."""
    line = io.StringIO()
    _csv_writer(line, ending).writerow(columns)
    return line.getvalue().encode("utf-8")


def _csv_writer(stream: Any, ending: Ending) -> Any:
    return csv.writer(_Newlines(stream), delimiter="\t" if ending.kind == ".tsv" else ",", lineterminator="\r\n")


class _Newlines:
    """Ends rows with a newline alone: the csv module quotes a cell only for characters of the line end that it knows, and a bare
    carriage return in a cell must be quoted too."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, row: str) -> int:
        return int(self._stream.write(row.removesuffix("\r\n") + "\n"))


class _TextWriter:
    def __init__(self, path: Path, ending: Ending, columns: Sequence[str], results: Sequence[str]) -> None:
        self._json = ending.kind == ".jsonl"
        self._columns = [*columns, *results]
        self._stream = io.TextIOWrapper(open_stream(path, ending.compression), encoding="utf-8", newline="")
        self._csv = _csv_writer(self._stream, ending)
        if not self._json:
            self._csv.writerow(self._columns)

    def write(self, chunk: Chunk, results: Any) -> None:
        for row, answer in zip(chunk.records(), results.to_pylist(), strict=True):
            whole = row | answer
            if self._json:
                plain = {name: _finite(value) for name, value in whole.items()}
                line = json.dumps(plain, ensure_ascii=False, allow_nan=False, default=_plain)
                if has_surrogate(line):  # which can only be written escaped
                    line = json.dumps(plain, allow_nan=False, default=_plain)
                self._stream.write(line + "\n")
            else:
                self._csv.writerow([_cell(whole.get(column)) for column in self._columns])

    def close(self) -> None:
        self._stream.close()


class _ParquetWriter:
    """A row group for each chunk."""

    def __init__(self, path: Path, schema: Any, results: Any) -> None:
        self._input = schema
        self._stream = pa.OSFile(str(path), "wb")
        self._schema = pa.schema([*schema, *results], metadata=schema.metadata)
        self._writer = pq.ParquetWriter(self._stream, self._schema)

    def write(self, chunk: Chunk, results: Any) -> None:
        if chunk.table is not None:
            columns = [_column(chunk.table, field) for field in self._input]
        else:
            columns = [_array([row.get(f.name) for row in chunk.rows], f.type) for f in self._input]
        table = pa.Table.from_arrays([*columns, *results.columns], schema=self._schema)
        self._writer.write_table(table, row_group_size=max(1, len(chunk)))

    def close(self) -> None:
        with self._stream:
            self._writer.close()


def _column(table: Any, field: Any) -> Any:
    """A column of a Parquet input in the type of the whole; one that has it already is left as it is, since Arrow cannot cast every
    slice."""
    if field.name not in table.column_names:
        return pa.nulls(len(table), field.type)
    column = table.column(field.name)
    return column if column.type == field.type else column.cast(field.type)


def _array(values: Sequence[Any], kind: Any) -> Any:
    if pa.types.is_floating(kind):
        values = [None if value is None else _float(value) for value in values]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):  # of several kinds: what is no text becomes JSON
        values = [value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
        try:
            return pa.array(values, kind)
        except UnicodeEncodeError:  # lone surrogates, which no Parquet file can hold
            values = [value and value.encode("utf-8", "backslashreplace").decode() for value in values]
    return pa.array(values, kind)


def _float(value: Any) -> float:
    """`value` as a float; ValueError where that would be another number."""
    found = float(value)
    if isinstance(value, int) and int(found) != value:
        raise ValueError(f"{value} stands in a column with fractions and is too long for one")
    return found


def _finite(value: Any) -> Any:
    """No NaN nor infinity in JSON, however deep."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return {name: _finite(each) for name, each in value.items()} if isinstance(value, dict) else value


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict | list):
        return json.dumps(_finite(value), ensure_ascii=False, default=_plain)
    plain = _plain(value)
    if isinstance(plain, str) and has_surrogate(plain):
        return plain.encode("utf-8", "backslashreplace").decode()
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        raise ValueError("binary columns fit into Parquet alone")
    if value is None or isinstance(value, str | int | float):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
