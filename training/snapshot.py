"""The label store frozen for a training: a numbered snapshot, its digest, and a test side that never moves.

Each sentence of the store has one label in a snapshot, the one that most of its annotators gave last; where that is a draw it is
left out and counted. Sentences that differ in case, punctuation or spacing alone are one. Whether one is learnt or measured on
follows from its words alone, so a sentence that an earlier snapshot measured on is never learnt by a later one; what nearly
repeats such a sentence is left out.
"""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import UsageError
from models.label_store import Label, LabelStore, digest_of
from models.schema import LabelSet
from models.text import normalise
from training.audit import normal_key, repeats
from training.config import Recipe, revise

PREFIX = "labels:"
_TEST_TENTHS = 2
_NAME = re.compile(r"labels-(\d{4})\.json")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One frozen state: where its rows to learn and to measure on are, how many, the SHA-256 of both files, and rows left out."""

    number: int
    train: Path
    test: Path | None
    rows: int
    test_rows: int
    sha256: str
    drawn: int
    unknown: int

    def __str__(self) -> str:
        left = f", left out {self.drawn} drawn and {self.unknown} of other labels" if self.drawn or self.unknown else ""
        return f"labels-{self.number:04d}: {self.rows} to learn, {self.test_rows} to measure on{left} (sha256 {self.sha256[:12]})"


def resolve_labels(labels: list[Label]) -> tuple[list[tuple[str, str, list[str]]], int]:
    """Sentence, label and what each annotator said last, for each sentence; and how many sentences are a draw."""
    votes: dict[str, dict[str, Label]] = {}
    for label in labels:
        votes.setdefault(_key(label.sentence), {})[label.annotator] = label
    found, drawn = [], 0
    for given in votes.values():
        counts = Counter(label.label for label in given.values()).most_common()
        if len(counts) > 1 and counts[0][1] == counts[1][1]:
            drawn += 1
            continue
        found.append((next(iter(given.values())).sentence, counts[0][0], [label.label for label in given.values()]))
    return found, drawn


def is_held(sentence: str) -> bool:
    """Whether a sentence is measured on and never learnt: so for one in five, by the digest of its words."""
    return int(hashlib.sha256(_key(sentence).encode()).hexdigest()[:8], 16) % 10 < _TEST_TENTHS


def _key(sentence: str) -> str:
    return normal_key(sentence) or normalise(sentence)


def freeze(store: LabelStore, folder: Path, label_set: LabelSet) -> Snapshot:
    """Write the next snapshot below `folder`, or give the last one where the store has not changed since."""
    labels = list(store.read())
    resolved, drawn = resolve_labels(labels)
    known = [row for row in resolved if row[1] in label_set.labels]
    sides: dict[bool, list[str]] = {True: [], False: []}
    learnable: list[str] = []
    for sentence, label, votes in known:
        row = {"id": f"label-{digest_of(sentence)[:16]}", "text": sentence, "label": label, "origin": "labels"}
        row |= {f"label_{letter}": vote for letter, vote in zip("abc", votes, strict=False)}
        held = is_held(sentence)
        sides[held].append(json.dumps(row, ensure_ascii=False))
        if not held:
            learnable.append(sentence)
    held_out = list(dict.fromkeys(label.sentence for label in labels if is_held(label.sentence)))  # those of a draw too
    learnt = [line for line, held in zip(sides[False], repeats(learnable, held_out), strict=True) if not held]
    if not learnt:
        raise UsageError("the label store has nothing to learn yet. Give labels at /label, or `stancewire labels import FILE`.")
    contents = {side: "".join(line + "\n" for line in lines) for side, lines in (("train", learnt), ("test", sides[True]))}
    sha256 = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return _write(folder, contents, sha256, (len(learnt), len(sides[True]), drawn, len(resolved) - len(known)))


def _write(folder: Path, contents: dict[str, str], sha256: str, counts: tuple[int, int, int, int]) -> Snapshot:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        notes = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
        last: dict[str, Any] = json.loads(notes[-1].read_text("utf-8")) if notes else {"number": 0, "sha256": ""}
        number = int(last["number"]) + (last["sha256"] != sha256)
        paths = {side: folder / f"labels-{number:04d}-{side}.jsonl" for side in contents}
        for side, content in contents.items():
            paths[side].write_text(content, "utf-8")
        (folder / f"labels-{number:04d}.json").write_text(json.dumps({"number": number, "sha256": sha256}) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write to {folder} ({error.strerror}). Set another `out`.") from error
    rows, test_rows, drawn, unknown = counts
    return Snapshot(number, paths["train"], paths["test"] if test_rows else None, rows, test_rows, sha256, drawn, unknown)


def with_labels(recipe: Recipe, url: str) -> tuple[Recipe, Snapshot]:
    """`recipe` with the store's labels beside its own files: learnt on the train side, measured on as `labels`."""
    store = LabelStore(url)
    try:
        snapshot = freeze(store, recipe.out.parent / "snapshots", recipe.labels)
    finally:
        store.close()
    tests = recipe.data.further_tests | ({"labels": str(snapshot.test)} if snapshot.test is not None else {})
    values = {"data.train_only": [*recipe.data.train_only, str(snapshot.train)], "data.further_tests": tests}
    return revise(recipe, values), snapshot
