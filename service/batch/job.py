"""What a job is and how far it has come: its shards, planned before anything is scored, and the record of those that are done.

In the folder of results `_job/job.json` says what the job was begun with, `_job/part-N.json` what shard N holds and its digest; it
is written before the shard appears. A job goes on from what is there, and is refused where it was begun with something else.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from models.bundle import sha256_file, sync
from models.errors import UsageError
from service.batch.columns import unite
from service.batch.files import Ending, Source, Store
from service.batch.tables import scan
from service.batch.text_rows import Mark

_JOB = "_job/job.json"
REPORT = "_changed.md"  # where two models differ
WINDOW_ROWS = 4096
PARQUET = Ending(".parquet")


@dataclass(frozen=True, slots=True)
class Options:
    """How a job is done; what changes its output is part of its identity."""

    text_column: str = "text"
    ending: Ending = PARQUET
    shard_rows: int = 20_000
    max_characters: int = 5000
    slices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shard:
    """`rows` rows of input `source` from `start` on."""

    number: int
    source: int
    start: Mark
    rows: int

    def name(self, ending: Ending) -> str:
        """Its file's name."""
        return f"part-{self.number:05d}{ending}"


@dataclass(slots=True)
class Counts:
    """What was scored: rows by label of each model, answers that are not confident, rows by error, and where models differ."""

    rows: int = 0
    labels: list[Counter[str]] = field(default_factory=list)
    not_confident: list[int] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)  # "slice=value\tfrom\tto", the slice empty for all rows

    def content(self) -> dict[str, Any]:
        """Its fields, for JSON."""
        return {
            "rows": self.rows,
            "labels": self.labels,
            "not_confident": self.not_confident,
            "errors": self.errors,
            "moves": self.moves,
        }

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Counts":
        """From its fields, as JSON has them."""
        return cls(
            content["rows"],
            [Counter(labels) for labels in content["labels"]],
            content["not_confident"],
            Counter(content["errors"]),
            Counter(content["moves"]),
        )

    def add(self, other: "Counts") -> None:
        """Count what `other` counted too."""
        self.rows += other.rows
        self.errors.update(other.errors)
        self.moves.update(other.moves)
        self.labels = self.labels or [Counter() for _ in other.labels]
        self.not_confident = self.not_confident or [0] * len(other.not_confident)
        for mine, theirs in zip(self.labels, other.labels, strict=True):
            mine.update(theirs)
        self.not_confident = [a + b for a, b in zip(self.not_confident, other.not_confident, strict=True)]


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole of a job: `schema` are the columns of every shard, None where each row has its own."""

    sources: tuple[Source, ...]
    fingerprints: tuple[dict[str, Any], ...]
    shards: tuple[Shard, ...]
    schema: Any
    options: Options
    models: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Rows of all inputs."""
        return sum(shard.rows for shard in self.shards)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a job to go on."""
        inputs = [{"file": s.shown, "rows": self._rows(i)} | self.fingerprints[i] for i, s in enumerate(self.sources)]
        options = asdict(self.options) | {"ending": str(self.options.ending), "slices": list(self.options.slices)}
        return {"format": 1, "models": list(self.models), "inputs": inputs, "options": options}

    def written(self) -> bytes:
        """The identity as it is recorded."""
        return (json.dumps(self.identity(), indent=1, ensure_ascii=False) + "\n").encode()

    def digest(self) -> str:
        """SHA-256 of the identity."""
        return hashlib.sha256(self.written()).hexdigest()

    def _rows(self, source: int) -> int:
        return sum(shard.rows for shard in self.shards if shard.source == source)


def make_plan(
    sources: Sequence[Source], options: Options, models: Sequence[str], results: Sequence[str], *, progress: bool
) -> Plan:
    """Read the inputs once, for their rows, columns and digests, and cut them into shards.

    UsageError where a file cannot be read, lacks the column of texts, or has a column that a result would take.
    """
    typed = options.ending.kind != ".jsonl"
    shards: list[Shard] = []
    schemas: list[Any] = []
    named: set[str] = set()
    fingerprints: list[dict[str, Any]] = []
    for number, source in enumerate(tqdm(sources, desc="reading", unit=" files", disable=not progress, leave=False)):
        fingerprints.append(source.fingerprint())
        extent = scan(source, options.text_column, options.shard_rows, typed=typed)
        for mark in extent.marks:
            rows = min(options.shard_rows, extent.rows - mark.row)
            shards.append(Shard(len(shards), number, mark, rows))
        if taken := [name for name in extent.names if name in results]:
            raise UsageError(f"{source.shown} has a column {taken[0]!r} already. Rename it, or score the file it came from.")
        if extent.schema is not None:
            schemas.append(extent.schema)
        named.update(extent.names)
    if missing := [name for name in options.slices if name not in named]:
        raise UsageError(f"no input has a column {missing[0]!r} to slice by. There are: {', '.join(sorted(named))}.")
    if not shards:
        shards.append(Shard(0, 0, Mark(0, 1, 0), 0))
    schema = unite(sources, schemas) if typed else None
    return Plan(tuple(sources), tuple(fingerprints), tuple(shards), schema, options, tuple(models))


class Record:
    """The record of a job in its store; every process that works on the job may have one."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self.store, self._plan = store, plan

    def done(self) -> dict[int, Counts]:
        """The shards that are finished and as they were left, with what they hold."""
        found = {}
        for shard in self._plan.shards:
            note = self.store.read(_note(shard.number))
            if note is None:
                continue
            content = json.loads(note)
            if self.store.digest(shard.name(self._plan.options.ending)) == content.pop("sha256"):
                found[shard.number] = Counts.of(content)
        return found

    def finish(self, shard: Shard, staged: Path, counts: Counts) -> None:
        """Publish the file of a shard, its record first."""
        note = json.dumps(counts.content() | {"sha256": sha256_file(staged)}, ensure_ascii=False) + "\n"
        self.publish(note.encode(), _note(shard.number))
        self.store.publish(staged, shard.name(self._plan.options.ending))

    def publish(self, content: bytes, name: str) -> None:
        """Write a small file whole."""
        staged = self.stage(name.rpartition("/")[2])
        staged.write_bytes(content)
        self.store.publish(staged, name)

    def stage(self, name: str) -> Path:
        """An empty local file, in a local store on the same disk, to be filled and published."""
        folder = None if self.store.remote else self.store.local("_job")
        descriptor, path = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        os.close(descriptor)
        return Path(path)


