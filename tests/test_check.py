"""The checker of labelled quotes: the corpus passes, and every fault is found where it is."""

import json
import random
from pathlib import Path

import pytest

from models.schema import LabelSet
from training.audit import clusters, conflicts, near_duplicates, normal_key
from training.check import check_files

CORPUS = sorted((Path(__file__).parent.parent / "training" / "corpus").glob("*.jsonl"))


def quote(text: str, label: str = "neutral", **fields: object) -> bytes:
    return json.dumps({"text": text, "label": label} | fields).encode() + b"\n"


def test_the_corpus_has_no_problem() -> None:
    report = check_files(CORPUS, LabelSet())
    assert report.problems == ()
    assert report.rows == sum(report.labels.values()) > 3000


LONG = "the ministers met in the capital and agreed to meet again before the end of the year"
FAULTS = {
    "utf8": (quote("fine") + b'{"text": "\xff"}\n', 2, "not UTF-8 at byte 47"),
    "bom": (b"\xef\xbb\xbf" + quote("fine"), 1, "byte-order mark"),
    "utf16": ("\ufeff{}".encode("utf-16-le"), 1, "UTF-16"),
    "surrogate": (quote("a \ud800"), 1, "surrogate"),
    "json": (quote("a") + b"{\n", 2, "not JSON"),
    "object": (b"[]\n", 1, "not a JSON object"),
    "column": (b'{"text": "a"}\n', 1, "has no 'label'"),
    "label": (quote("a", "Pro-dialog"), 1, "Did you mean 'pro_dialogue'?"),
    "third annotator": (quote("a", label_c="no"), 1, "unknown label_c 'no'"),
    "annotator": (quote("a", label_a="neutral", label_b="pro_presure"), 1, "unknown label_b 'pro_presure'"),
    "string": (b'{"text": 3, "label": "neutral"}\n', 1, "not a string"),
    "empty text": (quote("\u200b "), 1, "empty"),
    "characters": (quote("x" * 2001), 1, "2001 characters"),
    "words": (quote("x " * 201), 1, "201 words"),
    "id": (quote("a", id="1") + quote("b", id="1"), 2, "the id '1'"),
    "exact": (quote("We met.") + quote("we  met"), 2, "the same text as"),
    "conflict": (quote("We met.") + quote("we met", "pro_dialogue"), 2, "two labels"),
    "near": (quote(LONG, pair="a") + quote(f"{LONG} too", "pro_dialogue"), 2, "nearly the same"),
    "pair": (quote("a", pair="p"), 1, "one label only"),
    "register": (quote("a", register="briefings"), 1, "Did you mean 'briefing'?"),
    "phenomenon": (quote("a", phenomena=["ironic"]), 1, "Did you mean 'irony'?"),
    "empty file": (b"", 1, "is empty"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_at_its_line(tmp_path: Path, name: str) -> None:
    content, line, words = FAULTS[name]
    path = tmp_path / "quotes.jsonl"
    path.write_bytes(content)
    found = [str(problem) for problem in check_files([path], LabelSet()).problems]
    assert any(problem.startswith(f"{path}:{line}: ") and words in problem for problem in found), found


def test_a_contrast_pair_may_be_close(tmp_path: Path) -> None:
    path = tmp_path / "quotes.jsonl"
    path.write_bytes(quote(LONG, pair="a") + quote(f"{LONG} too", "pro_dialogue", pair="a"))
    assert not check_files([path], LabelSet()).problems


def test_tables_and_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "quotes.csv"
    path.write_text('quote,tone\n"two\nlines",hawkish\nshort\nbad,grim\n')
    report = check_files([path], LabelSet(labels=("hawkish", "dovish")), "quote", "tone")
    assert [(problem.line, problem.what.split()[0]) for problem in report.problems] == [(4, "has"), (5, "unknown")]
    assert report.labels == {"hawkish": 1, "dovish": 0}
    path = path.rename(tmp_path / "quotes.tsv")
    path.write_text("text\tlabels\na\tneutral\n")
    assert "no column 'label'" in check_files([path], LabelSet()).problems[0].what


def test_a_missing_file_and_an_unknown_kind(tmp_path: Path) -> None:
    problems = check_files([tmp_path / "none.jsonl", tmp_path / "a.xls"], LabelSet()).problems
    assert [problem.line for problem in problems] == [1, 1]


def test_a_duplicate_across_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        path.write_bytes(quote("We met."))
    (problem,) = check_files(paths, LabelSet()).problems
    assert problem.file == str(paths[1])
    assert str(paths[0]) in problem.what


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.6, 1.0])
def test_near_duplicates_are_those_of_the_plain_method(threshold: float) -> None:
    chance = random.Random(7)
    texts = [" ".join(chance.choices("abcd", k=chance.randint(1, 9))) for _ in range(150)]
    keys = list(dict.fromkeys(map(normal_key, texts)))
    runs = [{tuple(key.split()[i : i + 3]) for i in range(max(1, len(key.split()) - 2))} for key in keys]
    expected = {
        (keys[i], keys[j])
        for j in range(len(keys))
        for i in range(j)
        if len(runs[i] & runs[j]) / len(runs[i] | runs[j]) >= threshold
    }
    found = {(normal_key(texts[i]), normal_key(texts[j])) for i, j, _ in near_duplicates(texts, threshold)}
    assert {pair for pair in found if pair[0] != pair[1]} == expected


def test_clusters_and_conflicts() -> None:
    assert near_duplicates(["We met.", "!", "we met", "?"]) == [(0, 2, 1.0)]
    assert clusters(5, [(3, 4), (1, 3)]) == [0, 1, 2, 1, 1]
    assert conflicts(["We met.", "x", "we met", "X"], ["a", "b", "b", "b"]) == [(0, 2)]
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates([], 0)


def test_the_agreement_of_two_annotators(tmp_path: Path) -> None:
    # Cohen (1960) by hand: 3 of 4 the same, by chance 2/4 * 1/4 + 2/4 * 3/4 = 1/2, so (3/4 - 1/2) / (1 - 1/2) = 1/2
    pairs = [
        ("neutral", "neutral"),
        ("neutral", "pro_pressure"),
        ("pro_pressure", "pro_pressure"),
        ("pro_pressure", "pro_pressure"),
    ]
    one = tmp_path / "one.jsonl"
    one.write_bytes(b"".join(quote(f"text {n}", label_a=a, label_b=b) for n, (a, b) in enumerate(pairs)))
    other = tmp_path / "other.jsonl"
    other.write_bytes(quote("the only one", label_a="neutral", label_b="neutral") + quote("labelled once"))
    report = check_files([one, other], LabelSet())
    first, second, both = report.agreement
    assert (first.part, first.rows, first.same) == (str(one), 4, 0.75)
    assert first.kappa == pytest.approx(0.5)
    assert (second.rows, second.kappa) == (1, None)
    assert (both.part, both.rows, both.same) == ("all", 5, 0.8)
    assert "Cohen's kappa 0.500" in str(first)
