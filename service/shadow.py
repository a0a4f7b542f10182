"""A challenger in the shadow of the model that answers: a sample of the traffic scored once more, never in anybody's way.

One thread at the lowest priority takes a sentence at a time, and only while nothing waits for the engine; what comes while its
queue is full is not looked at. Nothing that it does reaches an answer.
"""

import contextlib
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from queue import Empty, Full, Queue
from typing import Any

from models.classifier import Classifier
from models.registry import resolve
from models.schema import Prediction
from service.telemetry import Telemetry

_log = logging.getLogger("stancewire")
_QUEUED = 1000
_PATIENCE_S = 0.05
_LOWEST = 19


class Shadow:
    """Scores `share` of what is answered on `model` too. It opens the model itself; where that fails, it says so."""

    def __init__(self, model: str, share: float, telemetry: Telemetry, waiting: Callable[[], int]) -> None:
        self.model, self._share, self._telemetry, self._waiting = model, share, telemetry, waiting
        self._queue: Queue[tuple[str, str, str]] = Queue(_QUEUED)
        self._draw = random.Random()
        self._moves: Counter[tuple[str, str]] = Counter()
        self._dropped = 0
        self._bundle_id: str | None = None
        self._champion: str | None = None
        self._error: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def notice(self, sentences: Sequence[str], predictions: Sequence[Prediction], champion: str) -> None:
        """Take a sample of what was answered by the bundle `champion`."""
        for sentence, prediction in zip(sentences, predictions, strict=True):
            if self._draw.random() < self._share and self._error is None:
                try:
                    self._queue.put_nowait((sentence, prediction.label, champion))
                except Full:
                    self._dropped += 1

    def report(self) -> dict[str, Any]:
        """How far the two agree since one of them changed last, from which label to which they differ, and each label's share."""
        moves = dict(self._moves)
        total = sum(moves.values())
        alike = sum(count for (old, new), count in moves.items() if old == new)
        labels = sorted({label for pair in moves for label in pair})
        return {
            "model": self.model,
            "id": self._bundle_id,
            "champion": self._champion,
            "error": self._error,
            "sentences": total,
            "not_scored": self._dropped,
            "agreement": alike / total if total else None,
            "moves": [{"from": old, "to": new, "sentences": count} for (old, new), count in sorted(moves.items())],
            "shift": {
                label: sum(n * ((new == label) - (old == label)) for (old, new), n in moves.items()) / total for label in labels
            },
        }

    def close(self) -> None:
        """Stop; what is still in the queue is not scored."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # of this thread alone, on Linux
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        try:
            bundle = resolve(self.model).bundle
            with Classifier(bundle, workers=1) as classifier:
                self._bundle_id = bundle.id
                self._score(classifier)
        except Exception as error:  # whatever it is, it must not go unsaid
            self._error = str(error) or type(error).__name__
            _log.error("no shadow: %s", error)

    def _score(self, classifier: Classifier) -> None:
        while not self._stop.is_set():
            try:
                sentence, label, champion = self._queue.get(timeout=_PATIENCE_S)
            except Empty:
                continue
            while self._waiting() and not self._stop.is_set():
                time.sleep(_PATIENCE_S)
            (found,) = classifier.answer(classifier.encoder.encode([sentence]))
            if champion != self._champion:
                self._champion, self._moves = champion, Counter()
            self._moves[label, found.label] += 1
            self._telemetry.shadow.labels(label, found.label).inc()
