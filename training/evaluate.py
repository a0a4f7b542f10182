"""A bundle against labelled rows: probabilities as served, scores, slices, and paired comparison of several bundles."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.classifier import Classifier
from models.errors import UsageError
from models.reference import Reference, count
from models.schema import FloatArray, LabelSet
from training.data import Example
from training.metrics import IntArray, Scores, bootstrap_interval, bootstrap_macro_f1, measure

MIN_SLICE_ROWS = 10


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Served probabilities, shape (rows, labels), the true positions, shape (rows,), the scores, and what the answers look like."""

    probabilities: FloatArray
    truth: IntArray
    scores: Scores
    not_confident: float
    reference: Reference


@dataclass(frozen=True, slots=True)
class Comparison:
    """Macro-F1 of the second bundle minus the first, its 95 % paired bootstrap interval, and the share of resamples above 0."""

    difference: float
    interval: tuple[float, float]
    share_better: float


def evaluate(classifier: Classifier, examples: Sequence[Example]) -> Evaluation:
    """Classify `examples` as the service would and measure the answers."""
    labels = classifier.label_set
    _require_known(labels, examples)
    predictions = classifier.classify([example.text for example in examples])
    probabilities = np.array([[prediction.probabilities[label] for label in labels.labels] for prediction in predictions])
    truth = np.array([labels.index(example.label) for example in examples], dtype=np.int64)
    reference = count(labels.labels, [example.text for example in examples], predictions)
    unsure = sum(not prediction.confident for prediction in predictions) / len(predictions)
    return Evaluation(probabilities, truth, measure(probabilities, truth, labels.labels, make_slices(examples)), unsure, reference)


def make_slices(examples: Sequence[Example]) -> dict[str, NDArray[np.bool_]]:
    """A mask for each column=value with enough rows, largest first."""
    members: dict[str, list[int]] = defaultdict(list)
    for position, example in enumerate(examples):
        for column, values in example.slices.items():
            for value in values:
                members[f"{column}={value}"].append(position)
    masks = {}
    for name, positions in sorted(members.items(), key=lambda item: -len(item[1])):
        if len(positions) >= MIN_SLICE_ROWS:
            mask = np.zeros(len(examples), dtype=np.bool_)
            mask[positions] = True
            masks[name] = mask
    return masks


def compare(first: Evaluation, second: Evaluation, seed: int = 0) -> Comparison:
    """Paired bootstrap of the macro-F1 difference (Berg-Kirkpatrick et al., 2012)."""
    labels = first.probabilities.shape[1]
    before, after = (bootstrap_macro_f1(part.probabilities.argmax(1), part.truth, labels, seed=seed) for part in (first, second))
    return Comparison(
        second.scores.macro_f1 - first.scores.macro_f1,
        bootstrap_interval(np.asarray(after - before)),
        float((after > before).mean()),
    )


def _require_known(labels: LabelSet, examples: Sequence[Example]) -> None:
    unknown = sorted({example.label for example in examples} - set(labels.labels))
    if unknown:
        raise UsageError(
            f"the data has the label {unknown[0]!r}, which this model does not know ({', '.join(labels.labels)}). "
            "Choose data with the model's labels."
        )
