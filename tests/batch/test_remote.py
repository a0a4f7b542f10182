"""The same job against a real S3 server on this machine, in and out by URL."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from tests.batch.helpers import command

ROWS = 120


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, pafs.S3FileSystem]]:
    """The query part of URLs at a server that holds an empty bucket `archive`, and the file system there."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with _environment(keys):
        filesystem = pafs.S3FileSystem(
            endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True, region="us-east-1"
        )
        filesystem.create_dir("archive")
        yield f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1", filesystem
    server.stop()


@contextmanager
def _environment(given: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in given}
    os.environ.update(given)
    yield
    for key, value in before.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})


def score(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=120)


def test_from_a_bucket_to_a_bucket(tmp_path: Path, tiny_bundle: Path, s3: tuple[str, pafs.S3FileSystem]) -> None:
    query, filesystem = s3
    for name in ("2024/a.jsonl", "2024/b.jsonl", "2025/c.jsonl", "2024/_notes.jsonl"):
        rows = "".join(json.dumps({"id": f"{name}{n}", "text": f"We will talk about point {n}."}) + "\n" for n in range(ROWS))
        with filesystem.open_output_stream(f"archive/{name}") as stream:
            stream.write(rows.encode())
    call = (f"s3://archive/2024{query}", f"s3://archive/2025/*.jsonl{query}", f"s3://archive/out{query}")
    options = ("--model", str(tiny_bundle), "--shard-rows", "50")
    done = score(*call, *options)
    assert (done.returncode, f"{3 * ROWS} rows" in done.stdout) == (0, True), done.stderr
    found = pq.read_table("archive/out", filesystem=filesystem)
    names = [f"{name}{n}" for name in ("2024/a.jsonl", "2024/b.jsonl", "2025/c.jsonl") for n in range(ROWS)]
    assert found.column("id").to_pylist() == names
    assert found.column("stance_label").null_count == 0
    filesystem.delete_file("archive/out/part-00004.parquet")
    again = score(*call, *options)
    assert "50 of them scored now" in again.stdout, again.stderr
    assert pq.read_table("archive/out", filesystem=filesystem).column("id").to_pylist() == names
    with filesystem.open_output_stream("archive/2025/c.jsonl") as stream:
        stream.write(b'{"id": "new", "text": "We met."}\n')
    refused = score(*call, *options)
    assert (refused.returncode, "c.jsonl" in refused.stderr, "Traceback" in refused.stderr) == (2, True, False)


def test_a_bucket_that_is_not_there(tmp_path: Path, tiny_bundle: Path, s3: tuple[str, pafs.S3FileSystem]) -> None:
    query, _ = s3
    for wrong in (f"s3://nowhere/a.csv{query}", f"s3://archive/none/*.csv{query}"):
        found = score(wrong, tmp_path / "out", "--model", str(tiny_bundle))
        assert (found.returncode, "Traceback" in found.stderr) == (2, False), found.stderr
        assert "no such file" in found.stderr or "cannot be listed" in found.stderr
