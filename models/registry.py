"""Where a model comes from: a name on the command line to a verified bundle on disk.

`default` is the bundle that ships, `models:/NAME@ALIAS` and `models:/NAME/VERSION` come from the MLflow registry named by
MLFLOW_TRACKING_URI (sqlite:///mlflow.db where it is not set) by way of a cache in ~/.cache/stancewire, all else is a folder.
"""

import atexit
import contextlib
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.bundle import DEFAULT_BUNDLE, Bundle, open_bundle
from models.errors import BundleError, RegistryError

DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
_UNTAGGED: dict[tuple[str, str, str], str] = {}  # bundle ids by registry, name and version: versions do not change
_ID = re.compile(r"[0-9a-f]{64}")
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True, slots=True)
class Source:
    """An opened bundle and the version under which users know it."""

    bundle: Bundle
    version: str


def tracking_uri() -> str:
    """The MLflow server or database in use."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI


def resolve(model: str) -> Source:
    """Open `model`; BundleError or RegistryError says what is wrong with it."""
    if model == "default":
        bundle = open_bundle(DEFAULT_BUNDLE)
    elif model.startswith("models:"):
        return _download(model)
    else:
        bundle = open_bundle(Path(model))
    return Source(bundle, bundle.manifest.version)


def peek(model: str) -> str | None:
    """The bundle id that `model` means in the registry now, without fetching it; None where its version does not say, or where
    `model` is no registry name. RegistryError where the registry does not answer."""
    if not model.startswith("models:"):
        return None
    with reaching(model) as client:
        found = _version(client, model)
        return _bundle_id(found)


def follows(model: str) -> bool:
    """Whether what `model` means may change: an alias in the registry."""
    match = _REGISTERED.fullmatch(model)
    return match is not None and match["alias"] is not None


def _download(model: str) -> Source:
    _parts(model)  # what is wrong with the name is said before anything is asked
    with reaching(model) as client:
        import mlflow

        uri = tracking_uri()
        found = _version(client, model)
        cache = _cache()
        bundle = _kept(cache, str(_bundle_id(found)))
        if bundle is None:
            mlflow.set_tracking_uri(uri)
            staging = tempfile.mkdtemp(dir=cache)
            try:
                origin = found.source or f"models:/{found.name}/{found.version}"
                fetched = mlflow.artifacts.download_artifacts(artifact_uri=origin, dst_path=staging, tracking_uri=uri)
                bundle = _keep(_bundle_folder(Path(fetched)), cache)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        _UNTAGGED[uri, found.name, str(found.version)] = bundle.id
        return Source(bundle, str(found.version))


def _bundle_id(version: Any) -> str | None:
    """The id of a version's bundle: as its tag says, or as it was when it was fetched last."""
    known = _UNTAGGED.get((tracking_uri(), version.name, str(version.version)))
    return str(version.tags["bundle_id"]) if "bundle_id" in version.tags else known


def _parts(model: str) -> re.Match[str]:
    match = _REGISTERED.fullmatch(model)
    if match is None:
        raise RegistryError(f"{model!r} is not a registry name. Write models:/NAME@ALIAS or models:/NAME/VERSION.")
    return match


def _version(client: Any, model: str) -> Any:
    match = _parts(model)
    name, alias = match["name"], match["alias"]
    version = client.get_model_version_by_alias(name, alias).version if alias else match["version"]
    return client.get_model_version(name, str(version))


@contextlib.contextmanager
def reaching(model: str) -> Iterator[Any]:
    """A client of the registry in use, whose errors become RegistryError; `model` is what is asked of it."""
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise RegistryError(f"there is no registry at {uri}. Set MLFLOW_TRACKING_URI, or run `stancewire train` first.")
    # MLflow retries for minutes by default; a service that starts should say what is wrong while somebody is watching.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise RegistryError(f"MLflow cannot be loaded ({error}). Run `pip install stancewire[registry]`.") from error
    try:
        yield mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    except ImportError as error:
        raise RegistryError(
            f"{uri} needs a package that is not installed ({error}). Run `pip install stancewire[registry]` for a local database; "
            "another database needs its driver beside that, PostgreSQL `pip install psycopg2-binary`."
        ) from error
    except (MlflowException, OSError, ValueError, *_database_errors()) as error:
        raise RegistryError(
            f"{model} could not be fetched from {uri}: {reason(error)}. "
            "Check MLFLOW_TRACKING_URI and the model's name, alias or version."
        ) from error


def reason(error: BaseException) -> str:
    """The first line of an error's text, without a full stop, to stand inside a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")


def _database_errors() -> tuple[type[Exception], ...]:
    """What a local database raises; nothing where sqlalchemy, an extra, is not installed."""
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        return ()
    return (SQLAlchemyError,)


def _cache() -> Path:
    """Where fetched bundles are kept by id, so that the next start need not fetch; a temporary folder where home is read-only."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stancewire" / "bundles"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        spare = _spare()
        spare.mkdir(exist_ok=True)  # what tidies up /tmp may have taken it for left behind
        return spare


def keep_for_all() -> None:
    """Let the processes that this one will start keep what they fetch where it does, also where home is read-only."""
    folder = _cache()
    if folder.name != "bundles":
        (folder / "stancewire" / "bundles").mkdir(parents=True, exist_ok=True)
        os.environ["XDG_CACHE_HOME"] = str(folder)


@functools.cache
def _spare() -> Path:
    """A folder that this process removes at its end."""
    folder = tempfile.mkdtemp(prefix="stancewire-bundles-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def recent(bundle_id: str, version: str) -> Source | None:
    """The bundle `bundle_id`, known as `version`, as the cache has it, without asking the registry; None where it does not."""
    bundle = _kept(_cache(), bundle_id)
    return None if bundle is None else Source(bundle, version)


def _kept(cache: Path, bundle_id: str) -> Bundle | None:
    """The bundle as the cache has it; a damaged one is removed, to be fetched again."""
    folder = cache / bundle_id
    if not _ID.fullmatch(bundle_id) or not folder.is_dir():
        return None
    try:
        return open_bundle(folder)
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _keep(fetched: Path, cache: Path) -> Bundle:
    """Move a fetched bundle, verified first, to its place in the cache."""
    kept = cache / open_bundle(fetched).id
    with contextlib.suppress(OSError):  # another process was there before; what it left is verified like any other
        fetched.rename(kept)
    return open_bundle(kept)


def _bundle_folder(downloaded: Path) -> Path:
    """The bundle in what was registered: among the artifacts of an MLflow function, in a folder of its own, or by itself."""
    for inner in (downloaded / "artifacts" / "bundle", downloaded / "bundle"):
        if inner.is_dir():
            return inner
    return downloaded
