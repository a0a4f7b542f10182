"""What a model's answers look like on held-out rows, and how far other answers have moved from that.

The population stability index of two distributions over the same bins is the sum of (found - expected) · ln(found / expected); by
custom below 0.1 is little, above 0.25 is much (Siddiqi, 2006). Shares are kept off 0 by half a row.
"""

import bisect
import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from models.schema import Prediction

MUCH = 0.25
LENGTHS = (40, 80, 120, 160, 240, 320, 480)  # characters: upper edges of all bins but the last
CONFIDENCES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
Dimension = Literal["labels", "confidence", "length"]


class Reference(BaseModel):
    """Rows by label in the label set's order, by confidence (bins up to CONFIDENCES) and by length (bins up to LENGTHS)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[int, ...]
    confidence: tuple[int, ...]
    length: tuple[int, ...]

    @model_validator(mode="after")
    def _same_bins(self) -> "Reference":
        if len(self.confidence) != len(CONFIDENCES) + 1 or len(self.length) != len(LENGTHS) + 1:
            raise ValueError("the reference was counted in other bins")
        return self


class Tally:
    """Counts answers into a Reference's bins."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._names = {label: place for place, label in enumerate(labels)}
        self.rows = 0
        self._labels = [0] * len(labels)
        self._confidence = [0] * (len(CONFIDENCES) + 1)
        self._length = [0] * (len(LENGTHS) + 1)

    def add(self, text: str, prediction: Prediction) -> None:
        """Count one answer."""
        self.rows += 1
        self._labels[self._names[prediction.label]] += 1
        self._confidence[bisect.bisect_left(CONFIDENCES, prediction.probabilities[prediction.label])] += 1
        self._length[bisect.bisect_left(LENGTHS, len(text))] += 1

    def result(self) -> Reference:
        """What was counted."""
        return Reference(labels=tuple(self._labels), confidence=tuple(self._confidence), length=tuple(self._length))


def count(labels: Sequence[str], texts: Sequence[str], predictions: Sequence[Prediction]) -> Reference:
    """The answers to `texts`, counted."""
    tally = Tally(labels)
    for text, prediction in zip(texts, predictions, strict=True):
        tally.add(text, prediction)
    return tally.result()


def stability(expected: Sequence[int], found: Sequence[int]) -> float:
    """The population stability index of two counts over the same bins."""
    shares = [[(n + 0.5) / (sum(counts) + 0.5 * len(counts)) for n in counts] for counts in (expected, found)]
    return math.fsum((b - a) * math.log(b / a) for a, b in zip(*shares, strict=True))


def drift(expected: Reference, found: Reference) -> dict[Dimension, float]:
    """The index of each dimension."""
    return {
        "labels": stability(expected.labels, found.labels),
        "confidence": stability(expected.confidence, found.confidence),
        "length": stability(expected.length, found.length),
    }
