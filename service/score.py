"""A table of texts in, the same table with answers out, in constant memory.

`score_file` keeps every row and every input column, in order, and adds the result columns: `stance_label`, `stance_score`,
`stance_confident`, `stance_p_LABEL` for each label, `stance_truncated`, `stance_error` and `stance_model`. A row that cannot be
classified stays, with nothing but `stance_error`: `empty` (nothing there), `not_text` (no string, or one that holds a lone
surrogate) or `too_long`. The output is whole or not there: it is written beside its place, synced and renamed.
"""

import csv
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from models.classifier import Classifier
from models.errors import UsageError
from models.text import has_surrogate, normalise

CHUNK_ROWS = 2000
KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
_CELL_CHARACTERS = 2**31 - 1  # the csv module's own limit of 131,072 would refuse cells that should become `too_long`


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What was written: rows, rows by label, rows that are not confident, rows by error, wall time."""

    rows: int
    labels: dict[str, int]
    not_confident: int
    errors: dict[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some rows and their lines in the input (row numbers in Parquet); `table` is what Parquet held."""

    columns: list[str]
    lines: Sequence[int]
    rows: Sequence[dict[str, Any]]
    table: pa.Table | None = None

    def texts(self, column: str) -> list[Any]:
        if self.table is not None:
            return list(self.table.column(column).to_pylist())
        return [row.get(column) for row in self.rows]


def score_file(
    source: Path,
    target: Path,
    classifier: Classifier,
    *,
    text_column: str = "text",
    progress: bool = True,
    max_characters: int = 5000,
    overwrite: bool = False,
) -> ScoreSummary:
    """Score the column `text_column` of `source` into `target`; CSV, TSV, JSONL and Parquet, told by extension, in any mix.

    UsageError, with nothing written, where a file, a column or a line is not usable. Progress goes to standard error.
    """
    started = time.monotonic()
    _check_paths(source, target, overwrite)
    results = _result_schema(classifier)
    labels: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    rows = not_confident = 0
    kind = _ParquetWriter if target.suffix.lower() == ".parquet" else _TextWriter
    known: set[str] | None = None
    open_ended = target.suffix.lower() == ".jsonl"
    total = None if source.suffix.lower() != ".parquet" else _open_parquet(source).metadata.num_rows
    staging = _stage(target)
    cell_limit = csv.field_size_limit(_CELL_CHARACTERS)
    try:
        with tqdm(total=total, unit=" rows", file=sys.stderr, disable=not progress) as bar:
            writer: _TextWriter | _ParquetWriter | None = None
            try:
                for chunk in _read(source):
                    _check_columns(source, chunk, text_column, results.names, known)
                    if known is not None and not open_ended:
                        _check_late(source, chunk, known)
                    answers = _answer(classifier, chunk.texts(text_column), max_characters, results.names)
                    try:
                        writer = writer or kind(target, staging, chunk, results)
                        writer.write(chunk, answers)
                    except (ValueError, TypeError, OverflowError) as error:  # so Arrow and the codecs say what does not fit
                        raise UsageError(_unfit(source, chunk, target, error)) from error
                    known = set(chunk.columns) if known is None else known
                    rows += len(answers)
                    labels.update(answer["stance_label"] for answer in answers if answer["stance_label"] is not None)
                    errors.update(answer["stance_error"] for answer in answers if answer["stance_error"] is not None)
                    not_confident += sum(answer["stance_confident"] is False for answer in answers)
                    bar.update(len(answers))
            finally:
                if writer is not None:
                    writer.close()
        _publish(staging, target, overwrite)
    except OSError as error:
        raise UsageError(f"{source} to {target}: {error.strerror or error}. Make room, or use another place.") from error
    finally:
        csv.field_size_limit(cell_limit)
        staging.unlink(missing_ok=True)
    return ScoreSummary(rows, dict(labels), not_confident, dict(errors), time.monotonic() - started)


def _check_paths(source: Path, target: Path, overwrite: bool) -> None:
    for path in (source, target):
        if path.suffix.lower() not in KINDS:
            raise UsageError(f"{path}: the kind of file is told by its extension. Use one of {', '.join(KINDS)}.")
    if not source.is_file():
        raise UsageError(f"{source}: there is no such file. Check the path.")
    if not os.access(source, os.R_OK):
        raise UsageError(f"{source} may not be read. Change its permissions or give another file.")
    if target.exists() and (not target.is_file() or target.samefile(source)):
        raise UsageError(f"{target} is the input or not a regular file. Choose another output file.")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists. Choose another output file, or allow overwriting.")


def _stage(target: Path) -> Path:
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise UsageError(f"cannot write to the folder {target.parent} ({error.strerror}). Choose another folder.") from error
    os.close(descriptor)
    return Path(name)


