"""The registered model is an MLflow function too: no pickle, no torch, the answers of the service."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import pandas
import pytest

from models.classifier import Classifier
from tests.test_command import free_port

TEXTS = ["We are ready to talk.", "", "Sanctions will stay.", None, "대화를 계속한다 🙂", "x" * 5001]
ERRORS = [None, "empty", None, "empty", None, "too_long"]
PROGRAM = """
import json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/tiny@champion")
found = model.predict(pandas.DataFrame({"quote": json.loads(sys.argv[1])}).rename(columns={"quote": "text"}))
print(json.dumps([found.to_dict("records"), [name for name in ("torch", "transformers", "training") if name in sys.modules]]))
"""


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path) -> list[dict[str, Any]]:
    good = [text for text, error in zip(TEXTS, ERRORS, strict=True) if error is None]
    with Classifier.open(tiny_bundle) as classifier:
        answers = iter(classifier.classify([text for text in good if text]))
        return [{"label": None} if error else {"label": (p := next(answers)).label, "score": p.score} for error in ERRORS]


def check(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [row["error"] for row in found] == ERRORS
    for row, right in zip(found, expected, strict=True):
        assert row["label"] == right["label"]
        if right["label"] is not None:
            assert row["score"] == pytest.approx(right["score"], abs=2e-3)
            assert sum(row[name] for name in row if name.startswith("p_")) == pytest.approx(1, abs=1e-5)


def test_it_loads_as_a_function_without_torch(
    tracking: str, tiny_bundle: Path, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking}
    command = [sys.executable, "-c", PROGRAM, json.dumps(TEXTS)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, loaded = json.loads(done.stdout.splitlines()[-1])
    check(found, expected)
    assert loaded == []


def test_nothing_in_it_is_pickled(tracking: str, tiny_bundle: Path, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(tracking)
    folder = Path(mlflow.artifacts.download_artifacts("models:/tiny@champion", dst_path=str(tmp_path)))
    names = {path.name for path in folder.rglob("*")}
    assert {"MLmodel", "pyfunc.py", "classifier.py", "manifest.json"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]
    assert "engine_torch.py" not in names
    requirements = (folder / "requirements.txt").read_text("utf-8")
    assert "onnxruntime" in requirements and "torch" not in requirements


def test_mlflow_s_own_server_answers_as_ours(
    tracking: str, tiny_bundle: Path, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    port = free_port()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it calls uvicorn by name
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/tiny@champion", "--env-manager", "local"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking, "PATH": path}
    log = tmp_path / "log"
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [*command, "--port", str(port)], env=environment, cwd=tmp_path, stdout=stream, stderr=stream, start_new_session=True
        ) as process,
    ):
        try:
            body = json.dumps({"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}}).encode()
            request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
            found = None
            for _ in range(600):
                assert process.poll() is None, log.read_text("utf-8")
                try:
                    with urllib.request.urlopen(request, timeout=60) as answer:
                        found = json.load(answer)["predictions"]
                    break
                except urllib.error.HTTPError as error:
                    raise AssertionError(error.read()) from error
                except OSError:
                    time.sleep(0.2)
            assert found is not None, log.read_text("utf-8")
            check(found, expected)
        finally:
            os.killpg(process.pid, 9)


def test_a_plain_list_is_taken_too(tracking: str, tiny_bundle: Path) -> None:
    mlflow.set_tracking_uri(tracking)
    model = mlflow.pyfunc.load_model("models:/tiny@champion")
    assert list(model.predict(pandas.DataFrame({"text": ["We met."]}))["error"]) == [None]
    assert list(model.unwrap_python_model().predict(None, ["We met.", ""])["error"]) == [None, "empty"]
