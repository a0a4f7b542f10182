"""What a job writes: every row once, in one table or in shards, with one model or two."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.bundle import Bundle
from models.classifier import Classifier
from models.engine_onnx import OnnxEngine
from models.errors import UsageError
from models.schema import FloatArray
from service.batch.files import Ending, find_sources
from service.batch.scorer import AnswerFile, Scorer
from tests.batch.helpers import content, score


def test_the_whole_of_a_folder(tmp_path: Path, archive: Path, bundle: Bundle) -> None:
    summary = score(archive, tmp_path / "out", bundle)
    assert (summary.counts.rows, summary.scored) == (602, 602)
    assert summary.counts.errors == {"empty": 4, "not_json": 2}
    table = pq.read_table(tmp_path / "out")  # `_job` is no part of the table
    assert table.column("id").to_pylist() == [f"a{n}" for n in range(300)] + [None] + [f"b{n}" for n in range(300)] + [None]
    texts = [
        text for text, error in zip(*(table.column(n).to_pylist() for n in ("text", "stance_error")), strict=True) if not error
    ]
    with Classifier(bundle, workers=1) as classifier:
        expected = [prediction.label for prediction in classifier.classify(texts)]
    assert [label for label in table.column("stance_label").to_pylist() if label is not None] == expected
    again = score(archive, tmp_path / "out", bundle)
    assert (again.scored, again.counts) == (0, summary.counts)


def test_a_text_is_computed_once_a_job(tmp_path: Path, archive: Path, bundle: Bundle) -> None:
    computed: list[int] = []

    class Counting(OnnxEngine):
        def run(self, rows: Sequence[Sequence[int]]) -> FloatArray:
            computed.append(len(rows))
            return super().run(rows)

    with Classifier(bundle, engine=Counting(bundle.path / bundle.manifest.engine.file), workers=1) as classifier:
        answers = AnswerFile(tmp_path / "answers.sqlite", [3])
        scorer = Scorer([classifier], answers, 5000)
        texts = [["We met.", "We talk.", "We  met."], ["We talk."], ["They met.", "We met."]]
        windows = [scorer.submit(part, {}) for part in texts]
        found = [scorer.finish(window)[0] for window in windows]
        assert sum(computed) == 3
        assert [[row.label for row in rows if row] for rows in found] == [
            [row.label for row in classifier.classify(part)] for part in texts
        ]
        answers.close()


def test_an_output_inside_the_input_is_no_input(tmp_path: Path, archive: Path, bundle: Bundle) -> None:
    score(archive, tmp_path / "elsewhere", bundle)
    for _ in range(2):
        score(archive, archive / "out", bundle)
        assert content(archive / "out") == content(tmp_path / "elsewhere")
    shutil.rmtree(archive / "out")
    for _ in range(2):
        score(archive, archive / "whole.jsonl", bundle, overwrite=True)
        assert len((archive / "whole.jsonl").read_text("utf-8").splitlines()) == 602


@pytest.mark.parametrize("kind", [".parquet", ".csv", ".jsonl", ".jsonl.gz", ".tsv.zst"])
def test_shards_are_joined_to_a_file(tmp_path: Path, archive: Path, bundle: Bundle, kind: str) -> None:
    score(archive, tmp_path / f"cut{kind}", bundle)
    score(archive, tmp_path / f"whole{kind}", bundle, shard_rows=100_000)
    if kind == ".parquet":
        assert pq.read_table(tmp_path / "cut.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
    else:
        assert (tmp_path / f"cut{kind}").read_bytes() == (tmp_path / f"whole{kind}").read_bytes()
    score(archive, tmp_path / "folder", bundle, single=True, ending=Ending(*_parts(kind)))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [f"scored{kind}"]
    assert (tmp_path / "folder" / f"scored{kind}").read_bytes() == (tmp_path / f"cut{kind}").read_bytes()


def _parts(kind: str) -> tuple[str, str]:
    head, _, tail = kind[1:].partition(".")
    return f".{head}", f".{tail}" if tail else ""


def test_inputs_of_several_kinds_are_one_table(tmp_path: Path, bundle: Bundle) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.csv").write_text("text,a\nWe met.,1\n")
    (folder / "2.jsonl").write_text('{"text": "We met.", "b": 2}\n')
    score(folder, tmp_path / "out.parquet", bundle)
    found = pq.read_table(tmp_path / "out.parquet").select(["text", "a", "b"]).to_pylist()
    assert found == [{"text": "We met.", "a": "1", "b": None}, {"text": "We met.", "a": None, "b": 2}]
    (folder / "3.jsonl").write_text('{"text": "We met.", "a": {"b": 1}}\n{"text": "We met.", "b": [1]}\n')
    with pytest.raises(UsageError, match="do not go together"):
        score(folder, tmp_path / "other.parquet", bundle)
    score(folder, tmp_path / "other.jsonl", bundle)


def test_two_models_are_compared_by_slice(tmp_path: Path, bundle: Bundle, other_bundle: Bundle) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text,desk\n" + "".join(f"We will talk about point {n}.,desk\t{n % 2}\n" for n in range(40)) + ",desk\t1\n")
    summary = score(source, tmp_path / "out", bundle, other_bundle, slices=("desk",))
    rows = pq.read_table(tmp_path / "out").to_pylist()
    changed = [row for row in rows if row["stance_changed"]]
    assert [row["stance_changed"] for row in rows] == [
        None if row["stance_1_label"] is None else row["stance_1_label"] != row["stance_2_label"] for row in rows
    ]
    assert {(row["stance_1_model"], row["stance_2_model"]) for row in rows} == {(bundle.id[:12], other_bundle.id[:12])}
    assert f"{len(changed)} of 40 rows" in summary.report
    by_desk = {desk: sum(row["desk"].split() == desk.split() for row in changed) / 20 for desk in ("desk 0", "desk 1")}
    assert all(f"| desk={desk} | 20 | {share:.1%} |" in summary.report for desk, share in by_desk.items())
    assert (tmp_path / "out" / "_changed.md").read_text("utf-8") == summary.report
    with pytest.raises(UsageError, match=r"no input has a column 'dsek' to slice by\. There are: desk, text"):
        score(source, tmp_path / "mistyped", bundle, other_bundle, slices=("dsek",))


def test_one_file_of_many_names_and_names_that_cannot_be(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in/a b.csv").write_text("text\nWe met.\n")
    found = find_sources(["in", "in/a b.csv", (tmp_path / "in" / "a b.csv").as_uri(), f"file://localhost{tmp_path}/in/*.csv"])
    assert [source.shown for source in found] == ["in/a b.csv"]
    for _ in range(2):  # the output is no input, however it is spelled
        score("in", f"{(tmp_path / 'in').as_uri()}/out", bundle)
        assert pq.read_table(tmp_path / "in" / "out").num_rows == 1
    with pytest.raises(UsageError, match="names another machine"):
        find_sources(["file://server/in"])
    Path(os.fsdecode(b"in/caf\xe9.csv")).write_text("text\nWe met.\n")
    for source, target in (("in", "out"), ("in/a b.csv", os.fsdecode(b"caf\xe9"))):
        with pytest.raises(UsageError, match=r"not UTF-8\. Rename the file"):
            score(source, target, bundle)


def test_tables_of_several_files_with_columns_that_differ_in_small_things(tmp_path: Path, bundle: Bundle) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    texts = ["We met.", "They met."]
    strict = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("desk", pa.dictionary(pa.int32(), pa.string()))])
    pq.write_table(pa.table({"text": texts, "desk": ["a", "b"]}, schema=strict), folder / "1.parquet")
    pq.write_table(pa.table({"text": pa.array(texts, pa.large_string()), "desk": ["c", None]}), folder / "2.parquet")
    pq.write_table(pa.table({"text": texts}), folder / "3.parquet")
    (folder / "4.csv").write_text("text,n\nWe met.,1\n")
    score(folder, tmp_path / "out.parquet", bundle)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column("desk").to_pylist() == ["a", "b", "c", None, None, None, None]
    assert found.column("text").to_pylist() == [*texts * 3, "We met."]
