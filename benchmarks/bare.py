"""The engine without anything around it: what the benchmarks compare with."""

import time
from collections.abc import Sequence

from models.bundle import DEFAULT_BUNDLE
from models.classifier import Classifier


def engine_rate(texts: Sequence[str]) -> float:
    """Sentences a second where the whole list is there at once."""
    with Classifier.open(DEFAULT_BUNDLE) as classifier:
        classifier.warm()
        start = time.perf_counter()
        classifier.classify(texts)
        return len(texts) / (time.perf_counter() - start)
