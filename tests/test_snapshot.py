"""The store frozen for a training: numbered, digested, and what was once measured on is never learnt."""

import json
from pathlib import Path

import pytest

from models.errors import UsageError
from models.label_store import Label, LabelStore
from models.schema import LabelSet
from training.config import load_recipe
from training.snapshot import freeze, with_labels

LABELS = LabelSet()


def texts(path: Path | None) -> list[str]:
    return [] if path is None else [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    store = LabelStore(f"sqlite:///{tmp_path}/labels.db")
    sentences = [f"The {n}th point of {n * 7919} is {'agreed' if n % 2 else 'disputed'} by {n}." for n in range(200)]
    store.add([Label(sentence, "neutral", "Ann") for sentence in sentences])
    return store


def test_a_snapshot_is_numbered_and_the_same_store_gives_the_same_one(store: LabelStore, tmp_path: Path) -> None:
    first = freeze(store, tmp_path / "snapshots", LABELS)
    assert (first.number, first.rows + first.test_rows) == (1, 200)
    assert 20 < first.test_rows < 60
    assert freeze(store, tmp_path / "snapshots", LABELS) == first
    store.add([Label("Another one altogether.", "pro_dialogue", "Ann")])
    second = freeze(store, tmp_path / "snapshots", LABELS)
    assert (second.number, second.rows + second.test_rows) == (2, 201)
    assert second.sha256 != first.sha256
    assert first.train.is_file()


def test_what_was_measured_on_is_never_learnt(store: LabelStore, tmp_path: Path) -> None:
    first = freeze(store, tmp_path / "snapshots", LABELS)
    held = texts(first.test)
    store.add([Label(f"{text} ", "pro_pressure", "Bo") for text in held])  # labelled anew, and by another
    store.add([Label(f"{text[:-1]}!", "neutral", "Bo") for text in held])  # the same words
    near = [f"{text[:-1]} now." for text in held]
    store.add([Label(text, "neutral", "Bo") for text in near] + [Label(text.upper(), "neutral", "Cy") for text in near])
    store.add([Label(f"More {n} of {n * 6007}, {n}.", "neutral", "Ann") for n in range(100)])
    second = freeze(store, tmp_path / "snapshots", LABELS)
    learnt = {text.strip(" .!") for text in texts(second.train)}
    assert not {text.lower() for text in learnt} & {text.strip(" .!").lower() for text in (*held, *near)}
    assert second.rows > first.rows


def test_variants_of_a_sentence_are_one(tmp_path: Path) -> None:
    store = LabelStore(f"sqlite:///{tmp_path}/labels.db")
    store.add(
        [
            Label("We met for the first time today.", "neutral", "Ann"),
            Label("we met, for the first time, today", "pro_dialogue", "Ann"),
        ]
    )
    store.add([Label(f"Point {n} of {n * 7919}.", "neutral", "Ann") for n in range(20)])
    found = freeze(store, tmp_path / "snapshots", LABELS)
    rows = [json.loads(line) for path in (found.train, found.test) if path for line in path.read_text("utf-8").splitlines()]
    assert [row["label"] for row in rows if "met" in row["text"]] == ["pro_dialogue"]
    assert (len(rows), found.drawn) == (21, 0)


def test_the_latest_vote_of_each_counts_and_a_draw_is_left_out(tmp_path: Path) -> None:
    store = LabelStore(f"sqlite:///{tmp_path}/labels.db")
    sentence, drawn = "We met for the first time today.", "They left for the last time yesterday."
    store.add([Label(sentence, "neutral", "Ann"), Label(sentence, "pro_dialogue", "Ann"), Label(sentence, "pro_dialogue", "Bo")])
    store.add([Label(sentence, "neutral", "Cy"), Label(drawn, "neutral", "Ann"), Label(drawn, "pro_pressure", "Bo")])
    store.add([Label(f"Point {n} of {n * 7919}.", "hawkish" if n else "neutral", "Ann") for n in range(3)])
    found = freeze(store, tmp_path / "snapshots", LABELS)
    rows = [json.loads(line) for path in (found.train, found.test) if path for line in path.read_text("utf-8").splitlines()]
    [row] = [row for row in rows if row["text"] == sentence]
    assert [row[name] for name in ("label", "label_a", "label_b", "label_c")] == [*["pro_dialogue"] * 3, "neutral"]
    assert (found.drawn, found.unknown) == (1, 2)


def test_a_recipe_learns_it_beside_its_own_files(store: LabelStore, tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny_recipe, [f"out={tmp_path}/run"])
    merged, snapshot = with_labels(recipe, store.url)
    assert merged.data.files == recipe.data.files
    assert merged.data.train_only == (str(snapshot.train),)
    assert merged.data.further_tests["labels"] == str(snapshot.test)


def test_an_empty_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to learn"):
        freeze(LabelStore(f"sqlite:///{tmp_path}/labels.db"), tmp_path / "snapshots", LABELS)
