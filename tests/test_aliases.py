"""Who serves: the gate, promotion, the way back, and the record of every move."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml

from models.aliases import list_moves, list_versions, promote, rollback
from models.bundle import Bundle, open_bundle, save_bundle
from models.errors import RegistryError, StancewireError, UsageError
from training.config import load_recipe
from training.gate import Rules, Verdict, load_rules, run_gate
from training.pipeline import train
from training.tracking import register

ROOT = Path(__file__).parent.parent


def retempered(bundle: Bundle, target: Path, temperature: float, **changes: object) -> Bundle:
    """The same network under another temperature, and so another bundle."""

    def write(folder: Path) -> None:
        for name in bundle.manifest.files:
            (folder / name).write_bytes((bundle.path / name).read_bytes())

    return save_bundle(target, bundle.manifest.model_copy(update={"temperature": temperature, "files": {}, **changes}), write)


@pytest.fixture
def registry(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of its own with a champion, version 1, trained by the tiny recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    recipe = load_recipe(tiny_recipe, [f"out={tmp_path}/one", "tracking.registered_model=stance"])
    assert train(recipe, promote=True, quiet=True) is not None
    return tmp_path


def gate(rules: Rules | None = None, *files: str) -> bool:
    return judge(rules, *files).passed


def judge(rules: Rules | None, *files: str, said: list[str] | None = None, version: int | None = None) -> Verdict:
    easy = Rules(max_ece=1, max_slowdown=100, min_rows=10)
    return run_gate("stance", version, rules or easy, files, "text", "label", (said if said is not None else []).append)


def test_the_gate_opens_the_way_and_every_move_is_on_record(registry: Path) -> None:
    assert [(move.action, move.before, move.after) for move in list_moves("stance")] == [("promote --force", None, "1")]
    with pytest.raises(UsageError, match="is the champion already"):
        promote("stance", 1, force=False, why="")
    first = open_bundle(registry / "one" / "bundle")
    copy = retempered(first, registry / "two", first.manifest.temperature * 1.01)
    assert register(copy, "stance") == "2"
    with pytest.raises(UsageError, match="has not been through the gate"):
        promote("stance", None, force=False, why="")
    with pytest.raises(UsageError, match="needs --reason"):
        promote("stance", 2, force=True, why=" ")
    with pytest.raises(UsageError, match="has no run"):
        gate()  # what a bundle without a run has learnt, nobody knows
    promote("stance", 2, force=True, why="tried by hand")
    assert {alias: version.number for version in list_versions("stance") for alias in version.aliases} == {
        "champion": 2, "challenger": 2, "previous": 1,
    }  # fmt: skip
    rollback("stance", "it was worse")
    rollback("stance", "")
    moves = list_moves("stance")
    assert [(move.action, move.before, move.after, move.why) for move in moves[1:]] == [
        ("promote --force", "1", "2", "tried by hand"),
        ("rollback", "2", "1", "it was worse"),
        ("rollback", "1", "2", ""),
    ]
    assert all(move.who for move in moves)
    assert [move.when for move in moves] == sorted(move.when for move in moves)


def test_a_challenger_is_judged_on_the_champion_s_test_rows(registry: Path, tiny_recipe: Path) -> None:
    split = ["tracking.registered_model=stance", f"split.file={registry}/split.json"]
    (registry / "split.json").write_text((registry / "one" / "split.json").read_text("utf-8"), "utf-8")
    assert train(load_recipe(tiny_recipe, [*split, f"out={registry}/same", "fit.epochs=3"]), quiet=True) is not None
    assert gate(Rules(max_ece=1, max_slowdown=100, min_rows=10)), "the same recipe on the same rows is no worse"
    version = mlflow.MlflowClient().get_model_version("stance", "2")
    assert (version.tags["gate"], version.tags["gate_champion"]) == ("passed", "1")
    stored = mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path="gate.json")
    evidence = json.loads(Path(stored).read_text("utf-8"))
    assert {"size", "speed", "macro-F1, the champion's test side"} <= {check["name"] for check in evidence["checks"]}
    assert not gate(Rules(max_ece=1, max_slowdown=100, min_rows=10, max_megabytes=0.001)), (
        "a limit that is not kept to fails the whole"
    )
    with pytest.raises(UsageError, match="has failed the gate"):
        promote("stance", None, force=False, why="")
    assert gate(Rules(max_ece=1, max_slowdown=100, min_rows=10))
    client = mlflow.MlflowClient()
    client.set_model_version_tag("stance", "2", "gate_champion", "7")
    with pytest.raises(UsageError, match="beside another champion"):
        promote("stance", None, force=False, why="")
    client.set_model_version_tag("stance", "2", "gate_champion", "1")
    assert promote("stance", None, force=False, why="").after == "2"


def test_a_challenger_that_learnt_the_test_rows_is_refused(registry: Path, tiny_recipe: Path) -> None:
    other = load_recipe(tiny_recipe, ["tracking.registered_model=stance", f"out={registry}/other", "split.seed=99", "fit.epochs=1"])
    assert train(other, quiet=True) is not None
    with pytest.raises(UsageError, match=r"version 2 learnt \d+ rows of the champion's test side"):
        gate()


def test_a_challenger_is_judged_on_nothing_that_either_learnt(registry: Path, tiny_recipe: Path, tiny_data: Path) -> None:
    (registry / "split.json").write_text((registry / "one" / "split.json").read_text("utf-8"), "utf-8")
    recipe = ["tracking.registered_model=stance", f"split.file={registry}/split.json", f"out={registry}/two", "fit.epochs=1"]
    assert train(load_recipe(tiny_recipe, recipe), quiet=True) is not None
    split = json.loads((registry / "one" / "split.json").read_text("utf-8"))
    rows = {row["id"]: row for row in map(json.loads, tiny_data.read_text("utf-8").splitlines())}
    given = registry / "given.jsonl"  # ten rows that were learnt, nearly, and four that were not
    mixed = [rows[key] | {"text": f"{rows[key]['text']}!"} for key in split["train"][:6] + split["validation"][:4]]
    mixed += [{"text": f"Number {n} of these has never been heard by anybody.", "label": "neutral"} for n in range(4)]
    given.write_text("".join(json.dumps(row) + "\n" for row in mixed), "utf-8")
    said: list[str] = []
    tests = judge(None, str(given), said=said).tests
    assert {where: found[0] for where, found in tests.items()} == {
        "the champion's test side": len(split["test"]),
        "others": 100,
        str(given): 4,
    }
    assert f"10 of 14 rows of {given} left out" in said[0]
    few = judge(Rules(max_ece=0, max_slowdown=100, min_rows=101))
    assert [check.name for check in few.checks if not check.passed] == ["rows"], "small tests decide nothing"


def test_the_first_version_is_judged_on_its_own_test_rows(registry: Path) -> None:
    client = mlflow.MlflowClient()
    client.delete_registered_model_alias("stance", "champion")
    tests = judge(None).tests
    assert set(tests) == {"its own test side", "others"}
    assert list_versions("stance")[0].gate == "passed"
    assert promote("stance", None, force=False, why="").before is None


def test_a_champion_from_elsewhere(registry: Path, tiny_recipe: Path) -> None:
    first = open_bundle(registry / "one" / "bundle")
    register(retempered(first, registry / "elsewhere", first.manifest.temperature * 1.01), "stance")
    promote("stance", 2, force=True, why="ours")
    said: list[str] = []
    assert set(judge(None, said=said, version=1).tests) == {"others"}
    assert "its test side is not known" in said[0]


def test_the_rows_are_those_of_the_training_whatever_becomes_of_the_files(
    registry: Path, tmp_path: Path, tiny_recipe: Path
) -> None:
    recipe = yaml.safe_load(tiny_recipe.read_text("utf-8"))
    mended, others = tmp_path / "quotes.jsonl", tmp_path / "others.jsonl"
    mended.write_text(Path(recipe["data"]["files"][0]).read_text("utf-8"), "utf-8")
    others.write_text(Path(recipe["data"]["further_tests"]["others"]).read_text("utf-8"), "utf-8")
    recipe["data"] = {"files": [str(mended)], "further_tests": {"others": str(others)}}
    recipe["tracking"]["registered_model"] = "stance"
    (tmp_path / "own.yaml").write_text(json.dumps(recipe), "utf-8")
    assert train(load_recipe(tmp_path / "own.yaml", [f"out={registry}/two", "fit.epochs=1"]), quiet=True)
    before = judge(None).tests
    rows = [json.loads(line) for line in mended.read_text("utf-8").splitlines()]
    for row in rows:
        row["label"] = "neutral"
    mended.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    others.unlink()
    assert judge(None).tests == before


def test_rows_of_another_training_are_refused(registry: Path, tiny_recipe: Path) -> None:
    assert train(load_recipe(tiny_recipe, ["tracking.registered_model=stance", f"out={registry}/two", "fit.epochs=1"]), quiet=True)
    client = mlflow.MlflowClient()
    run_id = client.get_model_version("stance", "1").run_id
    [kept] = (registry / "one").rglob("rows.jsonl.gz")
    content = kept.read_bytes()
    for damage, words in (
        (gzip.compress(gzip.decompress(content).replace(b'"label": "neutral"', b'"label": "pro_pressure"', 1)), "has other rows"),
        (content[:-20], "is damaged"),
        (content[:40] + bytes([content[40] ^ 0xFF]) * 8 + content[48:], "is damaged"),
        (gzip.compress(b"[]\n"), "is damaged"),
    ):
        kept.write_bytes(damage)
        client.log_artifact(run_id, str(kept))
        with pytest.raises(StancewireError, match=words):
            gate()


def test_a_challenger_with_other_labels(registry: Path) -> None:
    first = open_bundle(registry / "one" / "bundle")
    labels = first.manifest.label_set.model_copy(update={"labels": ("dove", "hawk", "neither"), "positive": None, "negative": None})
    register(retempered(first, registry / "other", 2.0, label_set=labels), "stance")
    with pytest.raises(UsageError, match="has no run"):
        gate()


def test_the_shipped_limits_can_be_read(tmp_path: Path) -> None:
    assert load_rules(ROOT / "configs" / "gate.yaml").behaviour == Path("configs/behaviour.yaml")
    assert set(yaml.safe_load((ROOT / "configs" / "gate.yaml").read_text("utf-8"))) == set(Rules.model_fields)
    (tmp_path / "rules.yaml").write_text("max_los: 1\n", "utf-8")
    with pytest.raises(UsageError, match="max_los"):
        load_rules(tmp_path / "rules.yaml")


def test_the_commands(registry: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stancewire", "models", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    listed = run("list")
    assert listed.returncode == 0, listed.stderr
    assert "challenger, champion" in listed.stdout
    assert "promote --force none -> 1" in run("history").stdout
    for wrong, words in (
        (("rollback",), "no previous champion"), (("gate",), "is the champion"), (("list", "none"), "could not be fetched"),
        (("promote", "--version", "9"), "could not be fetched"),
    ):  # fmt: skip
        failed = run(*wrong)
        assert (failed.returncode, words in failed.stderr, "Traceback" in failed.stderr) == (2, True, False), failed.stderr


def test_a_registry_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(RegistryError, match="there is no registry"):
        list_versions("stance")