def _publish(staging: Path, target: Path, overwrite: bool) -> None:
    staging.chmod(0o644)
    for path in (staging, target.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if target.exists() and not overwrite:
        raise UsageError(f"{target} was made meanwhile. Choose another output file, or allow overwriting.")
    staging.replace(target)


def _result_schema(classifier: Classifier) -> pa.Schema:
    number = [(f"stance_p_{label}", pa.float64()) for label in classifier.label_set.labels]
    head = [("stance_label", pa.string()), ("stance_score", pa.float64()), ("stance_confident", pa.bool_())]
    tail = [("stance_truncated", pa.bool_()), ("stance_error", pa.string()), ("stance_model", pa.string())]
    return pa.schema([*head, *number, *tail])


def _check_columns(source: Path, chunk: _Chunk, text: str, results: Sequence[str], known: set[str] | None) -> None:
    if taken := [column for column in chunk.columns if column in results]:
        raise UsageError(f"{source} has a column {taken[0]!r} already. Rename it, or score the file it came from.")
    if text not in chunk.columns and chunk.columns and known is None:
        listed = ", ".join(chunk.columns)
        raise UsageError(f"{source} has no column {text!r}. Name the column that holds the text; there are: {listed}.")


def _check_late(source: Path, chunk: _Chunk, known: set[str]) -> None:
    if new := [column for column in chunk.columns if column not in known]:
        line = next(line for line, row in zip(chunk.lines, chunk.rows, strict=True) if new[0] in row)
        raise UsageError(f"{source}:{line}: {new[0]!r} is not a key of the first {CHUNK_ROWS} rows. Write .jsonl instead.")


def _unfit(source: Path, chunk: _Chunk, target: Path, error: Exception) -> str:
    where = f"{source}:{chunk.lines[0] if chunk.lines else 1}"
    return f"{where} and the rows after it do not fit into {target.suffix} ({error}). Write another kind of file."


def _answer(classifier: Classifier, texts: Sequence[Any], max_characters: int, names: Sequence[str]) -> list[dict[str, Any]]:
    faults = [_fault(text, max_characters) for text in texts]
    unique = list(dict.fromkeys(text for text, fault in zip(texts, faults, strict=True) if fault is None))
    found = dict(zip(unique, classifier.classify(unique), strict=True)) if unique else {}
    model = classifier.bundle.id[:12]
    answers = []
    for text, fault in zip(texts, faults, strict=True):
        answer: dict[str, Any] = dict.fromkeys(names) | {"stance_error": fault, "stance_model": model}
        if fault is None:
            prediction = found[text]
            answer |= {
                "stance_label": prediction.label,
                "stance_score": prediction.score,
                "stance_confident": prediction.confident,
                "stance_truncated": prediction.truncated,
            } | {f"stance_p_{label}": value for label, value in prediction.probabilities.items()}
        answers.append(answer)
    return answers


def _fault(text: Any, max_characters: int) -> str | None:
    if text is None:
        return "empty"
    if not isinstance(text, str) or has_surrogate(text):
        return "not_text"
    if len(text) > max_characters:
        return "too_long"
    return None if normalise(text) else "empty"


def _read(source: Path) -> Iterator[_Chunk]:
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


def _read_table(source: Path, delimiter: str) -> Iterator[_Chunk]:
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
                    yield _Chunk(columns, lines, rows)
                    lines, rows = [], []
    except csv.Error as error:
        raise UsageError(f"{source}:{line}: {error}. Quote cells that hold quotes, and double those.") from error
    if not columns:
        raise UsageError(f"{source} is empty. Give a file whose first line names the columns.")
    yield _Chunk(columns, lines, rows)


def _read_jsonl(source: Path) -> Iterator[_Chunk]:
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
            yield _Chunk(list(dict.fromkeys(name for row in rows for name in row)), lines, rows)
            lines, rows = [], []
    yield _Chunk(list(dict.fromkeys(name for row in rows for name in row)), lines, rows)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _open_parquet(source: Path) -> Any:
    try:
        return pq.ParquetFile(source)
    except pa.ArrowException as error:
        raise UsageError(f"{source} is not a Parquet file. Give a whole file, or the extension of what it is.") from error


def _read_parquet(source: Path) -> Iterator[_Chunk]:
    with _open_parquet(source) as file:
        schema, row = file.schema_arrow, 1
        if len(set(schema.names)) < len(schema.names):
            raise UsageError(f"{source}: two columns have the same name. Rename one of them.")
        for batch in file.iter_batches(batch_size=CHUNK_ROWS):
            yield _Chunk(schema.names, range(row, row + len(batch)), (), pa.Table.from_batches([batch]))
            row += len(batch)
        if row == 1:
            yield _Chunk(schema.names, (), (), schema.empty_table())


class _TextWriter:
    """Writes CSV, TSV or JSONL; a table's columns are those of the first chunk."""

    def __init__(self, target: Path, staging: Path, first: _Chunk, results: pa.Schema) -> None:
        self._json = target.suffix.lower() == ".jsonl"
        self._columns = [*first.columns, *results.names]
        self._stream = staging.open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._stream, delimiter="\t" if target.suffix.lower() == ".tsv" else ",", lineterminator="\n")
        if not self._json:
            self._csv.writerow(self._columns)

    def write(self, chunk: _Chunk, answers: Sequence[dict[str, Any]]) -> None:
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


class _ParquetWriter:
    """Writes Parquet: a Parquet input keeps its types, a table's cells are strings, JSON is typed by its first chunk."""

    def __init__(self, target: Path, staging: Path, first: _Chunk, results: pa.Schema) -> None:
        self._results = results
        schema = (
            first.table.schema
            if first.table is not None
            else pa.schema([(name, _arrow_type([row.get(name) for row in first.rows])) for name in first.columns])
        )
        self._input = schema
        self._writer = pq.ParquetWriter(staging, pa.schema([*schema, *results], metadata=schema.metadata))

    def write(self, chunk: _Chunk, answers: Sequence[dict[str, Any]]) -> None:
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
