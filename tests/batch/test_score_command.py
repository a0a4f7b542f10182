"""`stancewire score` as a process: its words, its signals, its exit codes."""

import csv
import signal
import subprocess
import threading
import time
from pathlib import Path

from models.bundle import Bundle
from tests.batch.helpers import command


def test_a_signal_ends_the_shard_at_hand_and_the_same_call_goes_on(tmp_path: Path, bundle: Bundle) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out"
    source.write_text("text\n" + "".join(f"We will talk about point {n} of the long list of points.\n" for n in range(60_000)))
    call = command(source, out, "--model", bundle.path, "--shard-rows", "5000")
    for number in (signal.SIGINT, signal.SIGTERM):
        done = len(list(out.glob("part-*")))
        with subprocess.Popen(call, stderr=subprocess.PIPE, text=True) as process:
            watch = threading.Timer(60, process.kill)
            watch.start()
            while len(list(out.glob("part-*"))) == done and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(number)
            said = process.communicate()[1]
            watch.cancel()
        assert process.returncode == 3, said
        assert "The same command goes on from there" in said
        assert done < len(list(out.glob("part-*"))) < 12
        assert not list((out / "_job").glob(".*"))
    found = subprocess.run(call, capture_output=True, text=True, check=True)
    assert "60000 rows" in found.stdout
    assert len(list(out.glob("part-*"))) == 12


def test_a_second_signal_ends_it_at_once_and_nothing_is_lost(tmp_path: Path, bundle: Bundle) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out"
    source.write_text("text\n" + "".join(f"We will talk about point {n} of the long list of points.\n" for n in range(90_000)))
    call = command(source, out, "--model", bundle.path, "--format", "csv", "--shard-rows", "30000")
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True) as process:
        watch = threading.Timer(60, process.kill)
        watch.start()
        while not list(out.glob("part-*")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "stopping when the shard" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate()
        watch.cancel()
    assert process.returncode == 130
    assert len(list(out.glob("part-*"))) < 3, "it did not go on to the end"
    subprocess.run(call, capture_output=True, check=True)
    rows = [row for path in sorted(out.glob("part-*")) for row in csv.DictReader(path.open(encoding="utf-8", newline=""))]
    assert [row["text"] for row in rows] == source.read_text("utf-8").splitlines()[1:]
    assert all(row["stance_label"] for row in rows)


def test_the_command_says_what_it_did(tmp_path: Path, archive: Path, bundle: Bundle) -> None:
    call = command(archive / "a.jsonl", archive / "b.jsonl", tmp_path / "out.csv.gz", "--model", bundle.path)
    found = subprocess.run(call, capture_output=True, text=True, check=True)
    for words in ("602 rows", bundle.id[:12], "not confident", "not scored, empty: 4", "not scored, not_json: 2"):
        assert words in found.stdout
    again = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (again.returncode, "--overwrite" in again.stderr) == (2, True)
    strict = subprocess.run(
        command(archive, tmp_path / "strict", "--model", bundle.path, "--strict"), capture_output=True, text=True, check=False
    )
    assert (strict.returncode, "a.jsonl:8: empty" in strict.stderr) == (1, True)
    for wrong, words in (
        ((archive,), "at least one input"),
        ((archive, tmp_path / "x", "--format", "xlsx"), "--format xlsx"),
        ((archive, tmp_path / "x", "--resume", "--overwrite"), "Choose one"),
        ((archive, tmp_path / "x.csv", "--format", "parquet"), "differ"),
        ((archive, "memory://x/y.csv"), "to a path"),
    ):
        failed = subprocess.run(command(*wrong), capture_output=True, text=True, check=False)
        assert (failed.returncode, words in failed.stderr, "Traceback" in failed.stderr) == (2, True, False), failed.stderr
