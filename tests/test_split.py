from pathlib import Path

import pytest

from models.errors import DataError
from models.schema import LabelSet
from training.config import DataRecipe, SplitRecipe
from training.data import Example, load_examples
from training.split import families, make_split

CORPUS = str(Path(__file__).parent.parent / "training" / "corpus" / "*.jsonl")
LABELS = LabelSet()


@pytest.fixture(scope="module")
def corpus() -> list[Example]:
    return load_examples([CORPUS], DataRecipe(), LABELS)


def example(number: int, text: str, label: str, group: str | None = None) -> Example:
    return Example(f"row-{number}", text, label, group, {}, f"rows.csv:{number}")


def test_families_never_straddle_and_labels_are_balanced(corpus: list[Example]) -> None:
    split = make_split(corpus, [], DataRecipe(), SplitRecipe())
    home = {row.id: side for side, rows in split.sides().items() for row in rows}
    assert len(home) == len(corpus)
    sides: dict[int, set[str]] = {}
    for row, family in zip(corpus, families(corpus, 0.6), strict=True):
        sides.setdefault(family, set()).add(home[row.id])
    assert all(len(found) == 1 for found in sides.values())
    whole = sum(row.label == "neutral" for row in corpus) / len(corpus)
    for rows in split.sides().values():
        share = sum(row.label == "neutral" for row in rows) / len(rows)
        assert share == pytest.approx(whole, abs=0.02)
    assert len(split.test) == pytest.approx(len(corpus) / 10, rel=0.1)


def test_the_same_seed_gives_the_same_split(corpus: list[Example]) -> None:
    first, second = (make_split(corpus, [], DataRecipe(), SplitRecipe()) for _ in range(2))
    assert first == second
    assert make_split(corpus, [], DataRecipe(), SplitRecipe(seed=14)) != first


def test_a_written_split_is_read_back(corpus: list[Example], tmp_path: Path) -> None:
    first = make_split(corpus, [], DataRecipe(), SplitRecipe())
    first.write(tmp_path / "split.json")
    again = make_split(corpus, [], DataRecipe(), SplitRecipe(file=tmp_path / "split.json"))
    assert again == first


def test_leaks_into_a_given_test_side_are_refused_or_left_out(corpus: list[Example]) -> None:
    test = corpus[:300]
    leak = example(9999, test[3].text.upper(), test[3].label)
    rest = [row for row in corpus[300:] if row.group is None or row.group not in {r.group for r in test}]
    with pytest.raises(DataError, match="repeat a test row") as error:
        make_split([*rest, leak], test, DataRecipe(), SplitRecipe())
    assert any("row-9999 (rows.csv:9999)" in line for line in error.value.problems)
    split = make_split([*rest, leak], test, DataRecipe(on_leak="drop"), SplitRecipe())
    assert leak in split.dropped
    assert leak not in split.train + split.validation


def test_leaks_are_kept_on_request_but_never_between_train_and_validation(corpus: list[Example]) -> None:
    test = corpus[:300]
    leaks = [example(9990 + i, test[3].text.upper() + "!" * i, test[3].label) for i in range(3)]
    rest = [row for row in corpus[300:] if row.group is None or row.group not in {r.group for r in test}]
    split = make_split([*rest, *leaks], test, DataRecipe(on_leak="keep"), SplitRecipe())
    assert not split.dropped
    assert len(split.train) + len(split.validation) == len(rest) + 3
    assert len({side for side, rows in split.sides().items() if any(row in leaks for row in rows)}) == 1


def test_a_leaking_written_split_names_the_rows(corpus: list[Example], tmp_path: Path) -> None:
    split = make_split(corpus, [], DataRecipe(), SplitRecipe())
    moved = next(row for row in split.train if row.group is not None)
    shifted = type(split)(tuple(r for r in split.train if r != moved), split.validation, (*split.test, moved))
    shifted.write(tmp_path / "split.json")
    with pytest.raises(DataError, match="two sides") as error:
        make_split(corpus, [], DataRecipe(), SplitRecipe(file=tmp_path / "split.json"))
    assert moved.id in str(error.value)


