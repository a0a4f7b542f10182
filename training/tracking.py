"""Every write to MLflow: one run a training, the bundle as its logged model, the registry's aliases."""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas
from alembic.util.exc import CommandError
from filelock import FileLock
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from models.aliases import CHALLENGER
from models.aliases import promote as move_champion
from models.bundle import Bundle
from models.errors import RegistryError
from models.registry import reason, tracking_uri
from training.config import Recipe
from training.data import Example
from training.packaging import write_model

# a database that cannot be opened, or whose driver is not installed, speaks in its own errors
FAULTS = (MlflowException, SQLAlchemyError, CommandError, ImportError, OSError)

_UNNAMEABLE = re.compile(r"[^\w./: -]")


@dataclass(frozen=True, slots=True)
class Registered:
    """Where a training went in MLflow."""

    run_id: str
    model_id: str
    name: str
    version: str


def connect() -> str:
    """Set the tracking server and ask it for an answer; RegistryError where none comes.

    Two processes that meet a new database would both make its tables: they take turns.
    """
    uri = tracking_uri()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        mlflow.set_tracking_uri(uri)
        with _turn(uri):
            mlflow.search_experiments(max_results=1)
    except FAULTS as error:
        raise RegistryError(f"MLflow at {uri} does not answer: {reason(error)}. Check MLFLOW_TRACKING_URI.") from error
    return uri


def _turn(uri: str) -> FileLock:
    """A lock of this machine's for the tracking server at `uri`; OSError (Timeout) where its holder hangs."""
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"stancewire-{os.getuid()}-{name}.lock", timeout=120)


def log_training(
    recipe: Recipe,
    bundle: Bundle,
    sides: Mapping[str, Sequence[Example]],
    history: Sequence[Mapping[str, float]],
    metrics: Mapping[str, float],
    artifacts: Path,
    *,
    promote: bool,
) -> Registered:
    """Log one training and register its bundle with the alias `challenger`, and `champion` too where `promote` is set."""
    uri = connect()
    try:
        mlflow.set_experiment(recipe.tracking.experiment)
        with mlflow.start_run(run_name=recipe.name) as run:
            mlflow.log_params(flatten(recipe.model_dump(mode="json")))
            mlflow.set_tag("bundle_id", bundle.id)
            for side, rows in sides.items():
                frame = pandas.DataFrame({"text": [row.text for row in rows], "label": [row.label for row in rows]})
                mlflow.log_input(
                    mlflow.data.from_pandas(frame, source="local", targets="label", name=f"{recipe.name}-{side}"), side
                )
            for entry in history:
                step = round(entry.get("step", 0))
                mlflow.log_metrics({key: value for key, value in entry.items() if key not in ("step", "epoch")}, step=step)
            mlflow.log_metrics(dict(metrics))
            mlflow.log_artifacts(str(artifacts))
            name = recipe.tracking.registered_model
            model_id, version = _register(bundle, name, run.info.run_id)
            mlflow.MlflowClient().log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step=0)])
        if promote:
            move_champion(name, int(version), force=True, why="stancewire train --promote")
        return Registered(run.info.run_id, model_id, name, version)
    except FAULTS as error:
        raise RegistryError(f"MLflow at {uri} refused: {reason(error)}. The bundle is kept in {bundle.path}.") from error


def register(bundle: Bundle, name: str, experiment: str = "stancewire") -> str:
    """Register a bundle that was trained elsewhere, as the challenger of `name`; its version. RegistryError where that fails."""
    uri = connect()
    try:
        mlflow.set_experiment(experiment)
        return _register(bundle, name, None)[1]
    except FAULTS as error:
        raise RegistryError(f"MLflow at {uri} refused: {reason(error)}. Check MLFLOW_TRACKING_URI and the name.") from error


def _register(bundle: Bundle, name: str, run_id: str | None) -> tuple[str, str]:
    """The logged model's id and the version that it became, with the alias `challenger`."""
    client = mlflow.MlflowClient()
    logged = mlflow.initialize_logged_model(name=bundle.manifest.name, source_run_id=run_id, model_type="stancewire-bundle")
    with tempfile.TemporaryDirectory() as scratch:
        write_model(bundle, Path(scratch) / "model")
        client.log_model_artifacts(logged.model_id, str(Path(scratch) / "model"))
    mlflow.finalize_logged_model(logged.model_id, "READY")
    version = mlflow.register_model(f"models:/{logged.model_id}", name, tags={"bundle_id": bundle.id})
    client.set_registered_model_alias(name, CHALLENGER, str(version.version))
    return logged.model_id, str(version.version)


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as one level of dotted ones, in the characters that MLflow takes."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[_UNNAMEABLE.sub("_", prefix + key)] = value
    return flat
