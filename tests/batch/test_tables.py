"""Nothing of an archive is lost: every value, every row, every line that is none."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.bundle import Bundle, open_bundle
from models.classifier import Classifier
from models.errors import UsageError
from service.batch.files import KINDS, Ending, Source, find_sources, read_ending
from service.batch.job import Options
from service.batch.join import Target, shard_ending
from service.batch.run import Summary, run_job
from service.batch.tables import read_chunks, scan

TEXTS = ["We will talk, “now”.", "", 'He said "no",\nand left.', "대화를 계속한다 🙂", "x" * 5001, "We will talk, “now”."]
ERRORS = [None, "empty", None, None, "too_long", None]


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def classifier(bundle: Bundle) -> Iterator[Classifier]:
    with Classifier(bundle, workers=1) as opened:
        yield opened


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


def score(source: Path | str, target: Path, bundle: Bundle, *, shard_rows: int = 20_000, text_column: str = "text") -> Summary:
    place, ending = Target.of(str(target), None, single=False)
    options = Options(text_column, shard_ending(place, ending), shard_rows)
    return run_job([str(source)], place, [bundle], options, workers=1, quiet=True)


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


def test_parquet_keeps_types_over_many_chunks(tmp_path: Path, bundle: Bundle) -> None:
    count = 4500
    table = pa.table(
        {
            "text": pa.array(["We met."] * count).dictionary_encode(),
            "at": pa.array([datetime(2020, 1, 1)] * count, pa.timestamp("ns", "UTC")),
            "small": pa.array([i % 100 for i in range(count)], pa.int8()),
            "tags": pa.array([["a"], None, []] * (count // 3), pa.list_(pa.string())),
            "blob": pa.array([b"\xff"] * count),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=700)
    score(tmp_path / "in.parquet", tmp_path / "out.parquet", bundle, shard_rows=999)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(table.column_names).equals(table)
    assert found.schema.field("stance_confident").type == pa.bool_()
    with pytest.raises(UsageError, match="binary"):
        score(tmp_path / "in.parquet", tmp_path / "out.csv", bundle)


def test_rows_of_jsonl_keep_their_values(tmp_path: Path, bundle: Bundle) -> None:
    rows: list[dict[str, Any]] = [{"text": 5, "big": 2**70}, {"text": "a \ud800"}, {"other": {"a": [1.0]}}, {"text": "We met."}]
    source = write(tmp_path / "in.jsonl", rows)
    score(source, tmp_path / "out.jsonl", bundle)
    found = read(tmp_path / "out.jsonl")
    assert [{name: value for name, value in row.items() if not name.startswith("stance_")} for row in found] == rows
    assert [row["stance_error"] for row in found] == ["not_text", "not_text", "empty", None]
    score(source, tmp_path / "out.parquet", bundle)  # where a column has one type
    assert [row["text"] for row in read(tmp_path / "out.parquet")] == ["5", "a \\ud800", None, "We met."]
    assert [row["big"] for row in read(tmp_path / "out.parquet")] == [str(2**70), None, None, None]


def test_objects_and_late_keys_of_jsonl_in_tables(tmp_path: Path, bundle: Bundle) -> None:
    rows: list[dict[str, Any]] = [{"text": "a", "o": {"b": 1}, "l": [], "n": 1}, {"text": "a", "o": None, "l": ["x"], "n": None}]
    source = write(tmp_path / "in.jsonl", rows + [{"text": "a"}] * 2500 + [{"n": 0.5, "late": True}])
    score(source, tmp_path / "out.parquet", bundle)
    found = read(tmp_path / "out.parquet")
    assert [(row["o"], row["l"], row["n"], row["late"]) for row in (*found[:2], found[-1])] == [
        ('{"b": 1}', [], 1.0, None),
        (None, ["x"], None, None),
        (None, None, 0.5, True),
    ]
    score(source, tmp_path / "out.csv", bundle)
    assert read(tmp_path / "out.csv")[-1]["late"] == "true"


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
    assert names((tmp_path / "b").as_uri() + "/*.csv") == ["b/.hidden.csv", "b/2.csv", "b/_job/x.csv"]
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
    found = [
        text
        for mark in reversed(extent.marks)
        for chunk in read_chunks(source, "text", mark, min(7, 50 - mark.row), 4)
        for text in chunk.texts("text")
    ]
    assert sorted(found) == sorted(texts)
    assert found[:1] == [texts[49]]


def test_a_source_is_told_by_its_content(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", [{"text": "a"}])
    [source] = find_sources([str(path)])
    before = source.fingerprint()
    write(path, [{"text": "b"}])
    assert source.fingerprint() != before
    remote = find_sources([path.as_uri()])[0]
    assert isinstance(remote, Source) and "changed_ns" in remote.fingerprint()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["We agree.\rNext", "a\r\nb", "\r", "a\tb", "hello \ud83d"])
def test_a_cell_with_line_ends_or_half_a_character_is_one_cell(tmp_path: Path, bundle: Bundle, kind: str, text: str) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": text, "n": 1}, {"text": "We met.", "n": 2}])
    score(source, tmp_path / f"out{kind}", bundle)
    found = read(tmp_path / f"out{kind}")
    escaped = text if kind == ".jsonl" else text.encode("utf-8", "backslashreplace").decode()
    assert [row["text"] for row in found] == [escaped, "We met."]
    if kind != ".jsonl":
        [again] = find_sources([str(tmp_path / f"out{kind}")])
        assert scan(again, "text", 10, typed=False).rows == 2


def test_types_of_json_do_not_depend_on_where_rows_stand(tmp_path: Path, bundle: Bundle) -> None:
    rows: list[dict[str, Any]] = [{"text": "We met.", "tags": [1], "id": 7}] * 1000
    rows.append({"text": "We met.", "tags": ["a"], "id": 1.5})
    score(write(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet", bundle)
    found = read(tmp_path / "out.parquet")
    assert (found[0]["tags"], found[-1]["tags"], found[0]["id"]) == ("[1]", '["a"]', 7.0)
    with pytest.raises(UsageError, match="too long for one"):  # sooner than write another number
        score(write(tmp_path / "in.jsonl", [{"text": "a", "id": 2**60 + 1}] * 1000 + rows[-1:]), tmp_path / "big.parquet", bundle)
    (tmp_path / "numbers.jsonl").write_text('{"text": 5}\nno JSON\n')
    score(tmp_path / "numbers.jsonl", tmp_path / "numbers.parquet", bundle)
    numbers = read(tmp_path / "numbers.parquet")
    assert [(row["text"], row["stance_error"]) for row in numbers] == [("5", "not_text"), ("no JSON", "not_json")]


def test_structs_and_depths_that_few_can_take(tmp_path: Path, bundle: Bundle) -> None:
    table = pa.table({"text": ["We met."] * 30, "meta": [{"a": 1, "b": None}] * 30})
    pq.write_table(table, tmp_path / "in.parquet")
    score(tmp_path / "in.parquet", tmp_path / "out.parquet", bundle, shard_rows=10)
    assert pq.read_table(tmp_path / "out.parquet").select(["text", "meta"]).equals(table)
    deep = '{"text": "We met.", "d": ' + "[" * 400 + "]" * 400 + "}\n"
    (tmp_path / "deep.jsonl").write_text(deep + '{"text": "We met."}\n')
    score(tmp_path / "deep.jsonl", tmp_path / "deep-out.jsonl", bundle)
    assert [row["stance_error"] for row in read(tmp_path / "deep-out.jsonl")] == ["not_json", None]
