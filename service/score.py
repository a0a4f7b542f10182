"""A table of texts in, the same table with answers out, in constant memory.

`score_file` keeps every row and every input column, in order, and adds the result columns: `stance_label`, `stance_score`,
`stance_confident`, `stance_p_LABEL` for each label, `stance_truncated`, `stance_error` and `stance_model`. A row that cannot be
classified stays, with nothing but `stance_error`: `empty` (nothing there), `not_text` (no string, or one that holds a lone
surrogate) or `too_long`. The output is whole or not there: it is written beside its place, synced and renamed.
"""

import csv
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from models.classifier import Classifier
from models.errors import UsageError
from models.text import has_surrogate, normalise
from service.tables import CELL_CHARACTERS, CHUNK_ROWS, KINDS, Chunk, ParquetWriter, TextWriter, open_parquet, read_chunks


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What was written: rows, rows by label, rows that are not confident, rows by error, wall time."""

    rows: int
    labels: dict[str, int]
    not_confident: int
    errors: dict[str, int]
    seconds: float


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
    kind = ParquetWriter if target.suffix.lower() == ".parquet" else TextWriter
    known: set[str] | None = None
    open_ended = target.suffix.lower() == ".jsonl"
    total = None if source.suffix.lower() != ".parquet" else open_parquet(source).metadata.num_rows
    staging = _stage(target)
    cell_limit = csv.field_size_limit(CELL_CHARACTERS)
    try:
        with tqdm(total=total, unit=" rows", file=sys.stderr, disable=not progress) as bar:
            writer: TextWriter | ParquetWriter | None = None
            try:
                for chunk in read_chunks(source):
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


def _check_columns(source: Path, chunk: Chunk, text: str, results: Sequence[str], known: set[str] | None) -> None:
    if taken := [column for column in chunk.columns if column in results]:
        raise UsageError(f"{source} has a column {taken[0]!r} already. Rename it, or score the file it came from.")
    if text not in chunk.columns and chunk.columns and known is None:
        listed = ", ".join(chunk.columns)
        raise UsageError(f"{source} has no column {text!r}. Name the column that holds the text; there are: {listed}.")


def _check_late(source: Path, chunk: Chunk, known: set[str]) -> None:
    if new := [column for column in chunk.columns if column not in known]:
        line = next(line for line, row in zip(chunk.lines, chunk.rows, strict=True) if new[0] in row)
        raise UsageError(f"{source}:{line}: {new[0]!r} is not a key of the first {CHUNK_ROWS} rows. Write .jsonl instead.")


def _unfit(source: Path, chunk: Chunk, target: Path, error: Exception) -> str:
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
