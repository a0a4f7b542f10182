"""The model that answers now, and how another takes its place between two requests.

A candidate is fetched, verified, opened and warmed in a thread, while the model in the slot goes on answering; then one assignment
swaps them. The old one is closed when the last request that began with it has its answer: every answer comes from one model. Where
anything is wrong with the candidate or the registry, the old one keeps answering, and the reason is in the log, in the metrics and
in `/v1/model`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from fastapi import Request

from models.bundle import Bundle
from models.classifier import Classifier
from models.errors import BundleError, RegistryError, UsageError
from models.registry import Source, peek, resolve
from service.answers import Answers
from service.batcher import Batcher
from service.bell import Bell
from service.errors import Problem
from service.telemetry import Telemetry
from service.threads import Busy, Threads

_log = logging.getLogger("stancewire")
_REFUSED_S = 600.0  # after which a candidate that could not be taken is looked at again unasked
_LISTEN_S = 0.5
_RETRY_S = 5.0  # after a call that could not be followed
_LOOK_S, _FETCH_S = 60.0, 1800.0  # that the registry may take
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Following:
    """How the slot keeps up with the registry: when it last asked (UTC, ISO 8601), swaps so far, and what went wrong last, if that
    was at the last time."""

    model: str
    asked: str | None = None
    swaps: int = 0
    error: str | None = None


class _Held:
    """A model in use: `leases` requests are under way with it."""

    def __init__(self, classifier: Classifier, answers: Answers) -> None:
        self.classifier, self.answers = classifier, answers
        self.leases = 0
        self.free = asyncio.Event()
        self.free.set()


class Slot:
    """Holds the model that answers; everything but the opening of models happens on the event loop."""

    def __init__(self, model: str, telemetry: Telemetry, *, workers: int, max_queued_tokens: int, bell: Bell | None = None) -> None:
        self._telemetry = telemetry
        self.bell = bell
        self.heard = bell.rung if bell is not None else 0
        self._refused: tuple[str, float, str] | None = None
        self._registry = Threads("registry", 1, 1)
        self._workers, self._max_queued_tokens = workers, max_queued_tokens
        self._held: _Held | None = None
        self._turn = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.following = Following(model)

    @property
    def answers(self) -> Answers | None:
        """The model that answers now; None before the first and after the last."""
        return self._held.answers if self._held is not None else None

    def waiting(self) -> int:
        """Tokens that wait for the engine."""
        return self._held.answers.batcher.queued_tokens if self._held is not None else 0

    @contextlib.contextmanager
    def lease(self) -> Iterator[Answers]:
        """The model that answers now, kept open while the block runs; Problem `not_ready` where there is none."""
        held = self._held
        if held is None:
            raise _not_ready()
        held.leases += 1
        held.free.clear()
        try:
            yield held.answers
        finally:
            held.leases -= 1
            if not held.leases:
                held.free.set()

    async def fill(self, open_first: Callable[[], tuple[Classifier, str]]) -> None:
        """Put the first model in; what `open_first` raises is the caller's."""
        classifier, version = await asyncio.to_thread(open_first)
        await asyncio.to_thread(classifier.warm)
        self._put(classifier, version)

    async def ask(self, *, again: bool = False) -> bool:
        """Ask the registry once, and swap where it means another bundle now; whether it did.

        Problem `swap_failed` where that cannot be done; the model in the slot stays. A candidate that was refused is not fetched
        and tried at every time again, but after ten minutes, or where `again` says so.
        """
        async with self._turn:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            model, swaps = self.following.model, self.following.swaps
            try:
                swapped = await self._ask(model, again)
            except _StillRefused as refusal:
                self.following = replace(self.following, asked=now, error=str(refusal))
                raise Problem(502, "swap_failed", f"The model stays as it is: {refusal}") from None
            except Exception as error:  # whatever a candidate or a registry raises, the model in the slot stays
                self._telemetry.swap_failures.inc()
                if self.following.error != str(error):  # once, not at every time it is asked
                    _log.error("%s was not taken over, the model before goes on answering: %s", model, error)
                self.following = Following(model, now, swaps, str(error))
                raise Problem(502, "swap_failed", f"The model stays as it is: {error}") from error
            self.following = Following(model, now, swaps + swapped)
            return swapped

    async def _ask(self, model: str, again: bool) -> bool:
        held = self._held
        if held is None:
            return False
        current = held.classifier.bundle
        meant = await self._call(lambda: peek(model), _LOOK_S)
        if meant == current.id:
            return False
        if meant is not None and not again and self._refused is not None:
            refused, until, said = self._refused
            if meant == refused and time.monotonic() < until:
                raise _StillRefused(said)
        self._refused = None
        try:
            swapped = await self._take(model, current)
        except (BundleError, UsageError) as error:  # of the candidate's own making; what else goes wrong may be gone the next time
            self._refused = None if meant is None else (meant, time.monotonic() + _REFUSED_S, str(error))
            raise
        if swapped and self.answers is not None:
            self.ring((self.answers.bundle.id, self.answers.version))
        return swapped

    async def _call(self, call: Callable[[], _T], timeout_s: float) -> _T:
        """`call` in a thread that holds up nobody's end; RegistryError where it takes longer than any should."""
        try:
            return await self._registry.run(call, timeout_s)
        except (TimeoutError, Busy) as error:
            raise RegistryError(f"the registry has not answered for {timeout_s:.0f} s. Check that it is up.") from error

    def ring(self, swapped: tuple[str, str] | None = None) -> None:
        """Tell the other processes, where there are some, to look at the registry; `swapped` is the id and version taken over."""
        if self.bell is not None:
            self.bell.ring(swapped)
            self.heard = self.bell.rung

    @property
    def refuses(self) -> bool:
        """Whether the last candidate was refused for what it is, and so would be again."""
        return self._refused is not None

    async def _take(self, model: str, current: Bundle) -> bool:
        source = await self._call(lambda: resolve(model), _FETCH_S)
        if source.bundle.id == current.id:
            return False
        require_labels(source, current)
        classifier = await self._call(lambda: open_warm(source, self._workers), _FETCH_S)
        self._put(classifier, source.version)
        self._telemetry.swaps.inc()
        _log.info("%s is version %s now, bundle %s", model, source.version, source.bundle.id[:12])
        return True

    def _put(self, classifier: Classifier, version: str) -> None:
        batcher = Batcher(classifier, workers=self._workers, max_queued_tokens=self._max_queued_tokens)
        old, self._held = self._held, _Held(classifier, Answers(batcher, version, self._telemetry))
        self._telemetry.model.clear()
        self._telemetry.model.labels(classifier.bundle.manifest.name, version, classifier.bundle.id).set(1)
        if old is not None:
            task = asyncio.ensure_future(_retire(old))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Take the model out and close it, and those before it."""
        old, self._held = self._held, None
        if old is not None:
            await _retire(old)
        await asyncio.gather(*self._retiring)
        self._registry.close()


def require_labels(source: Source, current: Bundle) -> None:
    """UsageError where `source` has other labels than `current`, and so cannot take its place."""
    known, new = current.manifest.label_set, source.bundle.manifest.label_set
    if new != known:
        raise UsageError(
            f"version {source.version} has the labels {', '.join(new.labels)} and not {', '.join(known.labels)}. "
            "Start a service of its own for other labels."
        )


class _StillRefused(Exception):
    """The registry still means the candidate that was refused."""


def open_warm(source: Source, workers: int) -> Classifier:
    """The model of `source`, ready to answer."""
    classifier = Classifier(source.bundle, workers=workers)
    try:
        classifier.warm()
    except BaseException:
        classifier.close()
        raise
    return classifier


async def _retire(held: _Held) -> None:
    await held.free.wait()
    await asyncio.to_thread(held.answers.batcher.close)
    await asyncio.to_thread(held.classifier.close)


@contextlib.asynccontextmanager
async def followed(slot: Slot, every_s: float) -> AsyncIterator[None]:
    """Ask the registry every `every_s` seconds while the block runs, and when another process rings; where `every_s` is 0, only
    then."""

    async def follow() -> None:
        waited = deaf = 0.0
        while True:
            pause = every_s if slot.bell is None else min(every_s or _LISTEN_S, _LISTEN_S)
            await asyncio.sleep(pause)
            waited, deaf = waited + pause, deaf - pause
            rung = slot.bell.rung if slot.bell is not None else slot.heard
            called = rung != slot.heard and deaf <= 0
            if called or 0 < every_s <= waited:
                waited, before = 0.0, slot.heard
                try:
                    await slot.ask(again=called)
                except Problem:
                    if not slot.refuses:  # it may go better in a while: who was called must not be left behind
                        deaf = _RETRY_S
                        continue
                if slot.heard == before:  # it rings itself where it swaps
                    slot.heard = rung

    task = asyncio.ensure_future(follow()) if every_s or slot.bell is not None else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def slot_of(request: Request) -> Slot:
    """The slot of the application, with a model in it; Problem `not_ready` where there is none."""
    slot: Slot | None = request.app.state.slot
    if slot is None or slot.answers is None:
        raise _not_ready()
    return slot


def known_labels(request: Request) -> tuple[str, ...]:
    """The labels of the model that answers now; Problem `not_ready` where there is none."""
    with slot_of(request).lease() as answers:
        return answers.bundle.manifest.label_set.labels


def _not_ready() -> Problem:
    return Problem(503, "not_ready", "No model is loaded yet. Try again in a few seconds.", headers={"Retry-After": "5"})
