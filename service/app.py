"""The application factory: nothing happens at import, everything belongs to the app that `create_app` returns."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from importlib import metadata

from fastapi import FastAPI, Request, Response

from models.classifier import Classifier
from models.registry import Source, resolve
from service import errors
from service.body import BodyLimit
from service.routes import Ready, router
from service.settings import Settings, load_settings
from service.telemetry import Telemetry

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # a client may invent others


def create_app(settings: Settings | None = None, source: Source | Ready | None = None) -> FastAPI:
    """An app that serves `source`, or the model that `settings` name; it is opened at start-up, unless `source` is open already."""
    chosen = settings or load_settings()
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opened: AbstractContextManager[Classifier]
        if isinstance(source, Ready):
            version, opened = source.version, nullcontext(source.classifier)
        else:
            found = source or resolve(chosen.model)
            version, opened = found.version, Classifier(found.bundle, workers=chosen.engine_threads or None)
        with opened as classifier:
            classifier.warm()
            telemetry.model.labels(classifier.bundle.manifest.name, version, classifier.bundle.id).set(1)
            app.state.ready = Ready(classifier, version)
            yield
            app.state.ready = None

    app = FastAPI(
        title="Stancewire",
        summary="Says whether a sentence argues for dialogue or for pressure with the other side",
        version=metadata.version("stancewire"),
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect is no problem document, and clients drop the body of a POST on it
    )
    app.state.settings = chosen
    app.state.telemetry = telemetry
    app.state.ready = None
    app.include_router(router)
    errors.install(app)
    app.add_middleware(BodyLimit, max_bytes=chosen.max_body_bytes, timeout_s=chosen.body_timeout_s)

    @app.middleware("http")
    async def observe(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        start = time.perf_counter()
        status = 500
        with telemetry.in_flight.track_inprogress():
            try:
                response = await call(request)
                status = response.status_code
                return response
            finally:
                route = request.scope.get("route")
                path = getattr(route, "path", "other")
                method = request.method if request.method in _METHODS else "other"
                telemetry.requests.labels(path, method, str(status)).inc()
                telemetry.latency.labels(path).observe(time.perf_counter() - start)

    return app
