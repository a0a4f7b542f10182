"""Labels of real briefing sentences without the sentences: the project keeps a digest and a label, the user has the text.

`training/corpus/briefings.csv` names, for each sentence, the document it stands in, its number of words, the SHA-256 of its normal
form, the labels of up to three annotators (the later ones may be empty) and the final one. The documents are those of the
repository brian14708/wh-briefings (CC0 1.0). From a clone of it the text is found again by trying every run of that many words in
the document, so that no rule for cutting sentences has to be repeated; a JSONL file with a column `text` will do as well.
"""

import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.errors import DataError
from models.schema import LabelSet
from models.text import has_surrogate, normalise
from training.data import Example, read_votes

LABELS = Path(__file__).parent / "corpus" / "briefings.csv"
COLUMNS = ("sha256", "words", "label", "label_a", "label_b", "label_c", "confidence", "issue", "source")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_MARKUP = re.compile(r"\*\*|__|^[#>]+\s+|^[*-]\s+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Briefings:
    """Labelled sentences whose text was found, and how many were not."""

    examples: list[Example]
    missing: int


@dataclass(frozen=True, slots=True)
class _Row:
    digest: str
    words: int
    label: str
    issue: str
    source: str
    votes: tuple[str, ...]


def sentence_digest(text: str) -> str:
    """SHA-256 in hex of the normal form of `text`."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()


def load_briefings(place: Path, labels: LabelSet, table: Path = LABELS) -> Briefings:
    """Attach the text at `place`, a clone's folder or a JSONL file, to the labels of `table`; DataError where none fits."""
    rows = _rows(table, labels)
    if unknown := sorted({row.label for row in rows} - set(labels.labels)):
        raise DataError(
            f"the briefing sentences have the label {unknown[0]!r}, which the recipe does not know ({', '.join(labels.labels)}). "
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
            group=row.source,
            slices={"issue": (row.issue,), "register": ("briefing",), "origin": ("real",)},
            where=row.source,
            votes=row.votes,
        )
        for row in rows
        if row.digest in found
    ]
    if not examples:
        raise DataError(
            f"{place} has none of the {len(rows)} labelled sentences. Set data.briefings to the top folder of a clone of "
            "https://github.com/brian14708/wh-briefings."
        )
    return Briefings(examples, len(rows) - len(examples))


def write_labels(sentences: Path, table: Path = LABELS) -> int:
    """Write `table` from a JSONL file of labelled sentences (text, label, confidence, issue, source, and label_a, label_b and
    label_c where several annotators labelled them); the number of rows."""
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
    return _Row(row["sha256"], int(row["words"]), row["label"], row["issue"], row["source"], read_votes(row, labels))


def _search(folder: Path, rows: list[_Row]) -> dict[str, str]:
    """Text by digest, from the documents below `folder`."""
    wanted: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        wanted[row.source].append(row)
    found: dict[str, str] = {}
    for source, sought in wanted.items():
        path = folder / source
        if not path.is_file():
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
    for length in sorted(lengths):
        for start in range(len(words) - length + 1):
            yield " ".join(words[start : start + length])


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
