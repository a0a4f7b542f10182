"""The same job on a real Ray, two actors on this machine, one of them killed half-way."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from models.bundle import open_bundle
from service.batch.job import Options
from service.batch.join import Target
from service.batch.run import run_job
from tests.batch.helpers import command

pytest.importorskip("ray", reason="Ray is an extra: pip install 'stancewire[ray]'")
SHARDS = 12


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    rows = [{"id": n, "text": f"We will talk about point {n} of the long list of points."} for n in range(SHARDS * 2500)]
    rows[5]["text"] = ""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def actors() -> list[int]:
    """Process ids of the actors that hold an engine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"MapWorker" in path.read_bytes() and path.stat().st_uid == os.getuid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_an_actor_that_is_killed_loses_nothing(tmp_path: Path, archive: Path, tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    options = Options(shard_rows=2500)
    run_job([str(archive)], Target.of(str(tmp_path / "here"), None, single=False)[0], [bundle], options, workers=1, quiet=True)
    out = tmp_path / "out"
    call = command(archive, out, "--model", tiny_bundle, "--shard-rows", "2500")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [*call, "--engine", "ray", "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        while not list(out.glob("part-*")) and process.poll() is None:
            time.sleep(0.01)
        killed = actors()
        assert process.poll() is None and len(killed) == 2
        os.kill(killed[0], signal.SIGKILL)
        said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert f"{SHARDS * 2500} rows" in said[0]
    found, expected = pq.read_table(out), pq.read_table(tmp_path / "here")
    assert found.schema.equals(expected.schema)
    for name in found.column_names:
        if "_p_" in name or name.endswith("score"):
            pairs = zip(found.column(name).to_pylist(), expected.column(name).to_pylist(), strict=True)
            assert all(a == b or (a is not None and b is not None and abs(a - b) < 1e-4) for a, b in pairs)
        else:
            assert found.column(name).equals(expected.column(name)), name
    (out / "part-00003.parquet").unlink()
    again = subprocess.run(call, capture_output=True, text=True, check=True)  # and this process goes on with Ray's job
    assert "2500 of them scored now" in again.stdout


def test_a_signal_ends_the_job_and_the_same_call_goes_on(tmp_path: Path, archive: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "out"
    call = command(archive.name, out, "--model", tiny_bundle, "--shard-rows", "2500", "--engine", "ray", "--workers", "1")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(call, cwd=archive.parent, stderr=subprocess.PIPE, text=True, env=environment) as process:
        while not list(out.glob("part-*")) and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 3, said
    assert "The same command goes on from there" in said
    assert len(list(out.glob("part-*"))) < SHARDS
    found = subprocess.run(call, cwd=archive.parent, capture_output=True, text=True, check=True, env=environment)
    assert f"{SHARDS * 2500} rows" in found.stdout
    assert len(list(out.glob("part-*"))) == SHARDS


def test_a_cluster_that_is_not_there(tmp_path: Path, archive: Path, tiny_bundle: Path) -> None:
    call = command(archive, tmp_path / "out", "--model", tiny_bundle)
    found = subprocess.run([*call, "--engine", "ray", "--address", "127.0.0.1:1"], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "no Ray cluster answers" in found.stderr
    assert "Traceback" not in found.stderr
