"""What a label set and a prediction are; every other module speaks in these."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

FloatArray = NDArray[np.float64]
DECIMALS = 6


class LabelSet(BaseModel):
    """Labels in order and, where they have one, the poles of the score in [−1, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[str, ...] = ("pro_dialogue", "pro_pressure", "neutral")
    positive: str | None = None
    negative: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "LabelSet":
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError("a label set needs at least two labels, each named once")
        if any(not label.strip() for label in self.labels):
            raise ValueError("a label must not be empty")
        if (self.positive is None) != (self.negative is None):
            raise ValueError("give both poles (positive and negative) or neither")
        for pole in (self.positive, self.negative):
            if pole is not None and pole not in self.labels:
                raise ValueError(f"the pole {pole!r} is not one of the labels {list(self.labels)}")
        if self.positive is not None and self.positive == self.negative:
            raise ValueError("the two poles must differ")
        return self

    def index(self, label: str) -> int:
        """Position of `label`; ValueError where it is not in the set."""
        return self.labels.index(label)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One sentence's answer.

    `probabilities` follow the label set's order and sum to 1; `score` is P(positive) − P(negative), None without poles;
    `confident` false means: do not publish without a look; `truncated` says the model read only the first tokens.
    """

    label: str
    probabilities: dict[str, float]
    score: float | None
    confident: bool
    truncated: bool


def predict(labels: LabelSet, probabilities: Sequence[float], threshold: float, truncated: bool) -> Prediction:
    """Turn the probabilities of one sentence, one a label, into a Prediction."""
    highest = max(probabilities)
    score = None
    if labels.positive is not None and labels.negative is not None:
        lean = probabilities[labels.index(labels.positive)] - probabilities[labels.index(labels.negative)]
        score = round(lean, DECIMALS)
    return Prediction(
        label=labels.labels[probabilities.index(highest)],
        probabilities={name: round(value, DECIMALS) for name, value in zip(labels.labels, probabilities, strict=True)},
        score=score,
        confident=highest >= threshold,
        truncated=truncated,
    )
