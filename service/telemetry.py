"""Prometheus metrics of one application, in a registry of its own."""

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.schema import Prediction

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # a client may invent others
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Telemetry:
    """The counters that the service keeps."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("stancewire_requests", "Requests", ["route", "method", "status"], registry=self._registry)
        self.latency = Histogram(
            "stancewire_request_seconds", "Time to answer", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self.in_flight = Gauge("stancewire_requests_in_flight", "Requests under way", registry=self._registry)
        self.sentences = Counter("stancewire_sentences", "Sentences by label", ["label"], registry=self._registry)
        self.not_confident = Counter("stancewire_not_confident", "Answers below the threshold", registry=self._registry)
        self.truncated = Counter("stancewire_truncated", "Sentences longer than the model reads", registry=self._registry)
        self.model = Gauge("stancewire_model_info", "The model that answers", ["name", "version", "id"], registry=self._registry)

        self.swaps = Counter("stancewire_swaps", "Models taken over from the registry", registry=self._registry)
        self.swap_failures = Counter(
            "stancewire_swap_failures", "Times that a model could not be taken over", registry=self._registry
        )
        self.shadow = Counter(
            "stancewire_shadow_sentences", "Sentences scored in the shadow too", ["label", "shadow_label"], registry=self._registry
        )
        self.drift = Gauge(
            "stancewire_drift", "Population stability index of the last window", ["dimension"], registry=self._registry
        )
        self.retrain_due = Gauge("stancewire_retrain_due", "1 where the traffic has moved much", registry=self._registry)
        self.computed = Gauge("stancewire_engine_sentences", "Sentences the engine has computed", registry=self._registry)
        self.queued_tokens = Gauge("stancewire_queued_tokens", "Tokens that wait for the engine", registry=self._registry)

    def count(self, predictions: Sequence[Prediction]) -> None:
        """Count what was answered."""
        for prediction in predictions:
            self.sentences.labels(prediction.label).inc()
            if not prediction.confident:
                self.not_confident.inc()
            if prediction.truncated:
                self.truncated.inc()

    def page(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class Observe:
    """Counts and times every request, by route and not by path: a client may invent paths."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note how it was answered; 500 where the app raised."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if scope["app"].state.draining:  # so that a client opens its next connection elsewhere
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        self.telemetry.in_flight.inc()
        try:
            await self.app(scope, receive, noting)
        finally:
            self.telemetry.in_flight.dec()
            path = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.telemetry.requests.labels(path, method, str(status)).inc()
            self.telemetry.latency.labels(path).observe(time.perf_counter() - start)
