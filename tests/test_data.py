import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset
from pydantic import BaseModel

from models.errors import DataError, UsageError
from models.schema import LabelSet
from training.config import DataRecipe, Recipe, load_recipe
from training.data import data_digest, load_examples, require_enough

ROWS = [
    {"id": "a", "text": "We want talks, and “soon”.", "label": "pro_dialogue"},
    {"id": "b", "text": "No talks\nbefore they disarm.", "label": "pro_pressure"},
    {"id": "c", "text": "NA", "label": "neutral"},
]
LABELS = LabelSet()
DEFAULT = Path(__file__).parent.parent / "configs" / "train" / "default.yaml"


def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"'

    for suffix, separator in ((".csv", ","), (".tsv", "\t")):
        lines = [separator.join(ROWS[0])] + [separator.join(quoted(v) for v in row.values()) for row in ROWS]
        (tmp_path / f"rows{suffix}").write_text("\n".join(lines) + "\n", "utf-8")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "rows"))
    digests = set()
    for name in ("rows.csv", "rows.tsv", "rows.jsonl", "rows.parquet", "rows"):
        examples = load_examples([str(tmp_path / name)], DataRecipe(), LABELS)
        assert [(e.id, e.text, e.label) for e in examples] == [(r["id"], r["text"], r["label"]) for r in ROWS]
        digests.add(data_digest(examples))
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty"),
        ("id,quote,label\n1,hello,neutral\n", "no column 'text'; it has id, quote, label"),
        ("text,label\nhello,maybe\n", "unknown label 'maybe'"),
        ("text,label\n  ,neutral\n", "empty or not text"),
    ],
)
def test_bad_files_get_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(DataError, match=sentence):
        load_examples([str(path)], DataRecipe(), LABELS)


def test_latin_1_unknown_kinds_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("text,label\ncafé,neutral\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        load_examples([str(tmp_path / "rows.csv")], DataRecipe(), LABELS)
    (tmp_path / "rows.docx").write_text("x")
    with pytest.raises(DataError, match="no known kind"):
        load_examples([str(tmp_path / "rows.docx")], DataRecipe(), LABELS)
    with pytest.raises(DataError, match="there is no file"):
        load_examples([str(tmp_path / "none.csv")], DataRecipe(), LABELS)


def test_one_class_and_five_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"sentence {i},neutral\n" for i in range(5)), "utf-8")
    with pytest.raises(DataError, match="at least 8 rows"):
        require_enough(load_examples([str(path)], DataRecipe(), LABELS), LABELS)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("fit.epochs=none", "fit.epochs"),
        ("fit.epoch=3", "fit.epoch"),
        ("fit", "key=value"),
        ("name.x=3", "holds a value"),
        ("name=[a", "not a YAML value"),
        ("labels.positive=war", "not one of the labels"),
    ],
)
def test_a_wrong_override_names_its_key(override: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_recipe(DEFAULT, [override])


def test_overrides_and_data_replace_the_recipe() -> None:
    recipe = load_recipe(
        DEFAULT, ["fit.epochs=3", "labels.labels=[a, b]", "labels.positive=a", "labels.negative=b"], [Path("x.csv")]
    )
    assert recipe.fit.epochs == 3
    assert recipe.labels.labels == ("a", "b")
    assert recipe.data.files == ("x.csv",)
    assert (load_recipe(DEFAULT).data.note != "", recipe.data.note) == (True, "")  # it spoke of the recipe's own files


def test_the_readme_documents_every_key_of_the_recipe() -> None:
    def keys(model: BaseModel, prefix: str = "") -> Iterator[str]:
        for name, value in model:
            if isinstance(value, BaseModel):
                yield from keys(value, f"{prefix}{name}.")
            else:
                yield prefix + name

    readme = (DEFAULT.parent.parent.parent / "README.md").read_text("utf-8")
    assert [key for key in keys(Recipe()) if f"| `{key}` |" not in readme] == []


def test_a_row_belongs_to_the_first_group_that_it_names(tmp_path: Path) -> None:
    rows = [
        {"text": "One.", "label": "neutral", "pair": "p", "document": "d"},
        {"text": "Two.", "label": "neutral", "pair": None, "document": "d"},
        {"text": "Three.", "label": "neutral", "pair": "", "document": ""},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for wish, expected in ((None, [None] * 3), ("document", ["d", "d", None]), (("pair", "document"), ["p", "d", None])):
        found = load_examples([str(path)], DataRecipe(group_column=wish, slice_columns=()), LabelSet())
        assert [example.group for example in found] == expected


def test_the_seed_corpus_is_whole() -> None:
    corpus = DEFAULT.parent.parent.parent / "training" / "corpus"
    rows = [json.loads(line) for path in sorted(corpus.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    assert len(rows) >= 16000
    assert len({row["id"] for row in rows}) == len(rows)
