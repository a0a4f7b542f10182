"""Tables in chunks: reading and writing CSV, TSV, JSONL and Parquet in constant memory, every value as it was."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import UsageError
from models.text import has_surrogate

CHUNK_ROWS = 2000
KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
CELL_CHARACTERS = 2**31 - 1  # the csv module's own limit of 131,072 would refuse cells that should become `too_long`


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows and their lines in the input (row numbers in Parquet); `table` is what Parquet held."""

    columns: list[str]
    lines: Sequence[int]
    rows: Sequence[dict[str, Any]]
    table: pa.Table | None = None

    def texts(self, column: str) -> list[Any]:
        if self.table is not None:
            return list(self.table.column(column).to_pylist())
        return [row.get(column) for row in self.rows]


def read_chunks(source: Path) -> Iterator[Chunk]:
    """Chunks of at most CHUNK_ROWS rows; UsageError names the file and line that cannot be read."""
    """The chunks of `source`, at least one."""
    kind = source.suffix.lower()
    if kind == ".parquet":
        return _read_parquet(source)
    return _read_jsonl(source) if kind == ".jsonl" else _read_table(source, "," if kind == ".csv" else "\t")


def _lines(source: Path) -> Iterator[str]:
    with source.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(f"{source}:{number}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error


def _read_table(source: Path, delimiter: str) -> Iterator[Chunk]:
    reader = csv.reader(_lines(source), delimiter=delimiter, strict=True)
    columns: list[str] = []
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    line = 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not columns:
                columns = cells
                if len(set(columns)) < len(columns):
                    raise UsageError(f"{source}:{start}: two columns have the same name. Rename one of them.")
            elif cells:
                if len(cells) != len(columns):
                    raise UsageError(
                        f"{source}:{start}: {len(cells)} cells, not {len(columns)}. Quote cells that hold the delimiter."
                    )
                lines.append(start)
                rows.append(dict(zip(columns, cells, strict=True)))
                if len(rows) == CHUNK_ROWS:
                    yield Chunk(columns, lines, rows)
                    lines, rows = [], []
    except csv.Error as error:
        raise UsageError(f"{source}:{line}: {error}. Quote cells that hold quotes, and double those.") from error
    if not columns:
        raise UsageError(f"{source} is empty. Give a file whose first line names the columns.")
    yield Chunk(columns, lines, rows)


def _read_jsonl(source: Path) -> Iterator[Chunk]:
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(source), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{source}:{number}: not JSON ({error}). Write one JSON object on each line.") from error
        if not isinstance(row, dict):
            raise UsageError(f"{source}:{number}: not a JSON object. Write one JSON object on each line.")
        lines.append(number)
        rows.append(row)
        if len(rows) == CHUNK_ROWS:
            yield Chunk(list(dict.fromkeys(name for row in rows for name in row)), lines, rows)
            lines, rows = [], []
    yield Chunk(list(dict.fromkeys(name for row in rows for name in row)), lines, rows)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def open_parquet(source: Path) -> Any:
    """A ParquetFile; UsageError where `source` is none."""
    try:
        return pq.ParquetFile(source)
    except pa.ArrowException as error:
        raise UsageError(f"{source} is not a Parquet file. Give a whole file, or the extension of what it is.") from error


def _read_parquet(source: Path) -> Iterator[Chunk]:
    with open_parquet(source) as file:
        schema, row = file.schema_arrow, 1
        if len(set(schema.names)) < len(schema.names):
            raise UsageError(f"{source}: two columns have the same name. Rename one of them.")
        for batch in file.iter_batches(batch_size=CHUNK_ROWS):
            yield Chunk(schema.names, range(row, row + len(batch)), (), pa.Table.from_batches([batch]))
            row += len(batch)
        if row == 1:
            yield Chunk(schema.names, (), (), schema.empty_table())


class TextWriter:
    """Writes CSV, TSV or JSONL; a table's columns are those of the first chunk."""

    def __init__(self, target: Path, staging: Path, first: Chunk, results: pa.Schema) -> None:
        self._json = target.suffix.lower() == ".jsonl"
        self._columns = [*first.columns, *results.names]
        self._stream = staging.open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._stream, delimiter="\t" if target.suffix.lower() == ".tsv" else ",", lineterminator="\n")
        if not self._json:
            self._csv.writerow(self._columns)

    def write(self, chunk: Chunk, answers: Sequence[dict[str, Any]]) -> None:
        rows = chunk.table.to_pylist() if chunk.table is not None else chunk.rows
        for row, answer in zip(rows, answers, strict=True):
            whole = {
                name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()
            } | answer  # no NaN in JSON
            if self._json:
                line = json.dumps(whole, ensure_ascii=False, allow_nan=False, default=_plain)
                if has_surrogate(line):  # which can only be written escaped
                    line = json.dumps(whole, default=_plain)
                self._stream.write(line + "\n")
            else:
                self._csv.writerow([_cell(whole.get(column)) for column in self._columns])

    def close(self) -> None:
        self._stream.close()


class ParquetWriter:
    """Writes Parquet: a Parquet input keeps its types, a table's cells are strings, JSON is typed by its first chunk."""

    def __init__(self, target: Path, staging: Path, first: Chunk, results: pa.Schema) -> None:
        self._results = results
        schema = (
            first.table.schema
            if first.table is not None
            else pa.schema([(name, _arrow_type([row.get(name) for row in first.rows])) for name in first.columns])
        )
        self._input = schema
        self._writer = pq.ParquetWriter(staging, pa.schema([*schema, *results], metadata=schema.metadata))

    def write(self, chunk: Chunk, answers: Sequence[dict[str, Any]]) -> None:
        table = chunk.table
        if table is None:
            columns = []
            for field in self._input:
                values = [row.get(field.name) for row in chunk.rows]
                if field.type == pa.string():
                    values = [json.dumps(value) if isinstance(value, dict | list) else value for value in values]
                columns.append(pa.array(values, field.type))
            table = pa.table(columns, schema=self._input)
        for field in self._results:
            table = table.append_column(field, pa.array([answer[field.name] for answer in answers], field.type))
        self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()


def _arrow_type(values: Sequence[Any]) -> Any:
    if any(isinstance(value, dict) or (isinstance(value, list) and "{" in json.dumps(value)) for value in values):
        return pa.string()  # objects become JSON: a struct would lose the keys that only later rows have
    kind = pa.array(values).type
    if pa.types.is_list(kind) and pa.types.is_null(kind.value_type):
        return pa.list_(pa.string())
    return pa.string() if pa.types.is_null(kind) else kind


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False, default=_plain) if isinstance(value, dict | list) else _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        raise ValueError("binary columns fit into Parquet alone")
    if value is None or isinstance(value, str | int | float):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
