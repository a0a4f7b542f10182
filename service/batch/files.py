"""Where archives lie: paths, folders, globs and URLs to open files, and the way back out.

A URL is whatever Arrow's file systems open (`s3://`, `gs://`, `hdfs://`, `file://`), or fsspec where it is installed. Compression
(`.gz`, `.zst`) and the kind of table are told by the ending of a name.
"""

import fnmatch
import hashlib
import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, cast
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from models.bundle import sync
from models.errors import UsageError

KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
COMPRESSIONS: dict[str, Literal["gzip", "zstd"]] = {".gz": "gzip", ".zst": "zstd"}
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ending:
    """What the ending of a name says: `kind` is one of KINDS, `compression` `.gz`, `.zst` or empty."""

    kind: str
    compression: str = ""

    def __str__(self) -> str:
        return self.kind + self.compression


@dataclass(frozen=True, slots=True)
class Source:
    """One file of an archive; `shown` is its name for people, `local` whether the operating system opens it."""

    filesystem: Any
    path: str
    shown: str
    ending: Ending
    local: bool

    def open(self) -> IO[bytes]:
        """The file's bytes, decompressed."""
        stream: Any = self.filesystem.open_input_file(self.path)
        if self.ending.compression:
            stream = pa.CompressedInputStream(stream, COMPRESSIONS[self.ending.compression])
        return cast(IO[bytes], io.BufferedReader(stream, _BUFFER_BYTES))

    def open_table(self) -> Any:
        """The file for Arrow's Parquet reader, which seeks in it."""
        return self.filesystem.open_input_file(self.path)

    def fingerprint(self) -> dict[str, Any]:
        """What tells this content from another: size and SHA-256 of a local file, size and time of change of a remote one."""
        info = self.filesystem.get_file_info(self.path)
        if not self.local:
            return {"bytes": info.size, "changed_ns": info.mtime_ns}
        with Path(self.path).open("rb") as stream:
            return {"bytes": info.size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def read_ending(name: str) -> Ending | None:
    """The ending of a table's name; None where it is none."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes[-2:]]
    if suffixes and suffixes[-1] in KINDS:
        return Ending(suffixes[-1])
    if len(suffixes) == 2 and suffixes[1] in COMPRESSIONS and suffixes[0] in KINDS and suffixes[0] != ".parquet":
        return Ending(suffixes[0], suffixes[1])
    return None


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """The files that `inputs` name, each once: in the order given, those of a folder or glob by name.

    UsageError where one names nothing, or a file of another kind.
    """
    found: list[Source] = []
    places: dict[str, list[Any]] = {}
    for given in inputs:
        listed = _list(plain(given))
        if not listed:
            raise UsageError(f"{given}: there is no such file. Check the path; a folder or a glob must hold {_kinds()}.")
        for source in listed:
            known = places.setdefault(source.path, [])
            if not any(source.filesystem.equals(filesystem) for filesystem in known):
                known.append(source.filesystem)
                found.append(source)
    return found


def is_url(name: str) -> bool:
    """Whether `name` is a URL and not a path."""
    return "://" in name


def plain(name: str) -> str:
    """`name` as a path where it is a `file://` URL, else as it is; UsageError where it is not UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{os.fsencode(name)!r}: the name is not UTF-8. Rename the file.") from error
    if not name.startswith("file://"):
        return name
    path = unquote(name.removeprefix("file://").removeprefix("localhost"))
    if not path.startswith("/"):
        raise UsageError(f"{name} names another machine. Write file:///PATH, or the path alone.")
    return path


def open_filesystem(url: str) -> tuple[Any, str]:
    """The file system of `url` and the path on it; UsageError says why there is none."""
    try:
        filesystem, path = pafs.FileSystem.from_uri(url)
        return filesystem, path
    except (pa.ArrowException, OSError, ValueError) as arrow_error:
        try:
            from fsspec.core import url_to_fs

            opened, path = url_to_fs(url)
            return pafs.PyFileSystem(pafs.FSSpecHandler(opened)), path
        except (ImportError, ValueError, OSError) as error:
            raise UsageError(
                f"{url} cannot be opened ({arrow_error}; fsspec: {error}). Check the URL, the credentials, and that the package of "
                "its scheme is installed."
            ) from error


def _list(given: str) -> list[Source]:
    if not is_url(given):
        return _list_local(given)
    address, mark, query = given.partition("?")
    parts = address.split("/")
    wild = next((place for place, part in enumerate(parts) if place > 2 and any(c in part for c in "*[")), len(parts))
    filesystem, base = open_filesystem("/".join(parts[:wild]) + mark + query)
    pattern = parts[wild:]
    shown = "/".join(parts[:wild]).removesuffix("/")
    try:
        info = filesystem.get_file_info(base)
        if info.type == pafs.FileType.File:
            return [Source(filesystem, base, address, _required_ending(address), False)]
        selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
        files = sorted(entry.path for entry in filesystem.get_file_info(selector) if entry.type == pafs.FileType.File)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{given} cannot be listed ({str(error).splitlines()[0]}). Check the URL and the credentials.") from error
    return [
        Source(filesystem, path, shown + path[len(base.rstrip("/")) :], ending, False)
        for path in files
        if (ending := read_ending(path)) and (_matches(_inside(path, base), pattern) if pattern else not _hidden(path[len(base) :]))
    ]


def _inside(path: str, base: str) -> list[str]:
    return path[len(base.rstrip("/")) :].removeprefix("/").split("/")


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a glob, both by folder; `**` stands for any number of folders, or none, as it does on a disk."""
    if not pattern:
        return not parts
    if pattern[0] == "**" and len(pattern) > 1:
        return _matches(parts, pattern[1:]) or (bool(parts) and _matches(parts[1:], pattern))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _list_local(given: str) -> list[Source]:
    path = Path(given)
    if path.is_file():
        return [_local(path, _required_ending(given))]
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(str(p.relative_to(path))))
        return [_local(p, ending) for p in inside if (ending := read_ending(p.name))]
    if not any(character in given for character in "*?["):
        return []
    anchor = Path(path.anchor or ".")
    try:
        matched = sorted(anchor.glob(str(path.relative_to(anchor) if path.anchor else path)))
    except ValueError as error:
        raise UsageError(f"{given!r} is not a glob ({error}). Write one such as archive/**/*.jsonl.gz.") from error
    return [_local(p, e) for p in matched if p.is_file() and (e := read_ending(p.name))]


def _local(path: Path, ending: Ending) -> Source:
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} may not be read. Change its permissions or give another file.")
    return Source(pafs.LocalFileSystem(), str(path.absolute()), plain(str(path)), ending, True)


def _hidden(inside: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(inside).parts)


def _required_ending(name: str) -> Ending:
    ending = read_ending(name)
    if ending is None:
        raise UsageError(f"{name}: the kind of file is told by its extension. Use one of {_kinds()}.")
    return ending


def _kinds() -> str:
    return ", ".join(KINDS) + " (the first three also with .gz or .zst)"


class Store:
    """The folder that a job writes to: a local one, or one at a URL. A file appears under its name whole or not at all."""

    def __init__(self, folder: str) -> None:
        self.shown = folder
        self.remote = is_url(folder)
        self._filesystem, root = open_filesystem(folder) if self.remote else (pafs.LocalFileSystem(), str(Path(folder).absolute()))
        self._root = root.rstrip("/")

    def local(self, name: str) -> Path:
        """The place of `name` in a local store."""
        return Path(self._root) / name

    def holds(self, source: Source) -> bool:
        """Whether `source` lies in this folder; UsageError where that cannot be told."""
        if self.remote == source.local:
            return False
        if source.local:
            return Path(source.path).resolve().is_relative_to(Path(self._root).resolve())
        if not source.path.startswith(f"{self._root}/") or source.filesystem.type_name != self._filesystem.type_name:
            return False
        if not source.filesystem.equals(self._filesystem):
            raise UsageError(
                f"{source.shown} may lie in the output {self.shown}. Give both the same options, or choose another output."
            )
        return True

    def publish(self, staged: Path, name: str) -> None:
        """Move the finished local file `staged` to `name`, so that after a power cut it is there or not."""
        if self.remote:  # an object store shows an object when its upload has ended
            pafs.copy_files(
                str(staged),
                f"{self._root}/{name}",
                source_filesystem=pafs.LocalFileSystem(),
                destination_filesystem=self._filesystem,
            )
            staged.unlink()
            return
        put(staged, self.local(name))

    def read(self, name: str) -> bytes | None:
        """The content of `name`; None where there is none."""
        if self._filesystem.get_file_info(f"{self._root}/{name}").type != pafs.FileType.File:
            return None
        with self._filesystem.open_input_file(f"{self._root}/{name}") as stream:
            return bytes(stream.readall())

    def digest(self, name: str) -> str | None:
        """The SHA-256 of `name`; None where there is none."""
        if self._filesystem.get_file_info(f"{self._root}/{name}").type != pafs.FileType.File:
            return None
        with self._filesystem.open_input_file(f"{self._root}/{name}") as stream:
            return hashlib.file_digest(cast(Any, io.BufferedReader(stream, _BUFFER_BYTES)), "sha256").hexdigest()

    def make(self) -> None:
        """Make the folder and its `_job`, where they are not there."""
        self._filesystem.create_dir(f"{self._root}/_job", recursive=True)

    def names(self) -> list[str]:
        """The names in the folder, none where it is not there."""
        selector = pafs.FileSelector(self._root, allow_not_found=True)
        return sorted(entry.base_name for entry in self._filesystem.get_file_info(selector))

    def remove(self, last: str) -> None:
        """Remove this local folder with all that is in it, the file `last` after all others; another process may do the same."""
        for path in sorted((p for p in self.local("").rglob("*") if p.is_file()), key=self.local(last).__eq__):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._root, ignore_errors=True)


def put(staged: Path, target: Path) -> None:
    """Move a finished file to its place on the same disk, so that after a power cut it is there whole or not at all."""
    sync(staged)
    staged.chmod(0o644)
    staged.replace(target)
    sync(target.parent)
