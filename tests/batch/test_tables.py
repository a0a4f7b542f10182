"""Nothing of an archive is lost: every row, every file, every line that is none."""

import gzip
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.bundle import Bundle
from models.classifier import Classifier
from models.errors import UsageError
from service.batch.files import KINDS, Ending, Source, find_sources, read_ending
from service.batch.tables import Reader, scan
from service.batch.text_rows import Mark
from tests.batch import helpers
from tests.batch.helpers import read, write

TEXTS = ["We will talk, “now”.", "", 'He said "no",\nand left.', "대화를 계속한다 🙂", "x" * 5001, "We will talk, “now”."]
ERRORS = [None, "empty", None, None, "too_long", None]

score = partial(helpers.score, shard_rows=20_000)


@pytest.fixture(scope="module")
def classifier(bundle: Bundle) -> Iterator[Classifier]:
    with Classifier(bundle, workers=1) as opened:
        yield opened


@pytest.mark.parametrize("shard_rows", [20_000, 2])
@pytest.mark.parametrize("kind_out", [*KINDS, ".csv.gz", ".jsonl.zst"])
@pytest.mark.parametrize("kind_in", KINDS)
def test_every_kind_to_every_kind(
    tmp_path: Path, bundle: Bundle, classifier: Classifier, kind_in: str, kind_out: str, shard_rows: int
) -> None:
    rows = [{"id": f"00{i}", "text": text, "note\n": " a\r\n"} for i, text in enumerate(TEXTS)]
    target = tmp_path / f"out{kind_out}"
    summary = score(write(tmp_path / f"in{kind_in}", rows), target, bundle, shard_rows=shard_rows)
    found = read(target)
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert [row["stance_error"] or None for row in found] == ERRORS
    good = [row for row in found if not row["stance_error"]]
    expected = classifier.classify([row["text"] for row in good])
    for row, prediction in zip(good, expected, strict=True):
        assert row["stance_label"] == prediction.label
        assert str(row["stance_confident"]).lower() == str(prediction.confident).lower()
        for label, value in prediction.probabilities.items():
            assert float(row[f"stance_p_{label}"]) == pytest.approx(value, abs=2e-3)
    assert {row["stance_model"] for row in found} == {bundle.id[:12]}
    counts = summary.counts
    assert (counts.rows, counts.errors, counts.labels[0].total()) == (6, {"empty": 1, "too_long": 1}, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({f"in{kind_in}", f"out{kind_out}"})


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_compressed_input(tmp_path: Path, bundle: Bundle, kind: str, compression: str) -> None:
    rows = [{"id": f"00{i}", "text": text} for i, text in enumerate(TEXTS)]
    plain = write(tmp_path / f"in{kind}", rows)
    packed = plain.with_name(plain.name + (".gz" if compression == "gzip" else ".zst"))
    with pa.CompressedOutputStream(str(packed), compression) as stream:
        stream.write(plain.read_bytes())
    score(packed, tmp_path / "a.jsonl", bundle, shard_rows=2)
    score(plain, tmp_path / "b.jsonl", bundle, shard_rows=2)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(UsageError, match="Give a whole file"):
        score(packed, tmp_path / "c.jsonl", bundle)


BROKEN: dict[str, tuple[str, bytes, list[tuple[str, str | None]]]] = {
    "cells": (".csv", b"text,b\n1,2\n1\n3,4,5\n7,8\n", [("1", None), ("1", "wrong_cells"), ("3,4,5", "wrong_cells"), ("7", None)]),
    "open quote": (".csv", b'text,b\n"a,2\nb,c\nd,e\n', [('"a,2', "not_csv"), ("b", None), ("d", None)]),
    "stray quote": (".csv", b'text,b\n"a"x,2\nb,c\n', [('"a"x,2', "not_csv"), ("b", None)]),
    "bytes": (".csv", b"text,b\na \xff,2\nb,c\n", [("a \\xff", "not_utf8"), ("b", None)]),
    "array": (".jsonl", b'{"text": "a"}\n[1]\n{"text": "b"}\n', [("a", None), ("[1]", "not_object"), ("b", None)]),
    "json": (".jsonl", b'{"text": NaN}\n\n{"text": "b"}', [('{"text": NaN}', "not_json"), ("b", None)]),
    "cut": (".jsonl", b'{"text": "a"}\n{"te', [("a", None), ('{"te', "not_json")]),
    "bytes in JSON": (".jsonl", b'{"text": "\xff"}\n{"text": "b"}\n', [('{"text": "\\xff"}', "not_utf8"), ("b", None)]),
    "NUL": (".tsv", b"text\tb\na\x00\t1\n", [("a\x00", None)]),
}


@pytest.mark.parametrize("out", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("shard_rows", [20_000, 1])
@pytest.mark.parametrize("name", BROKEN)
def test_a_line_that_is_no_row_stays_as_one(tmp_path: Path, bundle: Bundle, name: str, shard_rows: int, out: str) -> None:
    kind, content, expected = BROKEN[name]
    (tmp_path / f"in{kind}").write_bytes(content)
    score(tmp_path / f"in{kind}", tmp_path / f"out{out}", bundle, shard_rows=shard_rows)
    found = read(tmp_path / f"out{out}")
    assert [(row["text"], row["stance_error"] or None) for row in found] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_without_rows(tmp_path: Path, bundle: Bundle, kind: str) -> None:
    source = tmp_path / f"in{kind}"
    if kind == ".parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), source)
    else:
        source.write_text("" if kind == ".jsonl" else "text\n")
    for out in KINDS:
        assert score(source, tmp_path / f"out{out}", bundle).counts.rows == 0
        assert read(tmp_path / f"out{out}") == []


def test_a_byte_order_mark_and_another_column(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "in.csv").write_bytes(b"\xef\xbb\xbfquote\r\nWe met.\r\n")
    assert score(tmp_path / "in.csv", tmp_path / "out.jsonl", bundle, text_column="quote").counts.rows == 1
    assert read(tmp_path / "out.jsonl")[0]["quote"] == "We met."


FAULTS = {
    "no header": ("in.csv", b"", "is empty"),
    "header": ("in.csv", b"text,\xff\n", "first line is not UTF-8"),
    "column": ("in.csv", b"a,b\n1,2\n", "there are: a, b"),
    "column of an empty table": ("in.csv", b"a,b\n", "there are: a, b"),
    "result column": ("in.csv", b"text,stance_label\na,b\n", "Rename"),
    "same names": ("in.csv", b"text,text\na,b\n", "same name"),
    "parquet": ("in.parquet", b"text\n", "cannot be read as PARQUET"),
    "gzip": ("in.csv.gz", b"text\n", "cannot be read as CSV"),
    "result column of JSON": ("in.jsonl", b'{"text": "a"}\n{"text": "a", "stance_label": "gold"}\n', "Rename"),
    "surrogate in a name": ("in.jsonl", b'{"text": "a", "k\\ud83d": 1}\n', "no table can hold"),
    "extension": ("in.txt", b"text\n", "extension"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_cannot_be_used_leaves_nothing_behind(tmp_path: Path, bundle: Bundle, name: str) -> None:
    file, content, words = FAULTS[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        score(tmp_path / file, tmp_path / ("out.jsonl" if "JSON" in name else "out.csv"), bundle)
    assert words in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_paths_that_cannot_be(tmp_path: Path, bundle: Bundle) -> None:
    source = write(tmp_path / "in.csv", [{"text": "a"}])
    (tmp_path / "old.csv").write_text("old")
    for target, words in (("in.csv", "is the input"), ("old.csv", "exists"), ("none/out.csv", "folder")):
        with pytest.raises(UsageError, match=words):
            score(source, tmp_path / target, bundle)
    with pytest.raises(UsageError, match="no such file"):
        score(tmp_path / "none.csv", tmp_path / "out.csv", bundle)
    assert (tmp_path / "old.csv").read_text() == "old"


def test_inputs_by_folder_glob_and_url(tmp_path: Path) -> None:
    for name in ("b/2.csv", "b/1.jsonl.gz", "b/.hidden.csv", "b/_job/x.csv", "b/c/3.parquet", "b/notes.txt", "a.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def names(*inputs: str) -> list[str]:
        return [str(Path(source.path).relative_to(tmp_path)) for source in find_sources(inputs)]

    assert names(str(tmp_path / "b")) == ["b/1.jsonl.gz", "b/2.csv", "b/c/3.parquet"]
    assert names(str(tmp_path / "*.csv"), str(tmp_path / "a.csv")) == ["a.csv"]
    assert names(str(tmp_path / "**/*.csv"))[:2] == ["a.csv", "b/.hidden.csv"]
    assert names((tmp_path / "b").as_uri()) == ["b/1.jsonl.gz", "b/2.csv", "b/c/3.parquet"]
    kept = ("2.csv", "1.jsonl.gz", ".hidden.csv", "_job/x.csv", "c/3.parquet")
    for glob in ("/*.csv", "/**/*.csv", "/[12].*", "/*/*.csv", "/c/3.parquet"):
        fsspec.filesystem("memory").pipe({f"/b/{name}": b"" for name in kept})
        there = [source.path.removeprefix("/") for source in find_sources([f"memory://b{glob}"])]
        assert names((tmp_path / "b").as_uri() + glob) == there, glob
    assert names((tmp_path / "a.csv").as_uri()) == ["a.csv"]
    for wrong in (str(tmp_path / "none*"), "file:///nowhere/at/all", str(tmp_path / "b/notes.txt")):
        with pytest.raises(UsageError):
            find_sources([wrong])
    with pytest.raises(UsageError, match="cannot be opened"):
        find_sources(["banana://x/y.csv"])


def test_endings() -> None:
    assert read_ending("a.b/c.CSV.GZ") == Ending(".csv", ".gz")
    assert read_ending("c.parquet") == Ending(".parquet")
    assert [read_ending(name) for name in ("c.parquet.gz", "c.gz", "csv", "", "c.csv.bz2")] == [None] * 5


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".csv.gz"])
def test_rows_are_read_from_where_they_stand(tmp_path: Path, kind: str) -> None:
    lines = ["text"] if kind != ".jsonl" else []
    texts = [f"“{n}”" + ("\nsecond line" if n % 3 == 0 else "") for n in range(50)]
    lines += [json.dumps({"text": text}) if kind == ".jsonl" else f'"{text}"' for text in texts]
    content = ("\ufeff" + "\n".join(lines)).encode()
    path = tmp_path / f"in{kind}"
    path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    [source] = find_sources([str(path)])
    extent = scan(source, "text", 7, typed=False)
    assert (extent.rows, len(extent.marks)) == (50, 8)
    opened = 0

    class Watched(Source):
        def open(self) -> IO[bytes]:
            nonlocal opened
            opened += 1
            return super().open()

    watched = Watched(source.filesystem, source.path, source.shown, source.ending, True)
    with Reader("text") as reader:

        def texts_from(marks: Sequence[Mark]) -> list[list[str]]:
            return [
                [text for chunk in reader.chunks(watched, mark, min(7, 50 - mark.row), 4) for text in chunk.texts("text")]
                for mark in marks
            ]

        parts = [texts[start : start + 7] for start in range(0, 50, 7)]
        assert texts_from(extent.marks) == parts
        assert opened == 1
        assert texts_from(extent.marks[1::3]) == parts[1::3]  # forward over what is not wanted
        assert opened == (2 if kind.endswith(".gz") else 1)
        assert texts_from(extent.marks[::-1]) == parts[::-1]


def test_a_source_is_told_by_its_content(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", [{"text": "a"}])
    [source] = find_sources([str(path)])
    before = source.fingerprint()
    write(path, [{"text": "b"}])
    assert source.fingerprint() != before