@contextmanager
def claim(store: Store, plan: Plan, *, overwrite: bool, joins: bool) -> Iterator[Record]:
    """The store for this process alone (a local one), begun or found with this very plan; UsageError where it is another's.

    `joins` says that the shards are to become one file, so that where they are all there the job has not ended.
    """
    names = store.names()
    if names and "_job" not in names:
        raise UsageError(f"{store.shown} exists and holds no scoring job. Choose another output folder, or empty it.")
    store.make()
    record = Record(store, plan)
    with ExitStack() as stack:
        if not store.remote:
            lock = stack.enter_context(store.local("_job/lock").open("wb"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UsageError(f"another process scores into {store.shown}. Wait for it, or choose another output.") from error
            for left in store.local("_job").glob(".*"):  # by a process that was killed
                left.unlink(missing_ok=True)
        identity = plan.written()
        known = store.read(_JOB)
        if overwrite and known is not None and (known != identity or (not joins and len(record.done()) == len(plan.shards))):
            _clear(store)  # but what this very job was stopped in goes on
            known = None
        if known is None:
            record.publish(identity, _JOB)
        elif known != identity:
            raise UsageError(f"{store.shown} was begun with {_difference(json.loads(known), plan.identity())} {_WAY_OUT}")
        yield record


def _clear(store: Store) -> None:
    if store.remote:
        raise UsageError(f"{store.shown} holds another job. Delete it, or choose another output.")
    kept = (store.local("_job/lock"), store.local(_JOB))
    for path in [*store.local("").glob("part-*"), store.local(REPORT), *store.local("_job").iterdir()]:
        if path not in kept:
            path.unlink(missing_ok=True)
    store.local(_JOB).unlink(missing_ok=True)  # last: what is left after a kill is still known for the other job's
    sync(store.local("_job"))


_WAY_OUT = "Give what it was begun with, choose another output, or start anew with --overwrite."


def _note(number: int) -> str:
    return f"_job/part-{number:05d}.json"


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first thing that a job and the one in the folder differ in, as a sentence."""
    if before.get("models") != now["models"]:
        shown = [", ".join(name[:12] for name in content.get("models", [])) for content in (before, now)]
        return f"model {shown[0]}, this is {shown[1]}."
    files = [{entry["file"]: entry for entry in content.get("inputs", [])} for content in (before, now)]
    if list(files[0]) != list(files[1]):
        other = sorted(set(files[0]) ^ set(files[1])) or list(files[1])
        return f"other input files or another order of them ({other[0]})."
    for name, entry in files[1].items():
        if entry != files[0][name]:
            return f"another content of {name}."
    for name, value in now["options"].items():
        if before.get("options", {}).get(name) != value:
            return f"{name.replace('_', '-')} {before.get('options', {}).get(name)!r}, not {value!r}."
    return "another release of Stancewire."
