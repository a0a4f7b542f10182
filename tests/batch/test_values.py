"""Every value of an archive comes out as it went in, or as the kind of output can hold it."""

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.bundle import Bundle
from models.errors import UsageError
from service.batch.files import KINDS, find_sources
from service.batch.tables import scan
from tests.batch import helpers
from tests.batch.helpers import read, write

score = partial(helpers.score, shard_rows=20_000)


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
