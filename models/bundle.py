"""A trained model as a directory of inert data, verified whenever it is opened.

`save_bundle` writes to a sibling with a temporary name, syncs it and renames it, so that a bundle is whole or not there.
`open_bundle` reads the manifest strictly and checks every file's size and SHA-256; a link, an extra file or a path that leaves
the folder is refused. The bundle's id is the SHA-256 of its manifest, so the id stands for every byte in the folder.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.errors import BundleError, UsageError
from models.reference import Reference
from models.schema import LabelSet

MANIFEST = "manifest.json"
DEFAULT_BUNDLE = Path(__file__).parent / "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Strict):
    """Digest and size of one file of the bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class EngineEntry(_Strict):
    """Which file serves, and at what precision."""

    kind: Literal["onnx"] = "onnx"
    file: str = "model.onnx"
    precision: Literal["int8", "fp32"]


class Manifest(_Strict):
    """Everything that is known of a bundle; the order of `labels` is the order of the network's outputs."""

    format: Literal[1] = 1
    name: str
    version: str
    label_set: LabelSet
    base_model: str
    base_sha256: str
    pooling: Literal["mean", "first"]
    max_tokens: int = Field(ge=8, le=8192)
    temperature: float = Field(gt=0)
    bias: tuple[float, ...] = ()
    confidence_threshold: float = Field(ge=0, le=1)
    training_data_sha256: str
    git_commit: str | None = None
    metrics: dict[str, dict[str, float]] = {}
    reference: Reference | None = None
    engine: EngineEntry
    files: dict[str, FileEntry] = {}

    @model_validator(mode="after")
    def _one_bias_a_label(self) -> "Manifest":
        if self.bias and len(self.bias) != len(self.label_set.labels):
            raise ValueError(f"bias has {len(self.bias)} numbers for {len(self.label_set.labels)} labels")
        return self


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: every file was as its manifest says when it was opened."""

    path: Path
    manifest: Manifest
    id: str

    @property
    def card(self) -> str:
        """The model card, empty where the bundle has none."""
        path = self.path / "MODEL_CARD.md"
        return path.read_text("utf-8") if path.is_file() else ""


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_bundle(path: Path) -> Bundle:
    """Open and verify the bundle at `path`; BundleError names the file that is wrong."""
    if not path.is_dir():
        raise BundleError(f"{path} is not a bundle: there is no such folder. Give a folder that holds {MANIFEST}.")
    manifest_path = path / MANIFEST
    if not manifest_path.is_file() or manifest_path.is_symlink():
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}. Give a folder that `stancewire train` wrote.")
    raw = manifest_path.read_bytes()
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BundleError(
            f"{manifest_path} cannot be read: {where}: {first['msg']}. Fetch the bundle again, or use the release that wrote it."
        ) from error
    _verify(path, manifest)
    return Bundle(path, manifest, hashlib.sha256(raw).hexdigest())


def _verify(path: Path, manifest: Manifest) -> None:
    required = {"tokenizer.json", manifest.engine.file}
    if missing := sorted(required - set(manifest.files)):
        raise BundleError(f"{path / MANIFEST} does not list {missing[0]}. Fetch the bundle again.")
    present = {entry.name for entry in path.iterdir()} - {MANIFEST}
    if extra := sorted(present - set(manifest.files)):
        raise BundleError(f"{path / extra[0]} is not part of the bundle. Remove it, or fetch the bundle again.")
    for name, entry in manifest.files.items():
        file = path / name
        if not _NAME.fullmatch(name):
            raise BundleError(f"{path / MANIFEST} lists {name!r}, which is not a plain file name. Do not use this bundle.")
        if file.is_symlink() or not file.is_file():
            raise BundleError(f"{file} is missing or is not a regular file. Fetch the bundle again.")
        if file.stat().st_size != entry.bytes or sha256_file(file) != entry.sha256:
            raise BundleError(f"{file} is damaged: its content is not what the manifest says. Fetch the bundle again.")


def save_bundle(target: Path, manifest: Manifest, write: Callable[[Path], None]) -> Bundle:
    """Make a bundle at `target`: `write` fills a temporary folder, whose files then enter the manifest.

    An existing bundle at `target` is replaced; any other folder there is refused.
    """
    if target.exists() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise UsageError(f"{target} exists and is not a bundle. Choose another output folder or empty it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UsageError(f"cannot write to {target.parent} ({error.strerror}). Choose a folder you may write to.") from error
    try:
        write(staging)
        files = {file.name: FileEntry(sha256=sha256_file(file), bytes=file.stat().st_size) for file in sorted(staging.iterdir())}
        content = manifest.model_copy(update={"files": files}).model_dump(mode="json")
        (staging / MANIFEST).write_text(_pretty(content), "utf-8")
        staging.chmod(0o755)
        for file in staging.iterdir():
            file.chmod(0o644)
            sync(file)
        sync(staging)
        _replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return open_bundle(target)


def copy_bundle(source: Bundle, target: Path, *, weights: bool) -> Bundle:
    """Copy a bundle, without the training weights where `weights` is false (what a service needs)."""

    def write(folder: Path) -> None:
        for name in source.manifest.files:
            if weights or name != "model.safetensors":
                shutil.copyfile(source.path / name, folder / name)

    return save_bundle(target, source.manifest, write)


def _replace(staging: Path, target: Path) -> None:
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
        target.rename(old / "bundle")
        staging.rename(target)
        shutil.rmtree(old)
    else:
        staging.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Have the operating system write `path`, a file or folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pretty(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
