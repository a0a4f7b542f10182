"""Temperature, a bias for each label, and the confidence threshold, all set on the validation side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from models.calibration import softmax
from models.schema import FloatArray
from training.metrics import IntArray


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns logits into probabilities: see `models.calibration.softmax`."""

    temperature: float
    bias: tuple[float, ...]


def fit_calibration(logits: FloatArray, truth: IntArray, *, bias: bool, prior: Sequence[float] = ()) -> Calibration:
    """The temperature in [0.25, 10], and the bias where wished, with the least negative log-likelihood.

    The bias is held near 0 by a normal prior of deviation 1, which matters on few rows. `prior`, one share a label, moves the bias
    from the labels' shares in `truth` to these (Saerens et al., 2002).
    """
    labels = logits.shape[1]

    def loss(values: FloatArray) -> float:
        own = tuple(values[1:]) if bias else ()
        chosen = softmax(logits, float(np.exp(values[0])), own)[np.arange(len(truth)), truth]
        return float(-np.log(np.clip(chosen, 1e-12, 1)).mean() + (values[1:] ** 2).sum() / (2 * len(truth)))

    start = np.zeros(1 + labels if bias else 1)
    limits = [(np.log(0.25), np.log(10)), *[(-5.0, 5.0)] * (len(start) - 1)]
    found = minimize(loss, start, method="L-BFGS-B", bounds=limits).x
    shift = found[1:] if bias else np.zeros(labels)
    if len(prior):
        shares = np.bincount(truth, minlength=labels) / len(truth)
        shift = shift + np.log(np.asarray(prior) / np.sum(prior)) - np.log(np.clip(shares, 1e-6, 1))
    kept = tuple(round(float(value), 6) for value in shift) if bias or len(prior) else ()
    return Calibration(round(float(np.exp(found[0])), 6), kept)


def choose_threshold(probabilities: FloatArray, truth: IntArray, target: float) -> float:
    """The least confidence above which answers are right at least `target` of the time; 1 where no confidence reaches it."""
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(1) == truth)[order]
    accuracy = np.cumsum(right) / np.arange(1, len(right) + 1)
    # Below twenty answers the share of right ones is chance.
    good = [i for i in range(min(19, len(right) - 1), len(right)) if accuracy[i] >= target]
    return round(float(confidence[order][good[-1]]), 6) if good else 1.0
