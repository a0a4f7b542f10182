"""Prometheus metrics of one application, in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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

    def page(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
