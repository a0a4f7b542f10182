"""Training as promised: repeatable, resumable after a kill, the same recipe on two processes, and registered in MLflow."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from models.bundle import open_bundle
from models.errors import ExportError, RegistryError
from models.registry import resolve
from training.config import load_recipe
from training.pipeline import train

NAMES = {"accuracy", "aurc", "brier", "ece", "macro_f1", "macro_f1_high", "macro_f1_low"}


def train_process(recipe: Path, out: Path, tracking: str, *more: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*(launcher or (sys.executable,)), "-m", "stancewire", "train", str(recipe), "--set", f"out={out}", "--quiet", *more]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=recipe.parent,
        start_new_session=True,
    )


def test_the_run_holds_everything(tiny_bundle: Path, tracking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    client = mlflow.MlflowClient(tracking_uri=tracking)
    version = client.get_model_version_by_alias("tiny", "champion")
    assert version.version == client.get_model_version_by_alias("tiny", "challenger").version
    run = client.get_run(version.run_id)
    assert {f"test_{name}" for name in NAMES} <= set(run.data.metrics)
    assert {f"further_others_{name}" for name in NAMES} <= set(run.data.metrics)
    assert run.data.metrics["behaviour_all"] == open_bundle(tiny_bundle).manifest.metrics["behaviour"]["all"]
    assert {"## Further rows: others", "## Behaviour"} <= set(open_bundle(tiny_bundle).card.splitlines())
    assert run.data.params["fit.epochs"] == "3"
    assert {dataset.dataset.name for dataset in run.inputs.dataset_inputs} == {"tiny-train", "tiny-validation", "tiny-test"}
    files = {entry.path for entry in client.list_artifacts(version.run_id)}
    assert {"confusion.png", "reliability.png", "risk_coverage.png", "losses.png", "split.json", "recipe.yaml"} <= files
    assert len(client.get_metric_history(version.run_id, "eval_macro_f1")) == 3
    assert resolve("models:/tiny@champion").bundle.id == open_bundle(tiny_bundle).id == resolve("models:/tiny/1").bundle.id
    with pytest.raises(RegistryError, match="alias"):
        resolve("models:/tiny@nobody")


def test_fetched_bundles_are_cached_and_mended(
    tiny_bundle: Path, tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = resolve("models:/tiny@champion").bundle
    assert first.path.is_relative_to(tmp_path)
    assert [entry.name for entry in first.path.parent.iterdir()] == [first.id]
    (first.path / "model.onnx").write_bytes(b"damaged")
    assert resolve("models:/tiny@champion").bundle == first == resolve("models:/tiny/1").bundle
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert resolve("models:/tiny/1").bundle.id == first.id


def test_without_a_cache_one_folder_holds_what_is_fetched_and_goes_with_the_process(
    tiny_bundle: Path, tracking: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    spare = tmp_path / "spare"
    spare.mkdir()
    count = "import os; from models.registry import resolve; [resolve('models:/tiny/1') for _ in range(3)]; print(os.listdir())"
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking, "XDG_CACHE_HOME": str(tmp_path / "file"), "TMPDIR": str(spare)}
    said = subprocess.run(
        [sys.executable, "-c", count], cwd=spare, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert said.count("stancewire-bundles-") == 1
    assert not list(spare.glob("stancewire-bundles-*"))


def test_without_a_cache_processes_share_one_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    spare = tmp_path / "spare"
    spare.mkdir()
    child = "from models.registry import _cache; print(_cache())"
    parent = "from models.registry import _cache, keep_for_all; keep_for_all(); print(_cache(), flush=True); "
    parent += f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "file"), "TMPDIR": str(spare)}
    said = subprocess.run([sys.executable, "-c", parent], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    first, second = said.stdout.split()
    assert first == second and Path(first).is_relative_to(spare)
    assert not list(spare.iterdir()), "it goes with the process that made it"


def test_two_runs_are_equal_and_a_killed_one_goes_on(tiny_bundle: Path, tiny_recipe: Path, tracking: str, tmp_path: Path) -> None:
    expected = open_bundle(tiny_bundle).manifest.files["model.safetensors"]
    out = tmp_path / "run"
    process = train_process(tiny_recipe, out, tracking)
    while not list(out.glob("checkpoints/member-1/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "bundle").exists()
    later = ("--set", "version='2'", "--set", "calibration.bias=false", "--set", "export.min_agreement=0.5")  # counts after the fit
    resumed = train_process(tiny_recipe, out, tracking, "--resume", *later)
    said, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    manifest = open_bundle(out / "bundle").manifest
    assert (manifest.version, manifest.files["model.safetensors"]) == ("2", expected)


def test_resuming_with_another_recipe_is_refused(tiny_recipe: Path, tracking: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    shutil.copyfile(tiny_recipe, out / "recipe.yaml")
    process = train_process(tiny_recipe, out, tracking, "--resume", "--set", "fit.seed=99")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "another recipe" in said


def test_the_same_recipe_under_torchrun(tiny_bundle: Path, tiny_recipe: Path, tracking: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    process = train_process(tiny_recipe, out, tracking, "--set", "fit.members=2", launcher=torchrun)
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said
    assert open_bundle(out / "bundle").manifest.metrics["test"]["rows"] == 20
    assert json.loads((out / "split.json").read_text("utf-8")) == json.loads((tiny_bundle.parent / "split.json").read_text("utf-8"))


def test_an_engine_that_answers_otherwise_fails_the_export(tiny_recipe: Path, tracking: str, tmp_path: Path) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = tracking
    try:
        overrides = [f"out={tmp_path}", "export.min_agreement=1.0", "fit.epochs=1", "model.max_tokens=16"]
        recipe = load_recipe(tiny_recipe, overrides)
        strict = recipe.model_copy(update={"export": recipe.export.model_copy(update={"min_agreement": 1.01})})
        with pytest.raises(ExportError, match=r"export\.precision=fp32"):
            train(strict, quiet=True)
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
    assert not (tmp_path / "bundle").exists()


def test_a_dead_registry_is_said_before_the_work(tiny_recipe: Path, tmp_path: Path) -> None:
    process = train_process(tiny_recipe, tmp_path / "run", "http://127.0.0.1:9")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "does not answer" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()
