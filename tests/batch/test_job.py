"""A job that is killed, stopped, short of disk or given something else loses nothing and doubles nothing."""

import fcntl
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from models.bundle import Bundle
from models.errors import BadRows, UsageError
from service.batch.files import Ending
from service.batch.run import Summary
from tests.batch.helpers import child, content, score

KILLS = 200


def test_killed_at_any_moment_nothing_is_lost_or_doubled(tmp_path: Path, archive: Path, tiny_bundle: Path, bundle: Bundle) -> None:
    score(archive, tmp_path / "whole", bundle)
    expected = content(tmp_path / "whole")
    assert len(expected) == 14
    started = time.monotonic()
    process = child(tiny_bundle, archive, tmp_path / "timed", None)
    process.join()
    assert process.exitcode == 0
    span = time.monotonic() - started
    draw = random.Random(5)
    jobs = kills = resumed = 0
    while kills < KILLS:
        target = tmp_path / f"out{jobs}"
        process = child(tiny_bundle, archive, target, None)
        process.join(draw.uniform(0, span))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
            resumed += any(target.glob("part-*"))
        elif process.exitcode == 0:
            assert content(target) == expected
            jobs += 1
        else:
            raise AssertionError(target.with_suffix(".said").read_text("utf-8"))
    score(archive, target, bundle)
    assert content(target) == expected
    assert not list((target / "_job").glob(".*"))
    assert resumed > KILLS / 10, "kills fell into jobs that were under way"


class Killed(BaseException):
    """As if the process ended here: nothing between the steps of a job tidies up."""


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_at_every_step_of_a_job_that_ends_in_one_file(
    tmp_path: Path, archive: Path, bundle: Bundle, other_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    def job(name: str) -> Summary:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return score(archive, folder / "out.csv", bundle, other_bundle, shard_rows=300, overwrite=overwrite)

    whole = job("whole")
    expected = content(tmp_path / "whole")
    assert list(expected) == ["out.csv", "out.csv_changed.md"]
    left = -1

    def step(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return real(*given, **named)

        return counted

    for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "chmod"), (os, "fsync"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, step(getattr(owner, name)))
    moment = 0
    while left <= 0:
        moment += 1
        left = moment
        name = f"killed{moment}"
        with suppress(Killed):
            job(name)
        if left > 0:  # it came to its end before that moment
            break
        finished = content(tmp_path / name) == expected and not (tmp_path / name / "out.csv.parts" / "_job" / "job.json").exists()
        try:
            summary = job(name)
        except UsageError as error:  # as after a job that was left alone
            assert finished and not overwrite and "exists" in str(error)
        else:
            assert summary.counts == whole.counts
            assert sorted(path.name for path in (tmp_path / name).iterdir()) == list(expected)
        assert content(tmp_path / name) == expected
    assert moment > 30


def test_a_damaged_or_missing_shard_is_made_again(tmp_path: Path, archive: Path, bundle: Bundle) -> None:
    score(archive, tmp_path / "out", bundle)
    expected = content(tmp_path / "out")
    (tmp_path / "out" / "part-00003.parquet").write_bytes(b"damaged")
    (tmp_path / "out" / "part-00005.parquet").unlink()
    assert score(archive, tmp_path / "out", bundle).scored == 100
    assert content(tmp_path / "out") == expected


def test_a_limit_on_the_size_of_files(tmp_path: Path, archive: Path, tiny_bundle: Path, bundle: Bundle) -> None:
    score(archive, tmp_path / "whole", bundle)
    process = child(tiny_bundle, archive, tmp_path / "out", 6000)
    process.join()
    assert process.exitcode == 2
    assert "Make room" in (tmp_path / "out.said").read_text("utf-8")
    score(archive, tmp_path / "out", bundle)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system of a given size")
@pytest.mark.parametrize("size_kb", [40, 160, 200, 240])
def test_a_file_system_without_room(tmp_path: Path, archive: Path, bundle: Bundle, size_kb: int) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "none", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        with pytest.raises(UsageError, match=r"(No space left on device|disk is full|disk I/O error)\).*Make room") as caught:
            score(archive, small / "out", bundle)
        assert "goes on from there" in str(caught.value)
        del caught  # its traceback holds on to files
        before = len(list((small / "out").glob("part-*")))
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        assert score(archive, small / "out", bundle).scored == 602 - sum(
            pq.read_metadata(path).num_rows for path in sorted((small / "out").glob("part-*"))[:before]
        )
        score(archive, tmp_path / "whole", bundle)
        assert content(small / "out") == content(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_what_a_job_was_not_begun_with_is_refused(tmp_path: Path, archive: Path, bundle: Bundle) -> None:
    out = tmp_path / "out"
    score(archive, out, bundle)
    other = Bundle(bundle.path, bundle.manifest, "f" * 64)
    calls: list[tuple[Callable[[], Summary], str]] = [
        (lambda: score(archive, out, other), f"model {bundle.id[:12]}, this is ffffffffffff"),
        (lambda: score(archive, out, bundle, shard_rows=60), "shard-rows 50, not 60"),
        (lambda: score(archive, out, bundle, ending=Ending(".csv")), "ending '.parquet', not '.csv'"),
        (lambda: score(archive / "a.jsonl", out, bundle), "other input files"),
    ]
    for call, words in calls:
        with pytest.raises(UsageError, match=words):
            call()
    with (archive / "a.jsonl").open("a") as stream:
        stream.write('{"text": "One more."}\n')
    with pytest.raises(UsageError, match=r"another content of .*a\.jsonl"):
        score(archive, out, bundle)
    assert score(archive, out, bundle, overwrite=True).scored == 603
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="holds no scoring job"):
            score(archive, tmp_path / "mine", bundle, overwrite=overwrite)


def test_two_at_once(tmp_path: Path, archive: Path, bundle: Bundle) -> None:
    score(archive, tmp_path / "out", bundle)
    with (tmp_path / "out" / "_job" / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            score(archive, tmp_path / "out", bundle)


def test_strict_fails_at_the_first_bad_row_and_keeps_what_is_finished(tmp_path: Path, archive: Path, bundle: Bundle) -> None:
    with pytest.raises(BadRows, match=r"a\.jsonl:8: empty"):
        score(archive, tmp_path / "out", bundle, shard_rows=5, strict=True)
    assert len(list((tmp_path / "out").glob("part-*"))) == 1
    assert score(archive, tmp_path / "out", bundle, shard_rows=5).scored == 597
