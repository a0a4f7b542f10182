"""The search: nested runs, resuming, two processes at once, and a recipe at the end that trains."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import optuna
import pytest
from optuna.trial import TrialState

from models.errors import UsageError
from training.config import load_recipe
from training.tune import load_space, tune

SPACE = "fit.learning_rate: {low: 1.0e-3, high: 1.0e-2, log: true}\nfit.batch_size: [16, 32]\nmodel.pooling: [first, mean]\n"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE, "utf-8")
    return path


def test_a_search_goes_on_where_it_stood(
    tiny_recipe: Path, tracking: str, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(tiny_recipe, ["fit.epochs=2", "fit.members=2", "tracking.experiment=search"])
    said: list[str] = []

    def search(trials: int) -> float:
        options = {"study_name": "s", "storage": None, "seed": 1, "quiet": True, "say": said.append}
        return tune(recipe, load_space(space, recipe), tmp_path / "out", trials=trials, **options).macro_f1  # type: ignore[arg-type]

    first = search(2)
    assert search(2) == first
    assert "study s: 2 trials have ended before" in said
    best = search(3)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}")
    assert len(study.trials) == 3
    assert best == max(trial.value for trial in study.trials if trial.value is not None) >= first
    client = mlflow.MlflowClient(tracking_uri=tracking)
    experiment = client.get_experiment_by_name("search")
    parent = study.user_attrs["mlflow_run"]
    runs = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert len(runs) == 3
    assert max(run.data.metrics["validation_macro_f1"] for run in runs) == best
    written = load_recipe(tmp_path / "out" / "best.yaml")
    assert written.fit.learning_rate == study.best_params["fit.learning_rate"]
    assert (written.data, written.fit.members) == (recipe.data, 2)
    assert not list((tmp_path / "out").glob("trial-*"))
    other = load_recipe(tiny_recipe, ["fit.epochs=2", "fit.seed=5"])
    with pytest.raises(UsageError, match="another recipe"):
        tune(
            other, load_space(space, other), tmp_path / "out", trials=4, study_name="s", storage=None, seed=1, quiet=True, say=print
        )


def test_two_at_once_and_one_is_killed(tiny_recipe: Path, tracking: str, space: Path, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    command = [sys.executable, "-m", "stancewire", "tune", str(tiny_recipe), "--space", str(space), "--trials", "4", "--quiet"]
    command += ["--storage", storage, "--study", "both", "--set", "fit.epochs=2"]

    def start(name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "--out", str(tmp_path / name), "--seed", str(len(name))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"MLFLOW_TRACKING_URI": tracking},
            cwd=tmp_path,
            start_new_session=True,
        )

    one, other = start("a"), start("bb")
    while not list((tmp_path / "a").glob("trial-*")):
        assert one.poll() is None, one.communicate()[0]
        time.sleep(0.05)
    os.killpg(one.pid, signal.SIGKILL)
    one.communicate()
    said, _ = other.communicate(timeout=300)
    assert other.returncode == 0, said
    study = optuna.load_study(study_name="both", storage=storage)
    assert len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))) >= 4
    assert len({tuple(sorted(trial.params.items())) for trial in study.get_trials(states=(TrialState.COMPLETE,))}) >= 2
    assert "best of" in said


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("fit.speed: [1]\n", "no key 'fit.speed'"),
        ("fit.epochs: {low: 3, high: 2}\n", "low < high"),
        ("fit.epochs: {from: 3, to: 5}\n", "list of choices or a range"),
        ("fit.learning_rate: {low: 0.0, high: 1.0, log: true}\n", "low > 0"),
        ("model.pooling: [first, largest]\n", "highest or last"),
    ],
)
def test_a_wrong_space_is_said(tiny_recipe: Path, tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=wrong):
        load_space(path, load_recipe(tiny_recipe))


def test_a_database_that_does_not_open_is_said(
    tiny_recipe: Path, tracking: str, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(tiny_recipe)
    with pytest.raises(UsageError, match="does not open"):
        options = {"study_name": "s", "seed": 1, "quiet": True, "say": print}
        where = f"sqlite:///{tmp_path / 'nowhere' / 'study.db'}"
        tune(recipe, load_space(space, recipe), tmp_path, trials=1, storage=where, **options)  # type: ignore[arg-type]
