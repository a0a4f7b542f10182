"""Tables in chunks: CSV, TSV, JSONL and Parquet read in constant memory, no row ever dropped.

A line that is no row of its table stays one: its column of texts holds the line as it was and `faults` says what is wrong with it,
`not_utf8` (bytes shown as \\xNN), `not_csv`, `wrong_cells`, `not_json` or `not_object`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import UsageError
from models.text import has_surrogate
from service.batch.columns import merge, wider
from service.batch.files import Source
from service.batch.text_rows import CsvRows, JsonlRows, Lines, Mark

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Extent:
    """What a file holds: how many rows, their columns with a type each (None: of JSON, whatever a row has), and the place of every
    `step`-th row; `names` are the columns of any row."""

    rows: int
    schema: Any
    marks: tuple[Mark, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows: of text tables as dictionaries, with their lines and the faults by place in the chunk; of Parquet as `table`."""

    lines: Sequence[int]
    rows: Sequence[dict[str, Any]] = ()
    faults: dict[int, str] = field(default_factory=dict)
    table: Any = None

    def __len__(self) -> int:
        return len(self.lines)

    def texts(self, column: str) -> list[Any]:
        """The values of `column`, nothing but None where there is no such."""
        if self.table is not None and column not in self.table.column_names:
            return [None] * len(self)
        if self.table is not None:
            return list(self.table.column(column).to_pylist())
        return [row.get(column) for row in self.rows]

    def records(self) -> Sequence[dict[str, Any]]:
        """The rows as dictionaries, whatever they came from."""
        return self.rows if self.table is None else self.table.to_pylist()


@contextmanager
def _said(source: Source) -> Iterator[None]:
    """What Arrow and the operating system say of a damaged file, as a UsageError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        kind, said = source.ending.kind.removeprefix(".").upper(), str(error).splitlines()[0]
        raise UsageError(
            f"{source.shown} cannot be read as {kind} ({said}). Give a whole file, or the extension of what it is."
        ) from error


def scan(source: Source, text_column: str, step: int, *, typed: bool) -> Extent:
    """Read `source` once, without keeping it; with `typed` the columns of JSON and their types too.

    UsageError where the file or its column of texts cannot be used.
    """
    with _said(source):
        if source.ending.kind == ".parquet":
            return _scan_parquet(source, text_column, step)
        rows, marks = 0, []
        names: dict[str, None] = {}
        types: dict[str, Any] = {}
        batch: list[dict[str, Any]] = []
        with source.open() as stream:
            table = _open(source, stream, text_column)
            for row, fault in table:
                if rows % step == 0:
                    marks.append(Mark(rows, table.line, table.byte))
                rows += 1
                names.update(dict.fromkeys(row))
                if typed and fault is None and source.ending.kind == ".jsonl":
                    batch.append(row)
                    if len(batch) == 1000:
                        merge(types, batch)
                        batch = []
            merge(types, batch)
            if typed and (unwritable := [name for name in names if has_surrogate(name)]):
                raise UsageError(f"{source.shown} has a key {unwritable[0]!a}, which no table can hold. Rename it.")
            if text_column in types:  # which takes lines that are no rows too
                types[text_column] = wider(types[text_column], pa.string())
        if isinstance(table, JsonlRows):
            schema = pa.schema(list(({text_column: pa.string()} | types).items())) if typed else None
        else:
            schema = pa.schema([(name, pa.string()) for name in table.columns])
            _require(source, text_column, table.columns)
        return Extent(rows, schema, tuple(marks), tuple(names) if schema is None else tuple(schema.names))


class Reader:
    """Reads rows of files from any place on.

    The last text table stays open, so that one that is read in order is read once even where it is compressed.
    """

    def __init__(self, text_column: str) -> None:
        self._text_column = text_column
        self._source: Source | None = None
        self._stream: IO[bytes] | None = None
        self._table: JsonlRows | CsvRows | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file that is open."""
        if self._stream is not None:
            self._stream.close()
        self._source = self._stream = self._table = None

    def chunks(self, source: Source, start: Mark, rows: int, size: int) -> Iterator[Chunk]:
        """`rows` rows of `source` from `start` on, in chunks of `size`."""
        with _said(source):
            if source.ending.kind == ".parquet":
                yield from _read_parquet(source, start.row, rows, size)
                return
            table = self._at(source, start)
            while rows:
                lines: list[int] = []
                kept: list[dict[str, Any]] = []
                faults: dict[int, str] = {}
                for row, fault in islice(table, min(size, rows)):
                    if fault is not None:
                        faults[len(kept)] = fault
                    lines.append(table.line)
                    kept.append(row)
                if not kept:
                    raise UsageError(f"{source.shown} became shorter while it was read. Leave it alone, and run the job again.")
                rows -= len(kept)
                yield Chunk(lines, kept, faults)

    def _at(self, source: Source, start: Mark) -> JsonlRows | CsvRows:
        if self._source is source and self._table is not None and self._table.seek(start):
            return self._table
        self.close()
        self._stream = source.open()
        self._table = _open(source, self._stream, self._text_column)
        self._source = source
        self._table.seek(start)
        return self._table


