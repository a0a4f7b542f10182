"""Who serves: the registry's aliases `champion`, `challenger` and `previous`, and the record of every move.

A move is written as a tag of the registered model, so that it is where the aliases are, whichever server or database that is: key
`move.TIME`, value JSON of who, from, to, why. It is written before the aliases move.
"""

import getpass
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from models.errors import UsageError
from models.registry import reaching

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
_MOVE = "move."
_PASSED = "passed"


@dataclass(frozen=True, slots=True)
class Version:
    """One registered version: bundle, aliases, the verdict of its gate (empty where it went through none), time of registration."""

    number: int
    bundle_id: str
    aliases: tuple[str, ...]
    gate: str
    created: datetime


@dataclass(frozen=True, slots=True)
class Move:
    """A change of the champion: versions from and to, who made it, when (UTC, ISO 8601) and why."""

    when: str
    who: str
    action: str
    before: str | None
    after: str
    why: str


def list_versions(name: str) -> list[Version]:
    """The versions of `name`, newest first; RegistryError where the registry has no such model or does not answer."""
    with reaching(f"models:/{name}") as client:
        aliases: dict[str, list[str]] = {}
        for alias, number in client.get_registered_model(name).aliases.items():
            aliases.setdefault(str(number), []).append(alias)
        found = [
            Version(
                int(version.version),
                str(version.tags.get("bundle_id", "")),
                tuple(sorted(aliases.get(str(version.version), ()))),
                str(version.tags.get("gate", "")),
                datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
            )
            for version in client.search_model_versions(f"name='{name}'")
        ]
        return sorted(found, key=lambda version: -version.number)


def list_moves(name: str) -> list[Move]:
    """Every move of the champion of `name`, oldest first."""
    with reaching(f"models:/{name}") as client:
        tags = client.get_registered_model(name).tags
        return [Move(**json.loads(value)) for key, value in sorted(tags.items()) if key.startswith(_MOVE)]


def promote(name: str, version: int | None, *, force: bool, why: str) -> Move:
    """Make `version` (the challenger where it is None) champion, and the champion `previous`.

    UsageError where the version has not passed the gate, unless `force` is set and `why` says why.
    """
    if force and not why.strip():
        raise UsageError("--force needs --reason: it stands in the record of moves.")
    with reaching(f"models:/{name}") as client:
        aliases = {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}
        chosen = str(version) if version is not None else aliases.get(CHALLENGER)
        if chosen is None:
            raise UsageError(f"{name} has no challenger. Train one, or name a version.")
        found = client.get_model_version(name, chosen)
        if aliases.get(CHAMPION) == chosen:
            raise UsageError(f"version {chosen} of {name} is the champion already.")
        if found.tags.get("gate") != _PASSED and not force:
            state = "has failed the gate" if "gate" in found.tags else "has not been through the gate"
            raise UsageError(
                f"version {chosen} of {name} {state}. Run `stancewire models gate {name}`, or give --force and a --reason."
            )
        if not force and found.tags.get("gate_champion") != aliases.get(CHAMPION, "none"):
            raise UsageError(
                f"version {chosen} of {name} passed the gate beside another champion. Run `stancewire models gate {name} "
                f"--version {chosen}` again, or give --force and a --reason."
            )
        return _move(client, name, aliases, chosen, "promote" if not force else "promote --force", why)


def rollback(name: str, why: str) -> Move:
    """Make the `previous` version champion again, and the champion `previous`."""
    with reaching(f"models:/{name}") as client:
        aliases = {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}
        if PREVIOUS not in aliases:
            raise UsageError(f"{name} has no previous champion to go back to. Promote a version by number instead.")
        return _move(client, name, aliases, aliases[PREVIOUS], "rollback", why)


def _move(client: Any, name: str, aliases: dict[str, str], version: str, action: str, why: str) -> Move:
    before = aliases.get(CHAMPION)
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    move = Move(now, _who(), action, before, version, why)
    client.set_registered_model_tag(name, f"{_MOVE}{move.when}", json.dumps(asdict(move), ensure_ascii=False))
    if before is not None:
        client.set_registered_model_alias(name, PREVIOUS, before)
    client.set_registered_model_alias(name, CHAMPION, version)
    return move


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return "unknown"


def table(versions: Sequence[Version]) -> str:
    """Versions as plain text."""
    lines = [f"{'version':>7}  {'bundle':<12}  {'gate':<7}  {'registered (UTC)':<16}  aliases"]
    lines += [
        f"{version.number:>7}  {version.bundle_id[:12]:<12}  {version.gate or '-':<7}  {version.created:%Y-%m-%d %H:%M}  "
        f"{', '.join(version.aliases)}".rstrip()
        for version in versions
    ]
    return "\n".join(lines)
