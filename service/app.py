"""The application factory: nothing happens at import, everything belongs to the app that `create_app` returns."""

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib import metadata
from types import FrameType

from fastapi import FastAPI

from models.classifier import Classifier
from models.cores import usable_cores
from models.registry import Source, follows, resolve
from service import errors
from service.auth import Keys
from service.bell import Bell
from service.body import BodyLimit
from service.drift import Drift
from service.errors import Problem
from service.first import first_model
from service.label_calls import Labels
from service.labels import router as labels_router
from service.page import load_codebook
from service.page import router as page_router
from service.routes import router
from service.settings import Settings, load_settings
from service.shadow import Shadow
from service.slot import Slot, followed
from service.telemetry import Observe, Telemetry

_log = logging.getLogger("stancewire")
STREAMS = frozenset({"/v1/classify/stream"})


class Opened:
    """A classifier that is open already, and the version under which users know its model. Whoever takes it owns it: nothing here
    keeps it from being freed once another model has its place."""

    def __init__(self, classifier: Classifier, version: str) -> None:
        self._classifier: Classifier | None = classifier
        self._version = version

    def take(self) -> tuple[Classifier, str]:
        """The classifier, once."""
        taken, self._classifier = self._classifier, None
        if taken is None:
            raise RuntimeError("the classifier was taken before: an application starts once")
        return taken, self._version


def _delay_stops(app: FastAPI, delay_s: float) -> None:
    """Let the signals that stop the server first mark `app` as draining, and reach the server `delay_s` later: meanwhile balancers
    see that it is not ready, and clients on open connections are told to close them."""
    if threading.current_thread() is not threading.main_thread():
        return  # a server that runs in another thread is stopped by its owner
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        server = signal.getsignal(number)
        if not callable(server):
            continue

        def drain(number: int, frame: FrameType | None, server: Callable[..., object] = server) -> None:
            if not app.state.draining:
                app.state.draining = True
                loop.call_soon_threadsafe(loop.call_later, delay_s, server, number, frame)
            elif number == signal.SIGINT:  # Ctrl-C twice is meant; a SIGTERM after the first signal asks for what is under way
                server(number, frame)

        signal.signal(number, drain)


def create_app(settings: Settings | None = None, source: Source | Opened | None = None, bell: Bell | None = None) -> FastAPI:
    """An app that serves `source`, or the model that `settings` name; it is opened at start-up, unless `source` is open already.

    With `bell` it is one of several processes: it tells the others of reloads and swaps, and one that starts after the first of
    these begins with what `first_model` finds.
    """
    chosen = settings or load_settings()
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        workers = chosen.engine_threads or max(1, usable_cores() // chosen.workers)
        slot = Slot(chosen.model, telemetry, workers=workers, max_queued_tokens=chosen.max_queued_tokens, bell=bell)

        def open_first() -> tuple[Classifier, str]:
            if isinstance(source, Opened):
                return source.take()
            found = source or resolve(chosen.model)
            if bell is not None:
                return first_model(chosen.model, found, bell, workers)
            return Classifier(found.bundle, workers=workers), found.version

        await slot.fill(open_first)
        app.state.slot = slot
        if chosen.shadow is not None:
            app.state.shadow = Shadow(chosen.shadow, chosen.shadow_share, telemetry, slot.waiting)
        _delay_stops(app, chosen.drain_delay_s)
        async with followed(slot, chosen.follow_s if follows(chosen.model) else 0):
            flushing = asyncio.ensure_future(app.state.labels.keep_flushing()) if chosen.remember_unsure else None
            yield
            if flushing is not None:
                flushing.cancel()
                with suppress(Problem):
                    await app.state.labels.flush()
        if app.state.shadow is not None:
            await asyncio.to_thread(app.state.shadow.close)
        app.state.labels.close()
        app.state.slot = None
        await slot.close()

    app = FastAPI(
        title="Stancewire",
        summary="Says whether a sentence argues for dialogue or for pressure with the other side",
        version=metadata.version("stancewire"),
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect is no problem document, and clients drop the body of a POST on it
    )
    app.state.settings = chosen
    app.state.telemetry = telemetry
    app.state.slot = None
    app.state.shadow = None
    app.state.drift = Drift(chosen.drift_window, telemetry)
    app.state.labels = Labels(chosen)
    app.state.keys = Keys.load(chosen.api_keys_file, open_classify=chosen.open_classify)
    app.state.codebook = load_codebook(chosen.codebook)
    app.state.draining = False
    app.include_router(router)
    app.include_router(labels_router)
    app.include_router(page_router)
    errors.install(app)
    app.add_middleware(BodyLimit, max_bytes=chosen.max_body_bytes, timeout_s=chosen.body_timeout_s, endless=STREAMS)
    app.add_middleware(Observe, telemetry=telemetry)
    return app
