"""Batch scoring: nothing of the input is lost, the answers are the classifier's, and a failure leaves nothing behind."""

import csv
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.classifier import Classifier
from models.errors import UsageError
from service.score import ScoreSummary, score_file
from service.tables import KINDS

TEXTS = ["We will talk, “now”.", "", 'He said "no",\nand left.', "대화를 계속한다 🙂", "x" * 5001, "We will talk, “now”."]
ERRORS = [None, "empty", None, None, "too_long", None]


@pytest.fixture(scope="module")
def classifier(tiny_bundle: Path) -> Iterator[Classifier]:
    with Classifier.open(tiny_bundle, workers=1) as opened:
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
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ","))


def score(source: Path, target: Path, classifier: Classifier, **options: Any) -> ScoreSummary:
    return score_file(source, target, classifier, progress=False, **options)


@pytest.mark.parametrize("kind_out", KINDS)
@pytest.mark.parametrize("kind_in", KINDS)
def test_every_kind_to_every_kind(tmp_path: Path, classifier: Classifier, kind_in: str, kind_out: str) -> None:
    rows = [{"id": f"00{i}", "text": text, "note": " a\r\n"} for i, text in enumerate(TEXTS)]
    target = tmp_path / f"out{kind_out}"
    summary = score(write(tmp_path / f"in{kind_in}", rows), target, classifier)
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
    assert {row["stance_model"] for row in found} == {classifier.bundle.id[:12]}
    assert (summary.rows, summary.errors, sum(summary.labels.values())) == (6, {"empty": 1, "too_long": 1}, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({f"in{kind_in}", f"out{kind_out}"})


def test_parquet_keeps_types_over_many_chunks(tmp_path: Path, classifier: Classifier) -> None:
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
    pq.write_table(table, tmp_path / "in.parquet")
    score(tmp_path / "in.parquet", tmp_path / "out.parquet", classifier)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(table.column_names).equals(table)
    assert found.schema.field("stance_confident").type == pa.bool_()
    with pytest.raises(UsageError, match="binary"):
        score(tmp_path / "in.parquet", tmp_path / "out.csv", classifier)


def test_rows_of_jsonl_keep_their_values(tmp_path: Path, classifier: Classifier) -> None:
    rows: list[dict[str, Any]] = [{"text": 5, "big": 2**70}, {"text": "a \ud800"}, {"other": {"a": [1.0]}}, {"text": "We met."}]
    source = write(tmp_path / "in.jsonl", rows)
    score(source, tmp_path / "out.jsonl", classifier)
    found = read(tmp_path / "out.jsonl")
    assert [{name: value for name, value in row.items() if not name.startswith("stance_")} for row in found] == rows
    assert [row["stance_error"] for row in found] == ["not_text", "not_text", "empty", None]


def test_objects_go_into_parquet_as_json(tmp_path: Path, classifier: Classifier) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": "a", "o": {"b": 1}, "l": []}, {"text": "a", "o": None, "l": ["x"]}])
    score(source, tmp_path / "out.parquet", classifier)
    assert [(row["o"], row["l"]) for row in read(tmp_path / "out.parquet")] == [('{"b": 1}', []), (None, ["x"])]


def test_a_key_that_comes_late(tmp_path: Path, classifier: Classifier) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": "a"}] * 2000 + [{"late": 1}])
    for kind in (".csv", ".parquet"):
        with pytest.raises(UsageError, match=r"in\.jsonl:2001: 'late'"):
            score(source, tmp_path / f"out{kind}", classifier)
    assert score(source, tmp_path / "out.jsonl", classifier).errors == {"empty": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_without_rows(tmp_path: Path, classifier: Classifier, kind: str) -> None:
    source = tmp_path / f"in{kind}"
    if kind == ".parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), source)
    else:
        source.write_text("" if kind == ".jsonl" else "text\n")
    assert score(source, tmp_path / f"out{kind}", classifier).rows == 0
    assert read(tmp_path / f"out{kind}") == []


def test_a_byte_order_mark_and_another_column(tmp_path: Path, classifier: Classifier) -> None:
    (tmp_path / "in.csv").write_bytes(b"\xef\xbb\xbfquote\r\nWe met.\r\n")
    assert score(tmp_path / "in.csv", tmp_path / "out.jsonl", classifier, text_column="quote").rows == 1
    assert read(tmp_path / "out.jsonl")[0]["quote"] == "We met."


FAULTS = {
    "no header": ("in.csv", b"", "is empty"),
    "column": ("in.csv", b"a,b\n1,2\n", "there are: a, b"),
    "column of an empty table": ("in.csv", b"a,b\n", "there are: a, b"),
    "encoding": ("in.csv", b"text\n\xff\n", "in.csv:2: not UTF-8"),
    "cells": ("in.csv", b"text,b\n1,2\n1\n", "in.csv:3: 1 cells"),
    "open quote": ("in.csv", b'text\n"a\n', "in.csv:2"),
    "result column": ("in.csv", b"text,stance_label\na,b\n", "Rename"),
    "same names": ("in.csv", b"text,text\na,b\n", "same name"),
    "array": ("in.jsonl", b'{"text": "a"}\n[1]\n', "in.jsonl:2: not a JSON object"),
    "json": ("in.jsonl", b'{"text": NaN}\n', "in.jsonl:1: not JSON"),
    "parquet": ("in.parquet", b"text\n", "not a Parquet file"),
    "extension": ("in.txt", b"text\n", "extension"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_leaves_nothing_behind(tmp_path: Path, classifier: Classifier, name: str) -> None:
    file, content, words = FAULTS[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        score(tmp_path / file, tmp_path / "out.csv", classifier)
    assert words in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_paths_that_cannot_be(tmp_path: Path, classifier: Classifier) -> None:
    source = write(tmp_path / "in.csv", [{"text": "a"}])
    (tmp_path / "old.csv").write_text("old")
    for target, words in (("in.csv", "is the input"), ("old.csv", "exists"), ("none/out.csv", "folder"), ("out", "extension")):
        with pytest.raises(UsageError, match=words):
            score(source, tmp_path / target, classifier)
    with pytest.raises(UsageError, match="no such file"):
        score(tmp_path / "none.csv", tmp_path / "out.csv", classifier)
    assert (tmp_path / "old.csv").read_text() == "old"
    score(source, tmp_path / "old.csv", classifier, overwrite=True)
    assert read(tmp_path / "old.csv")[0]["text"] == "a"
