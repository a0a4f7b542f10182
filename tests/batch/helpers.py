"""A job, and what it leaves, for the tests of scoring."""

import csv
import io
import json
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.bundle import Bundle, open_bundle
from models.errors import StancewireError
from service.batch.files import find_sources
from service.batch.job import Options
from service.batch.join import Target, shard_ending
from service.batch.run import Summary, run_job


def score(source: Path | str, target: Path | str, *bundles: Bundle, single: bool = False, **given: Any) -> Summary:
    options = {key: given.pop(key) for key in ("text_column", "shard_rows", "slices") if key in given}
    place, ending = Target.of(str(target), given.pop("ending", None), single=single)
    chosen = Options(ending=shard_ending(place, ending), **({"shard_rows": 50} | options))  # type: ignore[arg-type]
    return run_job([str(source)], place, bundles, chosen, workers=1, quiet=True, **given)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def run_child(bundle: Path, source: Path, target: Path, rlimit: int | None) -> None:
    """What a process of its own does: the job, with exit code 0 where it came to its end."""
    os.close(2)
    if rlimit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (rlimit, rlimit))
    try:
        score(source, target, open_bundle(bundle))
    except StancewireError as error:
        target.with_suffix(".said").write_text(str(error), "utf-8")
        os._exit(2)
    os._exit(0)


def child(*arguments: Any) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.batch.helpers"])
    process = context.Process(target=run_child, args=arguments)
    process.start()
    return process


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "stancewire", "score", *map(str, arguments)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as stream:
            table = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    [source] = find_sources([str(path)])
    with source.open() as stream:
        text = stream.read().decode("utf-8")
    if source.ending.kind == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if source.ending.kind == ".tsv" else ","))
