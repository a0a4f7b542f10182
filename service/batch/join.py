"""Where a job's output goes: a folder of shards, or one file that they are joined to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.bundle import sha256_file
from models.errors import UsageError
from service.batch.files import Ending, Source, Store, is_url, plain, put, read_ending
from service.batch.job import REPORT, Counts, Plan, Record
from service.batch.write import header, open_stream

_COPIED_BYTES = 1 << 20
_JOINED = "_job/joined.json"


@dataclass(frozen=True, slots=True)
class Target:
    """`file` is the single file asked for, None for a folder of shards; `folder` is where the shards are."""

    shown: str
    folder: str
    file: Path | None

    @classmethod
    def of(cls, output: str, ending: Ending | None, *, single: bool) -> "tuple[Target, Ending]":
        """The target that `output` names and the ending of the shards: a name that ends like a table is one file, any other a
        folder, whose shards are of `ending` (Parquet), and which `single` joins to a file in it."""
        output = plain(output)
        named = read_ending(output)
        if named is not None and not Path(output).is_dir():
            if is_url(output):
                raise UsageError(f"{output}: a single file goes to a path, not to a URL. Leave its extension out, for shards.")
            if ending is not None and ending != named:
                raise UsageError(f"{output} and --format {str(ending).removeprefix('.')} differ. Leave --format out.")
            return cls(output, f"{output}.parts", Path(output)), named
        chosen = ending or Ending(".parquet")
        if not single:
            return cls(output, output, None), chosen
        if is_url(output):
            raise UsageError("--single-file needs a path, not a URL. Leave it out, or write to a path and copy the file.")
        return cls(output, f"{output.rstrip('/')}/scored{chosen}.parts", Path(output) / f"scored{chosen}"), chosen

    def is_file(self, source: Source) -> bool:
        """Whether `source` is the single file."""
        return self.file is not None and source.local and Path(source.path).resolve() == self.file.resolve()

    def check(self, inputs: Sequence[str], *, overwrite: bool) -> None:
        """UsageError where the output cannot be made, or would overwrite something."""
        if self.file is None:
            if not is_url(self.folder) and Path(self.folder).is_file():
                raise UsageError(f"{self.folder} is a file. Give a folder, or a name that ends in .csv, .tsv, .jsonl or .parquet.")
            return
        if self.file.exists():
            if not self.file.is_file() or any(Path(name).is_file() and self.file.samefile(name) for name in inputs):
                raise UsageError(f"{self.file} is the input or not a regular file. Choose another output file.")
            if not overwrite:
                raise UsageError(f"{self.file} exists. Choose another output file, or allow overwriting with --overwrite.")
        if self.shown == str(self.file) and not self.file.parent.is_dir():
            raise UsageError(f"cannot write to the folder {self.file.parent} (there is none). Choose another folder.")


def shard_ending(target: Target, ending: Ending) -> Ending:
    """Shards that are to be joined are not compressed."""
    return Ending(ending.kind) if target.file is not None else ending


def find_joined(target: Target, store: Store) -> dict[str, Any] | None:
    """What a job left that was killed when its single file was in place and its shards were not all gone: `counts`, and `job`, the
    digest of what it was begun with; None where there is no such."""
    note = store.read(_JOINED) if target.file is not None and target.file.is_file() else None
    if target.file is None or note is None:
        return None
    content: dict[str, Any] = json.loads(note)
    return content if content["sha256"] == sha256_file(target.file) else None


def clear_joined(store: Store) -> None:
    """Remove the shards of a file that is in place."""
    store.remove(_JOINED)


def join(target: Target, store: Store, plan: Plan, results: Any, report: str, record: Record, counts: Counts) -> None:
    """Write the report of two models and, where one file is asked for, make it of the shards, which go."""
    if target.file is None:
        if report:
            record.publish(report.encode(), REPORT)
        return
    names = [shard.name(plan.options.ending) for shard in plan.shards]
    staged = record.stage(target.file.name)
    ending = read_ending(target.file.name)
    assert ending is not None
    if ending.kind == ".parquet":
        schema = pa.schema([*plan.schema, *results], metadata=plan.schema.metadata)
        with pq.ParquetWriter(staged, schema) as writer:
            for name in names:
                with pq.ParquetFile(store.local(name)) as part:
                    for group in range(part.num_row_groups):
                        rows = part.read_row_group(group)
                        writer.write_table(rows, row_group_size=max(1, len(rows)))
    else:
        with open_stream(staged, ending.compression) as stream:
            for number, name in enumerate(names):
                with store.local(name).open("rb") as part:
                    if number and ending.kind != ".jsonl":
                        part.seek(len(header(ending, [*plan.schema.names, *results.names])))
                    while block := part.read(_COPIED_BYTES):
                        stream.write(block)
    beside = target.file.with_name(f"{target.file.name}{REPORT}")
    if report:
        told = record.stage(beside.name)
        told.write_text(report, "utf-8")
        put(told, beside)
    note = {"sha256": sha256_file(staged), "job": plan.digest(), "counts": counts.content()}
    record.publish(json.dumps(note, ensure_ascii=False).encode(), _JOINED)
    put(staged, target.file)
    if not report:  # one of an earlier job
        beside.unlink(missing_ok=True)
    clear_joined(store)
