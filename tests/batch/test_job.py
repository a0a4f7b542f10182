"""A job that is killed, stopped, short of disk or given something else loses nothing and doubles nothing."""

import fcntl
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from models.bundle import Bundle, open_bundle
from models.classifier import Classifier
from models.engine_onnx import OnnxEngine
from models.errors import BadRows, StancewireError, UsageError
from models.schema import FloatArray
from service.batch.files import Ending
from service.batch.job import Options
from service.batch.join import Target, shard_ending
from service.batch.run import Summary, run_job
from service.batch.scorer import AnswerFile, Scorer

KILLS = 200


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two files of 300 rows, a third of them texts that stand in other shards too, some that cannot be scored."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        rows: list[dict[str, Any]] = [{"id": f"{name}{n}", "text": f"We will talk about point {n % 200}."} for n in range(300)]
        rows[7]["text"], rows[8]["text"] = "", None
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "no JSON\n", "utf-8")
    return folder


def score(source: Path, target: Path, *bundles: Bundle, single: bool = False, **given: Any) -> Summary:
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
    context.set_forkserver_preload(["tests.batch.test_job"])
    process = context.Process(target=run_child, args=arguments)
    process.start()
    return process


def test_the_whole_of_a_folder(tmp_path: Path, archive: Path, bundle: Bundle) -> None:
    summary = score(archive, tmp_path / "out", bundle)
    assert (summary.counts.rows, summary.scored) == (602, 602)
    assert summary.counts.errors == {"empty": 4, "not_json": 2}
    table = pq.read_table(tmp_path / "out")  # `_job` is no part of the table
    assert table.column("id").to_pylist() == [f"a{n}" for n in range(300)] + [None] + [f"b{n}" for n in range(300)] + [None]
    texts = [
        text for text, error in zip(*(table.column(n).to_pylist() for n in ("text", "stance_error")), strict=True) if not error
    ]
    with Classifier(bundle, workers=1) as classifier:
        expected = [prediction.label for prediction in classifier.classify(texts)]
    assert [label for label in table.column("stance_label").to_pylist() if label is not None] == expected
    again = score(archive, tmp_path / "out", bundle)
    assert (again.scored, again.counts) == (0, summary.counts)


def test_a_text_is_computed_once_a_job(tmp_path: Path, archive: Path, bundle: Bundle) -> None:
    computed: list[int] = []

    class Counting(OnnxEngine):
        def run(self, rows: Sequence[Sequence[int]]) -> FloatArray:
            computed.append(len(rows))
            return super().run(rows)

    with Classifier(bundle, engine=Counting(bundle.path / bundle.manifest.engine.file), workers=1) as classifier:
        answers = AnswerFile(tmp_path / "answers.sqlite", [3])
        scorer = Scorer([classifier], answers, 5000)
        texts = [["We met.", "We talk.", "We  met."], ["We talk."], ["They met.", "We met."]]
        windows = [scorer.submit(part, {}) for part in texts]
        found = [scorer.finish(window)[0] for window in windows]
        assert sum(computed) == 3
        assert [[row.label for row in rows if row] for rows in found] == [
            [row.label for row in classifier.classify(part)] for part in texts
        ]
        answers.close()


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


def test_an_output_inside_the_input_is_no_input(tmp_path: Path, archive: Path, bundle: Bundle) -> None:
    score(archive, tmp_path / "elsewhere", bundle)
    for _ in range(2):
        score(archive, archive / "out", bundle)
        assert content(archive / "out") == content(tmp_path / "elsewhere")
    shutil.rmtree(archive / "out")
    for _ in range(2):
        score(archive, archive / "whole.jsonl", bundle, overwrite=True)
        assert len((archive / "whole.jsonl").read_text("utf-8").splitlines()) == 602


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


@pytest.mark.parametrize("kind", [".parquet", ".csv", ".jsonl", ".jsonl.gz", ".tsv.zst"])
def test_shards_are_joined_to_a_file(tmp_path: Path, archive: Path, bundle: Bundle, kind: str) -> None:
    score(archive, tmp_path / f"cut{kind}", bundle)
    score(archive, tmp_path / f"whole{kind}", bundle, shard_rows=100_000)
    if kind == ".parquet":
        assert pq.read_table(tmp_path / "cut.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
    else:
        assert (tmp_path / f"cut{kind}").read_bytes() == (tmp_path / f"whole{kind}").read_bytes()
    score(archive, tmp_path / "folder", bundle, single=True, ending=Ending(*_parts(kind)))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [f"scored{kind}"]
    assert (tmp_path / "folder" / f"scored{kind}").read_bytes() == (tmp_path / f"cut{kind}").read_bytes()


def _parts(kind: str) -> tuple[str, str]:
    head, _, tail = kind[1:].partition(".")
    return f".{head}", f".{tail}" if tail else ""


def test_inputs_of_several_kinds_are_one_table(tmp_path: Path, bundle: Bundle) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.csv").write_text("text,a\nWe met.,1\n")
    (folder / "2.jsonl").write_text('{"text": "We met.", "b": 2}\n')
    score(folder, tmp_path / "out.parquet", bundle)
    found = pq.read_table(tmp_path / "out.parquet").select(["text", "a", "b"]).to_pylist()
    assert found == [{"text": "We met.", "a": "1", "b": None}, {"text": "We met.", "a": None, "b": 2}]
    (folder / "3.jsonl").write_text('{"text": "We met.", "a": {"b": 1}}\n{"text": "We met.", "b": [1]}\n')
    with pytest.raises(UsageError, match="do not go together"):
        score(folder, tmp_path / "other.parquet", bundle)
    score(folder, tmp_path / "other.jsonl", bundle)


def test_two_models_are_compared_by_slice(tmp_path: Path, bundle: Bundle, tiny_base: Path) -> None:
    from models.bundle import save_bundle

    def turned(folder: Path) -> None:
        for name in bundle.manifest.files:
            (folder / name).write_bytes((bundle.path / name).read_bytes())

    labels = bundle.manifest.label_set.model_copy(update={"labels": ("pro_pressure", "pro_dialogue", "neutral")})
    other = save_bundle(tmp_path / "other", bundle.manifest.model_copy(update={"label_set": labels, "files": {}}), turned)
    source = tmp_path / "in.csv"
    source.write_text("text,desk\n" + "".join(f"We will talk about point {n}.,desk\t{n % 2}\n" for n in range(40)) + ",desk\t1\n")
    summary = score(source, tmp_path / "out", bundle, other, slices=("desk",))
    rows = pq.read_table(tmp_path / "out").to_pylist()
    changed = [row for row in rows if row["stance_changed"]]
    assert [row["stance_changed"] for row in rows] == [
        None if row["stance_1_label"] is None else row["stance_1_label"] != row["stance_2_label"] for row in rows
    ]
    assert {(row["stance_1_model"], row["stance_2_model"]) for row in rows} == {(bundle.id[:12], other.id[:12])}
    assert f"{len(changed)} of 40 rows" in summary.report
    by_desk = {desk: sum(row["desk"].split() == desk.split() for row in changed) / 20 for desk in ("desk 0", "desk 1")}
    assert all(f"| desk={desk} | 20 | {share:.1%} |" in summary.report for desk, share in by_desk.items())
    assert (tmp_path / "out" / "_changed.md").read_text("utf-8") == summary.report


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "stancewire", "score", *map(str, arguments)]


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
