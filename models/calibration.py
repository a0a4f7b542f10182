"""Logits to probabilities: softmax at the bundle's temperature."""

import numpy as np

from models.schema import FloatArray


def softmax(logits: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Probabilities, shape (rows, labels), of `logits` divided by `temperature` (Guo et al., 2017)."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    exponent = np.exp(scaled)
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True), dtype=np.float64)
