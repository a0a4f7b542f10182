"""Labelled quotes checked before anything is trained on them: every fault with its file, its line and what to do.

Reads JSONL, CSV and TSV. A fault never stops the check, except that a file which cannot be decoded has no rows. The fields
of the codebook (`id`, `pair`, `register`, `phenomena`) are checked where a quote carries them.
"""

import codecs
import csv
import difflib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.schema import LabelSet
from models.text import has_surrogate, normalise
from training.agreement import ANNOTATORS, Agreement, measure_agreement
from training.audit import near_duplicates, normal_key

MAX_CHARACTERS = 2000
MAX_WORDS = 200
REGISTERS = frozenset(
    ("briefing", "interview", "communique", "un_speech", "speech", "op_ed", "social", "parliament", "leak", "news")
)
# fmt: off
PHENOMENA = frozenset((
    "negation", "conditional", "irony", "reported", "judged_report", "mixed", "concession", "rhetorical_question", "euphemism",
    "threat_veiled", "offer_veiled", "history", "long", "fragment", "quote_marks", "numbers", "off_topic", "procedural",
    "blame_only", "ally_consult", "keyword_trap",
))
# fmt: on
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: where it is (lines count from 1), what it is, and a sentence that says what to do."""

    file: str
    line: int
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}. {self.fix}"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was read, and every problem in the order of the files and their lines; `labels` counts known labels; `agreement` is
    there for files whose rows carry `label_a` and `label_b`, the labels of two annotators."""

    rows: int
    labels: dict[str, int]
    problems: tuple[Problem, ...]
    agreement: tuple[Agreement, ...] = ()

    def summary(self) -> str:
        """One line: rows, labels, problems."""
        counts = ", ".join(f"{name} {count}" for name, count in self.labels.items())
        return f"{self.rows} rows ({counts}), {len(self.problems)} problems"


@dataclass(frozen=True, slots=True)
class _Row:
    file: str
    line: int
    values: dict[str, Any]

    def problem(self, what: str, fix: str) -> Problem:
        return Problem(self.file, self.line, what, fix)

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


def check_files(paths: Sequence[Path], label_set: LabelSet, text_column: str = "text", label_column: str = "label") -> CheckReport:
    """Check `paths` as one set of quotes: a text in two of the files is a duplicate."""
    rows: list[_Row] = []
    problems: list[Problem] = []
    for path in paths:
        for found in _read(path, (text_column, label_column)):
            if isinstance(found, _Row):
                rows.append(found)
            else:
                problems.append(found)
    for row in rows:
        problems += _check_text(row, text_column)
        problems += _check_label(row, label_column, label_set)
        problems += _check_fields(row)
    problems += _check_ids(rows)
    problems += _check_pairs(rows, label_column)
    problems += _check_duplicates(rows, text_column, label_column)
    order: dict[str, int] = {}
    for path in paths:
        order.setdefault(str(path), len(order))
    problems.sort(key=lambda problem: (order[problem.file], problem.line))
    counts = Counter(label for row in rows if (label := _label(row, label_column)) in label_set.labels)
    twice = [
        (row.file, row.values["label_a"], row.values["label_b"])
        for row in rows
        if all(row.values.get(name) in label_set.labels for name in ANNOTATORS[:2])
    ]
    by_label = {label: counts[label] for label in label_set.labels}
    return CheckReport(len(rows), by_label, tuple(problems), tuple(measure_agreement(twice)))


def _read(path: Path, required: tuple[str, str]) -> Iterator[_Row | Problem]:
    name = str(path)
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".csv", ".tsv"):
        yield Problem(name, 1, f"cannot read files of kind {kind or '(none)'}", "Give a .jsonl, .csv or .tsv file.")
        return
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        yield Problem(name, 1, "there is no such file", "Check the path.")
        return
    except OSError as error:
        yield Problem(name, 1, f"cannot be read ({error.strerror})", "Give a file that you may read.")
        return
    if raw.startswith(_UTF16):
        yield Problem(name, 1, "is UTF-16", "Save the file as UTF-8.")
        return
    if raw.startswith(codecs.BOM_UTF8):
        yield Problem(name, 1, "starts with a byte-order mark", "Save the file as UTF-8 without a byte-order mark.")
        raw = raw.removeprefix(codecs.BOM_UTF8)
    if bad := list(_undecodable(name, raw)):
        yield from bad
        return
    text = raw.decode("utf-8")
    if not text.strip():
        yield Problem(name, 1, "is empty", "Give a file with at least one quote, or leave it out.")
    elif kind == ".jsonl":
        yield from _read_jsonl(name, text, required)
    else:
        yield from _read_table(name, text, "," if kind == ".csv" else "\t", required)


def _undecodable(name: str, raw: bytes) -> Iterator[Problem]:
    offset = 0
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"not UTF-8 at byte {offset + error.start} of the file (0x{line[error.start]:02x})"
            yield Problem(name, number, what, "Save the file as UTF-8.")
        offset += len(line) + 1


def _read_jsonl(name: str, text: str, required: tuple[str, str]) -> Iterator[_Row | Problem]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            yield Problem(name, number, f"not JSON ({error})", "Write one JSON object on each line.")
            continue
        if not isinstance(values, dict):
            yield Problem(name, number, f"not a JSON object but {type(values).__name__}", "Write one JSON object on each line.")
            continue
        for column in required:
            if column not in values:
                yield Problem(name, number, f"has no {column!r}", f"Add {column!r}, or say which column to use instead.")
        yield _Row(name, number, values)


