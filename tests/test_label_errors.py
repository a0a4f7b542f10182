"""The audit finds labels that were turned on purpose, counts, and refuses what makes results untrue."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from models.errors import DataError
from stancewire.command import app
from tests.conftest import CORPUS
from training.label_errors import find_suspects, unseen_probabilities

LABELS = ("pro_dialogue", "pro_pressure", "neutral")


def test_a_suspect_is_what_another_label_takes_with_its_usual_confidence() -> None:
    given = ["pro_dialogue", "pro_dialogue", "pro_pressure", "pro_pressure", "neutral"]
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.1, 0.6, 0.3], [0.45, 0.4, 0.15], [0.4, 0.3, 0.3]])
    # usual confidences: .45, .50, .30
    found = find_suspects(given, probabilities, LABELS)
    assert [(each.position, each.likely, round(each.margin, 3)) for each in found] == [
        (1, "pro_pressure", 0.6),
        (3, "pro_dialogue", 0.05),
    ]


def test_a_row_whose_own_label_is_the_likeliest_is_no_suspect() -> None:
    given = ["neutral", "neutral", "pro_dialogue", "pro_dialogue"]
    probabilities = np.array([[0.45, 0.55], [0.0, 1.0], [0.4, 0.6], [0.4, 0.6]])
    assert [each.position for each in find_suspects(given, probabilities, ("pro_dialogue", "neutral"))] == []


def test_rows_of_one_family_are_not_unrelated() -> None:
    given = ["neutral"] * 6 + ["pro_dialogue"] * 6
    with pytest.raises(DataError, match="5 unrelated rows of each label"):
        unseen_probabilities(["text"] * 12, given, [0, 1, 2, 3, 4, 5] + [6] * 6, ("pro_dialogue", "neutral"), Path("none"))


@pytest.fixture
def turned(tmp_path: Path) -> tuple[Path, set[str]]:
    """Quotes of which one in twenty has a wrong label, and the ids of these."""
    rows = [json.loads(line) for name in ("06_briefings", "07_un") for line in (CORPUS / f"{name}.jsonl").open(encoding="utf-8")]
    draw = random.Random(1)
    wrong = draw.sample(rows, len(rows) // 20)
    for row in wrong:
        row["label"] = draw.choice([label for label in LABELS if label != row["label"]])
    path = tmp_path / "quotes.jsonl"
    columns = ("id", "text", "label", "register")
    path.write_text("".join(json.dumps({name: row[name] for name in columns}) + "\n" for row in rows), "utf-8")
    return path, {row["id"] for row in wrong}


def test_turned_labels_stand_high_among_the_suspects(turned: tuple[Path, set[str]], tmp_path: Path) -> None:
    path, wrong = turned
    report = tmp_path / "audit.json"
    command = ["labels", "audit", str(path), "--slice-column", "register", "--report", str(report), "--most", "3"]
    result = CliRunner().invoke(app, command)
    found = json.loads(report.read_text("utf-8"))
    first = {suspect["id"] for suspect in found["suspects"][: len(wrong)]}
    assert len(first & wrong) / len(wrong) > 0.3, "one in twenty would be chance"
    caught = {suspect["id"] for suspect in found["suspects"]} & wrong
    assert len(caught) / len(wrong) > 0.5
    assert sum(found["counts"]["register=briefing"].values()) > 100
    assert result.output.count(", likely ") == 3
    assert f"{len(found['suspects'])} labels are likely wrong" in result.output
    assert result.exit_code == (1 if found["problems"] else 0)


def test_a_model_that_has_not_learnt_the_rows_may_judge(turned: tuple[Path, set[str]], tiny_bundle: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["labels", "audit", str(turned[0]), "--model", str(tiny_bundle), "--most", "0"])
    assert "by tiny (" in result.output
    text = tmp_path / "other.jsonl"
    text.write_text('{"text": "We met.", "label": "a"}\n{"text": "They left early.", "label": "b"}\n', "utf-8")
    other = CliRunner().invoke(app, ["labels", "audit", str(text), "--model", str(tiny_bundle), "--label", "a", "--label", "b"])
    assert "has the labels pro_dialogue" in str(other.exception)


def test_rows_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    rows = [
        {"text": f"{word} {number} was said at the door by the man who came.", "label": label}
        for number in range(6)
        for word, label in zip(("Alpha", "Beta", "Gamma"), LABELS, strict=True)
    ]
    path = tmp_path / "quotes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | {"label": "neutral"}]), "utf-8")
    result = CliRunner().invoke(app, ["labels", "audit", str(path)])
    assert result.exit_code != 0
    assert "the same text as" in result.output and "with two labels" in result.output
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(row) + "\n" for row in rows[:4]), "utf-8")
    result = CliRunner().invoke(app, ["labels", "audit", str(few)])
    assert result.exit_code == 1 and "no labels were judged: an audit needs 5 unrelated rows of each label" in result.output
    apart = ("The session opens at nine.", "Sanctions will stay until they disarm.", "We are ready to meet them any time.")
    few.write_text("".join(json.dumps({"text": text, "label": "neutral"}) + "\n" for text in apart), "utf-8")
    result = CliRunner().invoke(app, ["labels", "audit", str(few)])
    assert result.exit_code == 1 and "no labels were judged" in result.output
    few.write_text('{"text": 5}\n', "utf-8")
    result = CliRunner().invoke(app, ["labels", "audit", str(few)])
    assert result.exit_code == 1 and "no labels were judged" in result.output
