"""Logits to probabilities: softmax at the bundle's temperature, after its bias for each label."""

from collections.abc import Sequence

import numpy as np

from models.schema import FloatArray


def softmax(logits: FloatArray, temperature: float = 1.0, bias: Sequence[float] = ()) -> FloatArray:
    """Probabilities, shape (rows, labels), of `logits` divided by `temperature` plus `bias`, one number a label or none.

    A temperature alone is Guo et al. (2017), with a bias it is bias-corrected temperature scaling (Alexandari et al., 2020).
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if bias:
        scaled = scaled + np.asarray(bias, dtype=np.float64)
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    exponent = np.exp(scaled)
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True), dtype=np.float64)