def read_rows(source: Source, text_column: str) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """Every row of a file with its line (row number in Parquet), and what is wrong with it, if anything is."""
    extent = scan(source, text_column, 1 << 62, typed=False)
    with Reader(text_column) as reader:
        for mark in extent.marks:
            for chunk in reader.chunks(source, mark, extent.rows, _ROWS_AT_ONCE):
                for place, (line, row) in enumerate(zip(chunk.lines, chunk.records(), strict=True)):
                    yield line, row, chunk.faults.get(place)


def _open(source: Source, stream: IO[bytes], text_column: str) -> JsonlRows | CsvRows:
    lines = Lines(stream, source.shown)
    if source.ending.kind == ".jsonl":
        return JsonlRows(lines, text_column)
    return CsvRows(lines, text_column, _DELIMITERS[source.ending.kind], source.shown)


def _require(source: Source, text_column: str, columns: Sequence[str]) -> None:
    if text_column not in columns:
        raise UsageError(
            f"{source.shown} has no column {text_column!r}. Name the column that holds the text; there are: {', '.join(columns)}."
        )


def _scan_parquet(source: Source, text_column: str, step: int) -> Extent:
    with source.open_table() as stream, pq.ParquetFile(stream) as file:
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise UsageError(f"{source.shown}: two columns have the same name. Rename one of them.")
        _require(source, text_column, names)
        rows = file.metadata.num_rows
        marks = tuple(Mark(row, row + 1, 0) for row in range(0, rows, step))
        return Extent(rows, file.schema_arrow, marks, tuple(names))


def _read_parquet(source: Source, start: int, rows: int, size: int) -> Iterator[Chunk]:
    """Rows from `start` on; the groups before it are not read. Chunks are cut from `start`, whatever the groups are."""
    with source.open_table() as stream, pq.ParquetFile(stream) as file:
        skip, group = start, 0
        while skip >= file.metadata.row_group(group).num_rows:
            skip -= file.metadata.row_group(group).num_rows
            group += 1
        parts: list[Any] = []
        ready, at = 0, start
        for batch in file.iter_batches(batch_size=size, row_groups=list(range(group, file.metadata.num_row_groups))):
            part = batch.slice(min(skip, len(batch)))
            skip -= len(batch) - len(part)
            part = part.slice(0, rows - (at - start) - ready)
            parts.append(part)
            ready += len(part)
            while ready >= size or (ready and at - start + ready == rows):
                table = pa.Table.from_batches(parts).combine_chunks()
                head, rest = table.slice(0, size), table.slice(size)
                yield Chunk(range(at + 1, at + 1 + len(head)), table=head)
                at += len(head)
                ready -= len(head)
                parts = rest.to_batches()
            if at - start == rows:
                return
