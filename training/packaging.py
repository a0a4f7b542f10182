"""A bundle as the folder that MLflow registers: the bundle itself, beside what makes it an MLflow Python function.

The function's code is the package `models`, copied along, so that a Spark worker or `mlflow models serve` needs neither Stancewire
nor torch, only the requirements that stand in the folder.
"""

import re
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

import models
from models.bundle import Bundle, copy_bundle

_NEEDED = ("numpy", "onnxruntime", "pydantic", "tokenizers")


def write_model(bundle: Bundle, target: Path) -> None:
    """Write the folder `target`, which must not be there; the bundle is in `artifacts/bundle`."""
    source = Path(models.__file__).parent
    with tempfile.TemporaryDirectory() as scratch:
        code = Path(scratch) / "code" / "models"
        code.mkdir(parents=True)
        for file in source.glob("*.py"):
            if file.name != "engine_torch.py":
                shutil.copyfile(file, code / file.name)
        copied = copy_bundle(bundle, Path(scratch) / "bundle", weights=True)
        mlflow.pyfunc.save_model(
            str(target),
            python_model=str(source / "pyfunc.py"),
            artifacts={"bundle": str(copied.path)},
            code_paths=[str(code)],
            signature=_signature(bundle),
            pip_requirements=_requirements(),
        )


def _signature(bundle: Bundle) -> ModelSignature:
    labels = bundle.manifest.label_set.labels
    outputs = [
        ColSpec("string", "label", required=False),
        ColSpec("double", "score", required=False),
        ColSpec("boolean", "confident", required=False),
        *(ColSpec("double", f"p_{label}", required=False) for label in labels),
        ColSpec("boolean", "truncated", required=False),
        ColSpec("string", "error", required=False),
    ]
    return ModelSignature(Schema([ColSpec("string", "text", required=False)]), Schema(outputs))


def _requirements() -> list[str]:
    """What serving needs, in the ranges of this package, and MLflow."""
    stated = {re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0]: line for line in metadata.requires("stancewire") or ()}
    return [*(stated[name].partition(";")[0] for name in _NEEDED), "mlflow>=3.17,<3.18", "pandas"]
