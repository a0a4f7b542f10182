"""A registry whose alias can be moved, and calls to the service that follows it."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import pytest

from models.bundle import Bundle, open_bundle, save_bundle
from tests.test_aliases import retempered
from training.tracking import register


class Registry:
    """A registry with two bundles of the same labels, one with others and one that no engine opens; `champion` is the first."""

    def __init__(self, folder: Path, first: Bundle) -> None:
        self.folder = folder
        self.bundles = [first, retempered(first, folder / "two", 3.0)]
        labels = first.manifest.label_set.model_copy(update={"labels": ("a", "b", "c"), "positive": None, "negative": None})
        self.bundles.append(retempered(first, folder / "three", 1.0, label_set=labels))
        self.bundles.append(without_engine(first, folder / "four"))
        self.versions = [register(bundle, "swap") for bundle in self.bundles]
        self.point(0)

    def point(self, number: int) -> None:
        """Let the alias mean the bundle `number`."""
        mlflow.MlflowClient().set_registered_model_alias("swap", "champion", self.versions[number])


def without_engine(bundle: Bundle, target: Path) -> Bundle:
    """A bundle whose digests are right and whose network is none."""

    def write(folder: Path) -> None:
        for name in bundle.manifest.files:
            (folder / name).write_bytes(b"no network" if name == "model.onnx" else (bundle.path / name).read_bytes())

    return save_bundle(target, bundle.manifest.model_copy(update={"files": {}}), write)


@pytest.fixture
def registry(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Registry(tmp_path, open_bundle(tiny_bundle))


def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"},
        method=method,
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            raw = answer.read()
            return answer.status, json.loads(raw) if answer.headers["content-type"].startswith("application/json") else raw.decode()
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