def _read_table(name: str, text: str, delimiter: str, required: tuple[str, str]) -> Iterator[_Row | Problem]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = cells
                for column in required:
                    if column not in header:
                        fix = f"Add the column, or say which of these to use: {', '.join(header)}."
                        yield Problem(name, start, f"there is no column {column!r}", fix)
            elif len(cells) != len(header):
                what = f"has {len(cells)} cells where the header has {len(header)}"
                yield Problem(name, start, what, "Quote cells that hold the delimiter, and leave no cell out.")
            else:
                yield _Row(name, start, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        fix = "Put quotes around a cell that holds quotes, and double those inside."
        yield Problem(name, line, f"cannot be read as a table ({error})", fix)


def _check_text(row: _Row, column: str) -> Iterator[Problem]:
    for name, value in row.values.items():
        if isinstance(value, str) and has_surrogate(value):
            yield row.problem(f"{name!r} holds a lone surrogate", "Write the whole character, or remove it.")
    if column not in row.values:
        return
    text = row.values[column]
    if not isinstance(text, str):
        yield row.problem(f"{column!r} is not a string but {type(text).__name__}", "Write the text in quotes.")
    elif not normalise(text):
        yield row.problem("the text is empty", "Write the text, or remove the quote.")
    elif len(text) > MAX_CHARACTERS:
        yield row.problem(f"the text has {len(text)} characters", f"Cut it to at most {MAX_CHARACTERS}: one sentence or quote.")
    elif (count := len(text.split())) > MAX_WORDS:
        yield row.problem(f"the text has {count} words", f"Cut it to at most {MAX_WORDS}: one sentence or quote.")


def _check_label(row: _Row, column: str, label_set: LabelSet) -> Iterator[Problem]:
    for name in (column, *ANNOTATORS):
        label = row.values.get(name)
        if name not in row.values or (name != column and label in (None, "")):
            continue
        if not (isinstance(label, str) and label in label_set.labels):
            yield row.problem(f"unknown {name if name in ANNOTATORS else 'label'} {label!r}", _suggest(label, label_set.labels))


def _check_fields(row: _Row) -> Iterator[Problem]:
    register = row.values.get("register")
    if register not in (None, "") and not (isinstance(register, str) and register in REGISTERS):
        yield row.problem(f"unknown register {register!r}", _suggest(register, sorted(REGISTERS)))
    phenomena = row.values.get("phenomena")
    if isinstance(phenomena, str):  # a table's cell
        phenomena = phenomena.replace(",", " ").replace(";", " ").replace("|", " ").split()
    if phenomena is not None and not isinstance(phenomena, list):
        yield row.problem("'phenomena' is not a list", 'Write a list such as ["negation"], or [].')
        return
    for name in phenomena or ():
        if not (isinstance(name, str) and name in PHENOMENA):
            yield row.problem(f"unknown phenomenon {name!r}", _suggest(name, sorted(PHENOMENA)))


def _check_ids(rows: Sequence[_Row]) -> Iterator[Problem]:
    seen: dict[str, _Row] = {}
    for row in rows:
        identity = row.values.get("id")
        if identity in (None, ""):
            continue
        if (earlier := seen.setdefault(str(identity), row)) is not row:
            yield row.problem(f"the id {identity!r} is that of {earlier.where} too", "Give each quote an id of its own.")


def _check_pairs(rows: Sequence[_Row], label_column: str) -> Iterator[Problem]:
    members: defaultdict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        if pair := _pair(row):
            members[pair].append(row)
    for pair, group in members.items():
        if len({_label(row, label_column) for row in group}) < 2:
            what = f"the pair {pair!r} has one label only"
            yield group[0].problem(what, "Add a quote of another label to the pair, or remove the field.")


def _check_duplicates(rows: Sequence[_Row], text_column: str, label_column: str) -> Iterator[Problem]:
    usable = [row for row in rows if isinstance(row.values.get(text_column), str)]
    texts: list[str] = [row.values[text_column] for row in usable]
    keys = [normal_key(text) for text in texts]
    for left, right, similarity in near_duplicates(texts):
        earlier, later = usable[left], usable[right]
        if keys[left] == keys[right]:
            if _label(earlier, label_column) != _label(later, label_column):
                labels = f"{earlier.values.get(label_column)!r} there, {later.values.get(label_column)!r} here"
                yield later.problem(f"the same text as {earlier.where} with two labels ({labels})", "Keep one of the two.")
            else:
                yield later.problem(f"the same text as {earlier.where}", "Remove one of the two.")
        elif not (_pair(earlier) and _pair(earlier) == _pair(later)):
            what = f"nearly the same text as {earlier.where} ({similarity:.0%} of their three-word runs)"
            yield later.problem(what, "Remove one of the two, or give both the same pair if they are meant as a contrast.")


def _pair(row: _Row) -> str:
    value = row.values.get("pair")
    return "" if value is None else str(value)


def _label(row: _Row, column: str) -> str:
    return str(row.values.get(column))


def _suggest(value: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(value).strip().lower().replace("-", "_").replace(" ", "_"), known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Use one of: {', '.join(known)}."
