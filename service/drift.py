"""How far the traffic has moved from what the model was measured on, window by window.

A window is so many sentences; when it is full its counts are compared with the reference in the bundle, and the next one begins. A
retrain is due where any dimension has moved much in the last window.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from models.bundle import Bundle
from models.reference import MUCH, Dimension, Reference, Tally, drift
from models.schema import Prediction
from service.telemetry import Telemetry


class Drift:
    """Counts what is answered; begins anew when another model answers."""

    def __init__(self, window: int, telemetry: Telemetry) -> None:
        self._window, self._telemetry = window, telemetry
        self._bundle: Bundle | None = None
        self._tally: Tally | None = None
        self._last: dict[Dimension, float] | None = None
        self._closed: str | None = None
        self._windows = 0

    def notice(self, bundle: Bundle, sentences: Sequence[str], predictions: Sequence[Prediction]) -> None:
        """Count what `bundle` answered; nothing where it has no reference."""
        if self._bundle is None or bundle.id != self._bundle.id:
            self._telemetry.drift.clear()
            self._telemetry.retrain_due.set(0)
            self._bundle, self._last, self._closed, self._windows = bundle, None, None, 0
            self._tally = Tally(bundle.manifest.label_set.labels) if bundle.manifest.reference is not None else None
        if self._tally is None:
            return
        for sentence, prediction in zip(sentences, predictions, strict=True):
            self._tally.add(sentence, prediction)
            if self._tally.rows >= self._window:
                self._close(self._tally.result())
                self._tally = Tally(bundle.manifest.label_set.labels)

    def _close(self, found: Reference) -> None:
        assert self._bundle is not None and self._bundle.manifest.reference is not None
        self._last = drift(self._bundle.manifest.reference, found)
        self._closed = datetime.now(UTC).isoformat(timespec="seconds")
        self._windows += 1
        for dimension, index in self._last.items():
            self._telemetry.drift.labels(dimension).set(index)
        self._telemetry.retrain_due.set(self.due)

    @property
    def due(self) -> bool:
        """Whether a retrain is due."""
        return self._last is not None and max(self._last.values()) > MUCH

    def report(self) -> dict[str, Any]:
        """The last full window, and how far the present one is."""
        return {
            "id": self._bundle.id if self._bundle is not None else None,
            "window": self._window,
            "windows": self._windows,
            "sentences_in_this_window": self._tally.rows if self._tally is not None else 0,
            "closed": self._closed,
            "index": self._last,
            "much": MUCH,
            "retrain_due": self.due,
        }
