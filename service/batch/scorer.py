"""Texts to answers at the engine's pace: each text of a job is computed once, and calls hold sentences of like length.

`Scorer.submit` encodes a window of rows and hands its calls to the engine threads, so that they compute while the next window is
read and the one before is written. Answers are kept by digest in a SQLite file: what a job holds of them in memory does not grow.
Which calls a text is computed in depends on the rows before it alone, so that a job that was killed and goes on gives the same
bytes as one that was not.
"""

import sqlite3
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from models.classifier import Call, Classifier
from models.schema import FloatArray, Prediction, predict
from models.text import fault_of, normalise

_ASKED = 500  # keys in one query, below SQLite's limit on variables
_CACHE_KB = 16_000


class AnswerFile:
    """Answers by digest of the text: the probabilities of each model, and whether each read all of it."""

    def __init__(self, path: Path | None, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._base = sqlite3.connect(path or ":memory:", isolation_level=None)
        try:
            self._base.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            if path is not None:
                self._base.execute("PRAGMA journal_mode = WAL")
                self._base.execute("PRAGMA synchronous = FULL")
            self._base.execute("CREATE TABLE IF NOT EXISTS answers (digest BLOB PRIMARY KEY, answer BLOB NOT NULL) WITHOUT ROWID")
            self._base.execute("BEGIN")
        except sqlite3.Error:
            self._base.close()
            raise

    def find(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those answers that are here."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(digests), _ASKED):
            part = digests[start : start + _ASKED]
            marks = ",".join("?" * len(part))
            found.update(self._base.execute(f"SELECT digest, answer FROM answers WHERE digest IN ({marks})", part))
        return found

    def add(self, answers: dict[bytes, bytes]) -> None:
        """Keep answers; they last from the next `commit` on."""
        self._base.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", answers.items())

    def commit(self) -> None:
        """Make what was added last, a kill or a power cut notwithstanding."""
        self._base.execute("COMMIT")
        self._base.execute("BEGIN")

    def close(self) -> None:
        """Close the file; what was not committed is gone."""
        with suppress(sqlite3.Error):  # on a full disk even this fails, and what failed before is said already
            self._base.rollback()
        self._base.close()

    def pack(self, rows: Sequence[FloatArray], truncated: Sequence[bool]) -> bytes:
        """One text's answer, of all models."""
        return np.concatenate([*rows, np.asarray(truncated, dtype=np.float64)]).astype("<f8").tobytes()

    def unpack(self, answer: bytes) -> tuple[list[list[float]], list[bool]]:
        """What `pack` packed."""
        numbers = np.frombuffer(answer, dtype="<f8").tolist()
        rows, at = [], 0
        for size in self._sizes:
            rows.append(numbers[at : at + size])
            at += size
        return rows, [bool(number) for number in numbers[at:]]


@dataclass(slots=True)
class Window:
    """Rows whose answers are under way: the digest of each text, or None and its fault."""

    digests: list[bytes | None]
    faults: list[str | None]
    new: dict[bytes, int]  # texts that no earlier window has, with their places among those that are computed
    calls: list[list[tuple[Call, "Future[FloatArray]"]]]  # by model
    truncated: list[list[bool]] = field(default_factory=list)  # by model, as `new`


class Scorer:
    """Scores windows of texts with one model or several, in the order in which they are submitted."""

    def __init__(self, classifiers: Sequence[Classifier], answers: AnswerFile, max_characters: int) -> None:
        self._classifiers, self._answers, self._max_characters = classifiers, answers, max_characters
        self._under_way: dict[bytes, Window] = {}

    def submit(self, texts: Sequence[Any], faults: dict[int, str]) -> Window:
        """Start on `texts`; `faults` are those of rows that are known to be bad, by place."""
        digests: list[bytes | None] = []
        found: list[str | None] = []
        fresh: dict[bytes, str] = {}
        for place, text in enumerate(texts):
            fault = faults.get(place) or fault_of(text, self._max_characters)
            found.append(fault)
            if fault is not None:
                digests.append(None)
                continue
            normal = normalise(text)
            digest = blake2b(normal.encode("utf-8"), digest_size=16).digest()
            digests.append(digest)
            if digest not in self._under_way:
                fresh.setdefault(digest, normal)
        for digest in self._answers.find(list(fresh)):
            del fresh[digest]
        window = Window(digests, found, {digest: place for place, digest in enumerate(fresh)}, [])
        for classifier in self._classifiers:
            encoded = classifier.encoder.encode(list(fresh.values()))
            window.truncated.append([row.truncated for row in encoded])
            calls = classifier.cut(encoded)
            window.calls.append([(call, classifier.pool.submit(classifier.probabilities, call)) for call in calls])
        self._under_way.update(dict.fromkeys(window.new, window))
        return window

    def finish(self, window: Window) -> list[list[Prediction | None]]:
        """The predictions of a window, by model, None where there is a fault; windows are finished in the order of submission."""
        tables = []
        for classifier, calls in zip(self._classifiers, window.calls, strict=True):
            table = np.zeros((len(window.new), len(classifier.label_set.labels)))
            for call, future in calls:
                table[list(call.positions)] = future.result()
            tables.append(table)
        computed = {
            digest: self._answers.pack([table[place] for table in tables], [flags[place] for flags in window.truncated])
            for digest, place in window.new.items()
        }
        self._answers.add(computed)
        for digest in window.new:
            del self._under_way[digest]
        older = {digest for digest in window.digests if digest is not None and digest not in computed}
        known = computed | self._answers.find(list(older))
        made = {digest: self._predict(known[digest]) for digest in dict.fromkeys(window.digests) if digest is not None}
        none: list[Prediction | None] = [None] * len(self._classifiers)
        rows = [none if digest is None else made[digest] for digest in window.digests]
        return [[row[model] for row in rows] for model in range(len(self._classifiers))]

    def drop(self, window: Window) -> None:
        """Forget a window that nobody waits for any more."""
        for calls in window.calls:
            for _, future in calls:
                future.cancel()
        for digest in window.new:
            self._under_way.pop(digest, None)

    def _predict(self, answer: bytes) -> list[Prediction | None]:
        rows, truncated = self._answers.unpack(answer)
        return [
            predict(classifier.label_set, row, classifier.bundle.manifest.confidence_threshold, cut)
            for classifier, row, cut in zip(self._classifiers, rows, truncated, strict=True)
        ]
