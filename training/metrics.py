"""Figures of merit of probabilities against labels, each with the source of its definition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from models.schema import FloatArray

IntArray = NDArray[np.int64]
BINS = 10


@dataclass(frozen=True, slots=True)
class Scores:
    """One evaluation. `interval` is the 95 % bootstrap interval of macro-F1; `slices` maps column=value to its rows, macro-F1 and
    accuracy."""

    rows: int
    macro_f1: float
    interval: tuple[float, float]
    weighted_f1: float
    accuracy: float
    brier: float
    ece: float
    aurc: float
    accuracy_at_60: float
    per_label: dict[str, dict[str, float]]
    confusion: list[list[int]]
    slices: dict[str, dict[str, float]]

    def flat(self) -> dict[str, float]:
        """The figures that go to MLflow and into a manifest."""
        names = ("macro_f1", "weighted_f1", "accuracy", "brier", "ece", "aurc", "accuracy_at_60")
        figures = {name: float(getattr(self, name)) for name in names}
        figures |= {"rows": float(self.rows), "macro_f1_low": self.interval[0], "macro_f1_high": self.interval[1]}
        for label, values in self.per_label.items():
            figures |= {f"{name}_{label}": value for name, value in values.items() if name != "rows"}
        return {name: round(value, 6) for name, value in figures.items()}


def measure(
    probabilities: FloatArray,
    truth: IntArray,
    labels: Sequence[str],
    slices: Mapping[str, NDArray[np.bool_]] | None = None,
    seed: int = 0,
) -> Scores:
    """Measure probabilities, shape (rows, labels), against label positions, shape (rows,)."""
    predicted = probabilities.argmax(1)
    table = confusion_matrix(truth, predicted, labels=range(len(labels)))
    precision, recall, f1 = _prf(table)
    order = np.argsort(-probabilities.max(1), kind="stable")
    risk = np.cumsum((predicted != truth)[order]) / np.arange(1, len(truth) + 1)
    keep = max(1, round(0.6 * len(truth)))
    return Scores(
        rows=len(truth),
        macro_f1=float(f1.mean()),
        interval=bootstrap_interval(bootstrap_macro_f1(predicted, truth, len(labels), seed=seed)),
        weighted_f1=float((f1 * table.sum(1)).sum() / table.sum()),
        accuracy=float((predicted == truth).mean()),
        brier=float(((probabilities - np.eye(len(labels))[truth]) ** 2).sum(1).mean()),
        ece=expected_calibration_error(probabilities, truth),
        aurc=float(risk.mean()),
        accuracy_at_60=float(1 - risk[keep - 1]),
        per_label={
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "rows": int(table[i].sum()),
            }
            for i, label in enumerate(labels)
        },
        confusion=[[int(value) for value in row] for row in table],
        slices={
            name: {
                "rows": int(chosen.sum()),
                "macro_f1": macro_f1(predicted[chosen], truth[chosen], len(labels)),
                "accuracy": float((predicted[chosen] == truth[chosen]).mean()),
            }
            for name, chosen in (slices or {}).items()
        },
    )


def macro_f1(predicted: IntArray, truth: IntArray, labels: int) -> float:
    """Mean F1 of the labels that occur in `truth` or `predicted`."""
    table = confusion_matrix(truth, predicted, labels=range(labels))
    present = (table.sum(0) + table.sum(1)) > 0
    return float(_prf(table)[2][present].mean())


def expected_calibration_error(probabilities: FloatArray, truth: IntArray) -> float:
    """Mean gap of confidence and accuracy over ten equal-width bins (Naeini et al., 2015; Guo et al., 2017)."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gap = 0.0
    for b in range(BINS):
        inside = bins == b
        if inside.any():
            gap += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return float(gap)


def bootstrap_macro_f1(predicted: IntArray, truth: IntArray, labels: int, samples: int = 1000, seed: int = 0) -> FloatArray:
    """Macro-F1 of `samples` resamples of the rows, shape (samples,); the same seed draws the same rows for every model."""
    cell = truth * labels + predicted
    drawn = np.random.default_rng(seed).integers(0, len(truth), (samples, len(truth)))
    counts = np.zeros((samples, labels * labels), dtype=np.int64)
    for value in range(labels * labels):
        counts[:, value] = (cell[drawn] == value).sum(1)
    tables = counts.reshape(samples, labels, labels)
    hit = np.diagonal(tables, axis1=1, axis2=2)
    total = tables.sum(1) + tables.sum(2)
    return np.asarray(np.divide(2 * hit, total, out=np.zeros(hit.shape), where=total > 0).mean(1), dtype=np.float64)


def bootstrap_interval(values: FloatArray) -> tuple[float, float]:
    """The middle 95 % of bootstrap values (Efron, 1979)."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _prf(table: NDArray[np.int64]) -> tuple[FloatArray, FloatArray, FloatArray]:
    hit = np.diag(table).astype(np.float64)
    guessed, real = table.sum(0), table.sum(1)
    precision = np.divide(hit, guessed, out=np.zeros_like(hit), where=guessed > 0)
    recall = np.divide(hit, real, out=np.zeros_like(hit), where=real > 0)
    f1 = np.divide(2 * hit, guessed + real, out=np.zeros_like(hit), where=(guessed + real) > 0)
    return precision, recall, f1
