import csv
import json
from pathlib import Path, PurePosixPath

import pytest

from models.errors import DataError
from models.schema import LabelSet
from training.briefings import COLUMNS, LABELS, SPEECHES, load_briefings, sentence_digest, write_labels
from training.check import REGISTERS

DOCUMENT = """---
title: A made-up briefing
---

**MS. ARDEN:** Well, look, we have said — and I will
say it again — that the door is open.  We will keep [the measures](https://example.org)
in place until they disarm.

> The session opens at nine.
"""
SOURCE = "wh-briefings/briefings/2030-01/one.md"
SENTENCES = [
    ("Well, look, we have said — and I will say it again — that the door is open.", "pro_dialogue"),
    ("We will keep the measures in place until they disarm.", "pro_pressure"),
    ("The session opens at nine.", "neutral"),
    ("This one stands nowhere.", "neutral"),
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        {"text": text, "label": label, "confidence": 3, "issue": "other", "register": "briefing", "source": SOURCE}
        for text, label in SENTENCES
    ]
    rows[0] |= {"label_a": "pro_dialogue", "label_b": "neutral"}
    rows[1] |= {"label_a": "pro_pressure", "label_b": "pro_pressure"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert write_labels(tmp_path / "rows.jsonl", tmp_path / "labels.csv") == 4
    return tmp_path / "labels.csv"


def test_the_table_holds_no_sentence(table: Path) -> None:
    content = table.read_text("utf-8")
    assert "door" not in content
    assert sentence_digest(SENTENCES[0][0]) in content


@pytest.mark.parametrize("clone", ["clone", "clones/wh-briefings"])
def test_text_comes_from_a_clone_or_a_folder_of_clones(tmp_path: Path, table: Path, clone: str) -> None:
    (tmp_path / clone / "briefings/2030-01").mkdir(parents=True)
    (tmp_path / clone / "briefings/2030-01/one.md").write_text(DOCUMENT, "utf-8")
    found = load_briefings(tmp_path / clone.partition("/")[0], LabelSet(), [table])
    assert {(example.text, example.label) for example in found.examples} == set(SENTENCES[:3])
    assert (found.found, found.missing) == ({"wh-briefings": 3}, {"wh-briefings": 1})
    assert [example.text for example in found.examples if example.contested] == [SENTENCES[0][0]]
    assert {(example.group, example.slices["origin"]) for example in found.examples} == {(SOURCE, ("real", "wh-briefings"))}


def test_text_comes_from_a_file(tmp_path: Path, table: Path) -> None:
    found = load_briefings(tmp_path / "rows.jsonl", LabelSet(), [table])
    assert (len(found.examples), found.missing.total()) == (4, 0)


def test_several_tables_and_parts_of_a_document(tmp_path: Path, table: Path) -> None:
    rows = [
        {"text": "We want talks, and soon.", "label": "pro_dialogue", "source": "messages/all.csv#7"},
        {"text": SENTENCES[2][0], "label": "pro_pressure", "source": "messages/all.csv#8"},
    ]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row | {"register": "speech"}) + "\n" for row in rows), "utf-8")
    write_labels(tmp_path / "more.jsonl", tmp_path / "more.csv")
    (tmp_path / "messages").mkdir()
    (tmp_path / "messages/all.csv").write_text('id,text\n7,"Good morning. We want talks, and soon."\n', "utf-8")
    (tmp_path / "briefings/2030-01").mkdir(parents=True)
    (tmp_path / "briefings/2030-01/one.md").write_text(DOCUMENT, "utf-8")
    found = load_briefings(tmp_path, LabelSet(), [table, tmp_path / "more.csv"])
    assert {example.group: example.label for example in found.examples if example.text.startswith(("We want", "The session"))} == {
        "messages/all.csv#7": "pro_dialogue",
        SOURCE: "neutral",  # where two tables have a sentence the first one counts
    }


def test_what_does_not_fit_gets_a_sentence(tmp_path: Path, table: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has none of the 4 labelled sentences"):
        load_briefings(tmp_path / "empty", LabelSet(), [table])
    with pytest.raises(DataError, match="there is no"):
        load_briefings(tmp_path / "absent", LabelSet(), [table])
    with pytest.raises(DataError, match="for a label set of your own"):
        load_briefings(tmp_path / "empty", LabelSet(labels=("dovish", "hawkish")), [table])
    with pytest.raises(DataError, match="columns sha256"):
        load_briefings(tmp_path / "empty", LabelSet(), [tmp_path / "rows.jsonl"])
    (tmp_path / "bad.jsonl").write_text("[1]\n", "utf-8")
    with pytest.raises(DataError, match=r"bad.jsonl:1: not a JSON object"):
        load_briefings(tmp_path / "bad.jsonl", LabelSet(), [table])


@pytest.mark.parametrize(("table", "size"), [(LABELS, 4758), (SPEECHES, 3234)])
def test_the_committed_tables_are_whole(table: Path, size: int) -> None:
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len({row["sha256"] for row in rows}) == size
    assert tuple(rows[0]) == COLUMNS
    assert {row["label"] for row in rows} == set(LabelSet().labels)
    assert all(len(row["sha256"]) == 64 and int(row["words"]) > 0 for row in rows)
    assert {row["register"] for row in rows} <= REGISTERS
    assert all(row["label_a"] and row["label_b"] for row in rows)
    assert all(PurePosixPath(row["source"]).parts[0] and "/" in row["source"] for row in rows)
