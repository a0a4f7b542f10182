"""Who may call what: keys with scopes and a rate each, and what is open where there are none.

The file of keys holds SHA-256 digests, never keys: a key is 256 random bits, which nobody finds from its digest. Without a file,
`classify` is open to this machine (to everyone with `open_classify`), `label` and `admin` to this machine alone.
"""

import hashlib
import ipaddress
import json
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.documents import read_yaml
from models.errors import UsageError
from service.errors import Problem

_PASSED_ON = ("x-forwarded-for", "forwarded", "x-real-ip", "via")
Scope = Literal["classify", "label", "admin"]
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Key(BaseModel):
    """One key of the file: `name` is who is known by it, `per_minute` the requests that it allows, 0 any number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    per_minute: int = Field(0, ge=0)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[Key, ...]


@dataclass(slots=True)
class _Bucket:
    """Requests that a key has left; they grow back over a minute."""

    left: float
    at: float = field(default_factory=time.monotonic)

    def take(self, per_minute: int) -> float:
        """Take one; seconds until there will be one where there is none."""
        now = time.monotonic()
        self.left = min(per_minute, self.left + (now - self.at) * per_minute / 60)
        self.at = now
        if self.left < 1:
            return (1 - self.left) * 60 / per_minute
        self.left -= 1
        return 0.0


class Keys:
    """The keys that the service knows."""

    def __init__(self, keys: tuple[Key, ...] | None, *, open_classify: bool) -> None:
        self._keys = None if keys is None else {key.sha256: key for key in keys}
        self._open_classify = open_classify
        self._buckets: dict[str, _Bucket] = {}

    @classmethod
    def load(cls, path: Path | None, *, open_classify: bool) -> "Keys":
        """Read the file at `path`, where there is one; UsageError says what is wrong with it."""
        if path is None:
            return cls(None, open_classify=open_classify)
        try:
            content = _File.model_validate(read_yaml(path, "file of API keys", "the output of `stancewire keys new`"))
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}. See `stancewire keys new`.") from error
        names = [key.name for key in content.keys]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"{path}: two keys are named {twice[0]!r}. Give each a name of its own.")
        return cls(content.keys, open_classify=open_classify)

    def admit(self, request: Request, scope: Scope) -> str:
        """The name of who calls; Problem where they may not: 401, 403, or 429 over the key's rate."""
        if self._keys is None:
            if _is_local(request) or (scope == "classify" and self._open_classify):
                return "local" if _is_local(request) else "anyone"
            raise Problem(
                401,
                "key_required",
                "This address is open to the service's own machine alone until it is given a file of API keys. "
                "Ask whoever runs the service for a key.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        presented = given.strip() if kind.lower() == "bearer" else request.headers.get("x-api-key", "")
        key = self._keys.get(hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest())
        if key is None:
            raise Problem(
                401,
                "key_required",
                "Send a key that this service knows, with the header Authorization: Bearer KEY.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if scope not in key.scopes:
            raise Problem(403, "scope_missing", f"This key may not call this address. Ask for one with the scope {scope}.")
        if key.per_minute:
            bucket = self._buckets.setdefault(key.sha256, _Bucket(float(key.per_minute)))
            if wait_s := bucket.take(key.per_minute):
                detail = f"This key allows {key.per_minute} requests a minute. Send this one again later."
                raise Problem(429, "rate_limited", detail, headers={"Retry-After": str(int(wait_s) + 1)})
        return key.name


def _is_local(request: Request) -> bool:
    """Whether the call comes from this machine; a proxy on it must send X-Forwarded-For, or all its callers seem to."""
    try:
        address = ipaddress.ip_address(request.client.host if request.client is not None else "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    # a trusted proxy's word of its caller has taken the peer's place by now; any other call that was passed on is somebody else's
    passed_on = any(name in request.headers for name in _PASSED_ON)
    return bool((mapped or address).is_loopback) and not passed_on and _means_here(request)


def _means_here(request: Request) -> bool:
    """Whether the caller asked for this machine by a name of its own: a page from elsewhere that a browser here shows may call by
    another name that leads here (DNS rebinding), or with an Origin that is not ours."""
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return False
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost" or name.lower().endswith(".localhost")


Route = Callable[_P, Coroutine[Any, Any, _T]]


def needs(scope: Scope) -> Callable[[Route[_P, _T]], Route[_P, _T]]:
    """Mark a route, one that takes `request`: its callers need `scope`. Their name is `request.state.caller`."""

    def mark(route: Route[_P, _T]) -> Route[_P, _T]:
        @wraps(route)
        async def checked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            request = kwargs["request"]  # FastAPI gives every parameter by name
            assert isinstance(request, Request)
            keys: Keys = request.app.state.keys
            request.state.caller = keys.admit(request, scope)
            return await route(*args, **kwargs)

        return _decided(checked, scope)

    return mark


def public(route: Callable[_P, _T]) -> Callable[_P, _T]:
    """Mark a route: everybody may call it."""
    return _decided(route, "public")


def decision(route: Any) -> str | None:
    """What was decided about the callers of a route; None where nothing was."""
    found = getattr(route, "stancewire_auth", None)
    return str(found) if found is not None else None


def _decided(route: Callable[_P, _T], value: str) -> Callable[_P, _T]:
    route.stancewire_auth = value  # type: ignore[attr-defined]
    return route


def new_key(name: str, scopes: Sequence[str], per_minute: int) -> tuple[str, str]:
    """A new key, and its entry for the file of keys."""
    key = secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).hexdigest()
    # quoted: a digest of digits alone would be a number in YAML
    entry = f"  - {{name: {json.dumps(name)}, sha256: '{digest}', scopes: [{', '.join(scopes)}], per_minute: {per_minute}}}\n"
    return key, entry
