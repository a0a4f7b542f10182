"""Temperature and confidence threshold, both set on the validation side."""

import numpy as np
from scipy.optimize import minimize_scalar

from models.calibration import softmax
from models.schema import FloatArray
from training.metrics import IntArray


def fit_temperature(logits: FloatArray, truth: IntArray) -> float:
    """The temperature in [0.25, 10] with the least negative log-likelihood (Guo et al., 2017)."""

    def loss(log_temperature: float) -> float:
        chosen = softmax(logits, float(np.exp(log_temperature)))[np.arange(len(truth)), truth]
        return float(-np.log(np.clip(chosen, 1e-12, 1)).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.25), np.log(10)), method="bounded")
    return round(float(np.exp(found.x)), 6)


def choose_threshold(probabilities: FloatArray, truth: IntArray, target: float) -> float:
    """The least confidence above which answers are right at least `target` of the time; 1 where no confidence reaches it."""
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(1) == truth)[order]
    accuracy = np.cumsum(right) / np.arange(1, len(right) + 1)
    # Below twenty answers the share of right ones is chance.
    good = [i for i in range(min(19, len(right) - 1), len(right)) if accuracy[i] >= target]
    return round(float(confidence[order][good[-1]]), 6) if good else 1.0
