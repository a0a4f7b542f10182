"""Every write to MLflow: one run a training, the bundle as its logged model, the registry's aliases."""

import hashlib
import os
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

from models.bundle import Bundle
from models.errors import RegistryError
from models.registry import reason, tracking_uri
from training.config import Recipe
from training.data import Example
from training.packaging import write_model

# a database that cannot be opened, or whose driver is not installed, speaks in its own errors
FAULTS = (MlflowException, SQLAlchemyError, CommandError, ImportError, OSError)


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
            client = mlflow.MlflowClient()
            logged = mlflow.initialize_logged_model(name=recipe.name, source_run_id=run.info.run_id, model_type="stancewire-bundle")
            with tempfile.TemporaryDirectory() as scratch:
                write_model(bundle, Path(scratch) / "model")
                client.log_model_artifacts(logged.model_id, str(Path(scratch) / "model"))
            mlflow.finalize_logged_model(logged.model_id, "READY")
            client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
            name = recipe.tracking.registered_model
            version = mlflow.register_model(f"models:/{logged.model_id}", name, tags={"bundle_id": bundle.id})
            client.set_registered_model_alias(name, "challenger", str(version.version))
            if promote:
                client.set_registered_model_alias(name, "champion", str(version.version))
        return Registered(run.info.run_id, logged.model_id, name, str(version.version))
    except FAULTS as error:
        raise RegistryError(f"MLflow at {uri} refused: {reason(error)}. The bundle is kept in {bundle.path}.") from error


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as one level of dotted ones."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
