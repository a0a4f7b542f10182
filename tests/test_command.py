"""The command as users run it: a process of its own, its exit code and what it says."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

SENTENCES = ["We are ready to meet them anywhere, any time.", "They must withdraw at once.", "The session opens at nine."]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stancewire", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=300,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, path: str, body: object = None) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        content: dict[str, object] = json.load(answer)
        return content


def start(model: str, port: int, **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "stancewire", "serve", "--model", model, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )
    for _ in range(300):
        try:
            ask(port, "/readyz")
            return process
        except OSError:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
    process.kill()
    raise AssertionError("the server did not get ready")


def test_server_and_score_give_the_same_answers_and_stop_cleanly(tiny_bundle: Path, tmp_path: Path) -> None:
    port = free_port()
    server = start(str(tiny_bundle), port)
    try:
        results = ask(port, "/v1/classify", {"sentences": SENTENCES})["results"]
        second = run("serve", "--model", str(tiny_bundle), "--port", str(port))
        assert second.returncode == 2
        assert "is in use" in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=20)
    assert server.returncode == 0, output
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"text": sentence}) + "\n" for sentence in SENTENCES), "utf-8")
    scored = run("score", str(source), str(target), "--model", str(tiny_bundle), "--quiet")
    assert scored.returncode == 0, scored.stderr
    rows = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert isinstance(results, list)
    for row, result in zip(rows, results, strict=True):
        assert row["stance_label"] == result["label"]
        assert row["stance_score"] == result["score"]
        assert {label: row[f"stance_p_{label}"] for label in result["probabilities"]} == result["probabilities"]


def test_a_registered_champion_is_served(tiny_bundle: Path, tracking: str) -> None:
    port = free_port()
    server = start("models:/tiny@champion", port, MLFLOW_TRACKING_URI=tracking)
    try:
        model = ask(port, "/v1/model")
        assert (model["name"], model["version"]) == ("tiny", "1")
        assert ask(port, "/v1/classify", {"sentences": SENTENCES})["results"]
    finally:
        server.terminate()
        server.communicate(timeout=20)


def test_evaluate_prints_writes_and_compares(tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    found = run("evaluate", str(tiny_bundle), str(tiny_bundle), "--data", str(tiny_data), "--out", str(out), "--explain")
    assert found.returncode == 0, found.stderr
    rows = [json.loads(line) for line in (out / "model-1" / "explanations.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 200
    right = [row["label"] == row["answer"] for row in rows]
    assert right == sorted(right)  # errors first
    assert all(row["text"][start:end] == word for row in rows for word, start, end, _ in row["words"])
    assert "macro-F1 +0.000 (95 % +0.000 to +0.000" in found.stdout
    assert (out / "model-1" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "evaluation.json").read_text("utf-8"))


def test_labels_check_exit_codes(tiny_data: Path, tmp_path: Path) -> None:
    assert run("labels", "check", str(tiny_data)).returncode == 0
    bad = tmp_path / "bad.csv"
    bad.write_text("text,label\nhello there friends,maybe\n", "utf-8")
    found = run("labels", "check", str(bad))
    assert found.returncode == 1
    assert f"{bad}:2" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("score", "none.csv", "out.csv"), "there is no such file"),
        (("serve", "--model", "nowhere"), "is not a bundle"),
        (("serve", "--model", "models:/stance"), "is not a registry name"),
        (("train", "none.yaml"), "there is no recipe"),
        (("train", "configs/train/default.yaml", "--set", "fit.epoch=2"), "fit.epoch"),
        (("evaluate", "nowhere", "--data", "x.csv"), "is not a bundle"),
        (("serve", "--port", "99999"), "port"),
    ],
)
def test_what_a_user_did_wrong_gets_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    found = run(*arguments)
    assert found.returncode == 2
    assert sentence in found.stderr
    assert "Traceback" not in found.stderr


def test_registries_that_are_not_there(tmp_path: Path) -> None:
    found = run("serve", "--model", "models:/stance@champion", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/none.db")
    assert (found.returncode, "there is no registry" in found.stderr) == (2, True)
    found = run("serve", "--model", "models:/stance@champion", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    assert (found.returncode, "could not be fetched" in found.stderr) == (2, True)
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("uri", ["sqlite:///{here}/text.db", "postgresql://127.0.0.1:1/none", "banana://x"])
@pytest.mark.parametrize("command", ["train", "serve"])
def test_registries_that_cannot_be_opened(tiny_recipe: Path, tmp_path: Path, uri: str, command: str) -> None:
    (tmp_path / "text.db").write_text("this is no database, and it is long enough to be read as a header of one" * 20, "utf-8")
    calls = {"train": ("train", str(tiny_recipe)), "serve": ("serve", "--model", "models:/stance@champion")}
    found = run(*calls[command], MLFLOW_TRACKING_URI=uri.format(here=tmp_path))
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    assert "MLFLOW_TRACKING_URI" in found.stderr or "pip install" in found.stderr


def test_serving_and_scoring_load_no_torch(tiny_bundle: Path) -> None:
    program = "import sys, service.server, service.batch.run, stancewire.command; print([m for m in sys.modules if m in {names}])"
    names = {"torch", "transformers", "datasets", "mlflow", "training"}
    found = subprocess.run([sys.executable, "-c", program.format(names=names)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