def test_conflicting_labels_and_repeated_ids_are_refused(corpus: list[Example]) -> None:
    other = "neutral" if corpus[0].label != "neutral" else "pro_pressure"
    with pytest.raises(DataError, match="two labels"):
        make_split([*corpus, example(1, corpus[0].text, other)], [], DataRecipe(), SplitRecipe())
    contested = example(1, corpus[0].text, other)
    split = make_split([*corpus, contested], [], DataRecipe(on_conflict="drop"), SplitRecipe())
    assert {row.id for row in split.dropped} == {contested.id, corpus[0].id}
    with pytest.raises(DataError, match="unique"):
        make_split([*corpus, corpus[0]], [], DataRecipe(), SplitRecipe())


def test_rows_that_only_train_repeat_no_row_of_the_other_sides(corpus: list[Example], tmp_path: Path) -> None:
    rows, extra = corpus[:600], corpus[-200:]
    plain = make_split(rows, [], DataRecipe(), SplitRecipe())
    leaks = [example(n, row.text.upper(), row.label) for n, row in enumerate((plain.validation[0], plain.test[0]))]
    split = make_split(rows, [], DataRecipe(), SplitRecipe(), [*extra, *leaks])
    assert (split.validation, split.test) == (plain.validation, plain.test)
    assert split.train == (*plain.train, *extra)
    assert split.dropped == tuple(leaks)
    split.write(tmp_path / "split.json")
    again = make_split(rows, [], DataRecipe(), SplitRecipe(file=tmp_path / "split.json"), [*extra, *leaks])
    assert again.sides() == split.sides()
    new = [example(9, "Something that nobody has said before this very day.", "neutral"), *extra[:-1]]  # a label store moves on
    again = make_split(rows, [], DataRecipe(), SplitRecipe(file=tmp_path / "split.json"), new)
    assert again.sides() == {**plain.sides(), "train": (*plain.train, *new)}
    again = make_split(corpus[:601], [], DataRecipe(), SplitRecipe(file=tmp_path / "split.json"))
    assert (again.sides(), again.dropped) == (plain.sides(), (corpus[600],)), "what the file does not name is left out and counted"


def test_a_row_that_only_trains_takes_the_place_of_one_with_its_words(corpus: list[Example]) -> None:
    plain = make_split(corpus[:600], [], DataRecipe(), SplitRecipe())
    old = plain.train[0]
    other = next(label for label in LABELS.labels if label != old.label)
    correction = example(1, old.text.upper(), other)
    split = make_split(corpus[:600], [], DataRecipe(), SplitRecipe(), [correction])
    assert split.train == (*plain.train[1:], correction)
    assert split.dropped == (old,)
    with pytest.raises(DataError, match="two labels"):
        make_split(corpus[:600], [], DataRecipe(), SplitRecipe(), [correction, example(2, old.text, old.label)])


def test_what_a_further_test_measures_is_not_learnt(corpus: list[Example]) -> None:
    plain = make_split(corpus[:600], [], DataRecipe(), SplitRecipe())
    measured = [example(n, f"{rows[0].text} Now.", rows[0].label) for n, rows in enumerate(plain.sides().values())]
    extra = example(7, measured[0].text, measured[0].label)
    split = make_split(corpus[:600], [], DataRecipe(), SplitRecipe(), [extra], measured)
    gone = {plain.train[0].id, plain.validation[0].id, extra.id}
    assert gone <= {row.id for row in split.dropped}
    assert not gone & {row.id for row in (*split.train, *split.validation)}
    assert split.test == plain.test
    kept = make_split(corpus[:600], [], DataRecipe(on_leak="keep"), SplitRecipe(), (), measured)
    assert kept.train == plain.train
