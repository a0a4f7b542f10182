"""Labels of real sentences without the sentences: the project keeps a digest and a label, the user has the text.

`training/corpus/briefings.csv` and `training/corpus/speeches.csv` name, for each sentence, the document it stands in, its number of
words, the SHA-256 of its normal form, the labels of up to three annotators (the later ones may be empty) and the final one. The
documents stand in public repositories (training/corpus/ORIGIN.md), whose name begins the `source`. From a clone the text is found
again by trying every run of that many words in the document, so that no rule for cutting sentences has to be repeated; a JSONL file
with a column `text` will do as well.
"""

import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import DataError
from models.schema import LabelSet
from models.text import has_surrogate, normalise
from training.data import Example, read_votes

LABELS = Path(__file__).parent / "corpus" / "briefings.csv"
SPEECHES = LABELS.with_name("speeches.csv")
COLUMNS = ("sha256", "words", "label", "label_a", "label_b", "label_c", "confidence", "issue", "register", "source")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_MARKUP = re.compile(r"\*\*|__|^[#>]+\s+|^[*-]\s+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Briefings:
    """Labelled sentences whose text was found; `found` and `missing` count them by repository."""

    examples: list[Example]
    found: Counter[str]
    missing: Counter[str]


@dataclass(frozen=True, slots=True)
class _Row:
    digest: str
    words: int
    label: str
    issue: str
    register: str
    repository: str
    path: str
    group: str
    votes: tuple[str, ...]


def sentence_digest(text: str) -> str:
    """SHA-256 in hex of the normal form of `text`."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()


def load_briefings(place: Path, labels: LabelSet, tables: Sequence[Path] = (LABELS, SPEECHES)) -> Briefings:
    """Attach the text at `place` to the labels of `tables`; DataError where none fits.

    `place` is a folder that holds clones under their names, the folder of one clone, or a JSONL file.
    """
    first: dict[str, _Row] = {}
    for row in (row for table in tables for row in _rows(table, labels)):
        first.setdefault(row.digest, row)
    rows = list(first.values())
    if unknown := sorted({row.label for row in rows} - set(labels.labels)):
        raise DataError(
            f"the real sentences have the label {unknown[0]!r}, which the recipe does not know ({', '.join(labels.labels)}). "
            "Leave data.briefings out for a label set of your own."
        )
    if not place.exists():
        raise DataError(
            f"there is no {place}. Set data.briefings to a clone of https://github.com/brian14708/wh-briefings, or leave it out."
        )
    try:
        found = _search(place, rows) if place.is_dir() else {sentence_digest(text): text for text in _texts(place)}
    except OSError as error:
        raise DataError(f"{place} cannot be read ({error.strerror}). Set data.briefings to a place that you may read.") from error
    examples = [
        Example(
            id=f"briefing-{row.digest[:12]}",
            text=found[row.digest],
            label=row.label,
            group=row.group,
            slices={"issue": (row.issue,), "register": (row.register,), "origin": ("real", row.repository)},
            where=row.group,
            votes=row.votes,
        )
        for row in rows
        if row.digest in found
    ]
    if not examples:
        raise DataError(
            f"{place} has none of the {len(rows)} labelled sentences. Set data.briefings to the top folder of a clone of "
            "https://github.com/brian14708/wh-briefings, or to a folder that holds it."
        )
    with_text = Counter(row.repository for row in rows if row.digest in found)
    return Briefings(examples, with_text, Counter(row.repository for row in rows) - with_text)


def write_labels(sentences: Path, table: Path = LABELS) -> int:
    """Write `table` from a JSONL file of labelled sentences (text, label, confidence, issue, register, source, and label_a, label_b
    and label_c where several annotators labelled them); the number of rows."""
    lines = sentences.read_text("utf-8").splitlines()
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in sorted((json.loads(line) for line in lines), key=lambda row: sentence_digest(row["text"])):
            text = normalise(row["text"])
            known = row | {"sha256": sentence_digest(text), "words": len(text.split(" "))}
            writer.writerow([known.get(column, "") for column in COLUMNS])
    return len(lines)


def _rows(table: Path, labels: LabelSet) -> list[_Row]:
    try:
        with table.open(encoding="utf-8", newline="") as stream:
            return [_row(row, labels) for row in csv.DictReader(stream)]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{table} is not a table of sentence labels: it must have the columns {', '.join(COLUMNS)}.") from error


def _row(row: dict[str, str], labels: LabelSet) -> _Row:
    source, votes = row["source"], read_votes(row, labels)
    repository, place = source.split("/", 1)
    path = place.partition("#")[0]  # what follows names a part of the document
    return _Row(row["sha256"], int(row["words"]), row["label"], row["issue"], row["register"], repository, path, source, votes)


def _search(folder: Path, rows: list[_Row]) -> dict[str, str]:
    """Text by digest, from the documents below `folder`, or below a repository's folder in it."""
    wanted: dict[tuple[str, str], list[_Row]] = defaultdict(list)
    for row in rows:
        wanted[row.repository, row.path].append(row)
    found: dict[str, str] = {}
    for (repository, name), sought in wanted.items():
        path = next((path for path in (folder / repository / name, folder / name) if path.is_file()), None)
        if path is None:
            continue
        raw = path.read_text("utf-8", errors="replace")
        digests = {row.digest for row in sought}
        lengths = {row.words for row in sought}
        for form in (raw, _MARKUP.sub("", _LINK.sub(r"\1", raw))):
            for text in _runs(normalise(form).split(" "), lengths):
                digest = hashlib.sha256(text.encode()).hexdigest()
                if digest in digests:
                    found[digest] = text
    return found


def _runs(words: list[str], lengths: set[int]) -> Iterator[str]:
    """Each run of so many words; also without what a table puts around a text, where that is there."""
    for length in sorted(lengths):
        for start in range(len(words) - length + 1):
            run = " ".join(words[start : start + length])
            yield run
            if (bare := run.strip('",')) != run:
                yield bare


def _texts(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: not a JSON object with a text. Give a clone's folder or a JSONL file.") from error
        if isinstance(text, str) and not has_surrogate(text):
            yield text
