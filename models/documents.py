"""YAML files that people write: recipes and settings."""

from pathlib import Path
from typing import Any

import yaml

from models.errors import UsageError


def read_yaml(path: Path, kind: str, example: str) -> dict[str, Any]:
    """Keys and values of a YAML file; UsageError calls the file `kind` and names `example` as one to start from."""
    try:
        content = yaml.safe_load(path.read_text("utf-8")) or {}
    except FileNotFoundError as error:
        raise UsageError(f"there is no {kind} {path}. Start from {example}.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read as YAML: {error}. {example} shows the form.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold keys and values, as {example} does.")
    return content
