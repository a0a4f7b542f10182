"""Where a job's output goes: a folder of shards, or one file that they are joined to."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.bundle import sync
from models.errors import UsageError
from service.batch.files import Ending, Source, Store, is_url, read_ending
from service.batch.job import REPORT, Plan, Record
from service.batch.write import header, open_stream

_COPIED_BYTES = 1 << 20


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

    def holds(self, source: Source) -> bool:
        """Whether `source` is part of the output: one that lies in an input folder is no input the next time."""
        if not source.local or is_url(self.folder):
            return source.shown.startswith(f"{self.folder.rstrip('/')}/")
        path, folder = Path(source.path).resolve(), Path(self.folder).resolve()
        return path.is_relative_to(folder) or (self.file is not None and path == self.file.resolve())

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


def join(target: Target, store: Store, plan: Plan, results: Any, report: str, record: Record) -> None:
    """Write the report of two models and, where one file is asked for, make it of the shards, which go."""
    if target.file is None:
        if report:
            record.publish(report.encode(), REPORT)
        return
    names = [shard.name(plan.options.ending) for shard in plan.shards]
    descriptor, staged = tempfile.mkstemp(prefix=f".{target.file.name}.", dir=target.file.parent)
    os.close(descriptor)
    try:
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
            with open_stream(Path(staged), ending.compression) as stream:
                for number, name in enumerate(names):
                    with store.local(name).open("rb") as part:
                        if number and ending.kind != ".jsonl":
                            part.seek(len(header(ending, [*plan.schema.names, *results.names])))
                        while block := part.read(_COPIED_BYTES):
                            stream.write(block)
        sync(Path(staged))
        Path(staged).chmod(0o644)
        Path(staged).replace(target.file)
        sync(target.file.parent)
    finally:
        Path(staged).unlink(missing_ok=True)
    if report:
        target.file.with_name(f"{target.file.name}{REPORT}").write_text(report, "utf-8")
    store.remove()
