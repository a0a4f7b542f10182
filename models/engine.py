"""What an engine is: token ids in, logits out.

An engine is safe to call from several threads, and a row's logits do not depend on the rows that share its call.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.schema import FloatArray

IntArray = NDArray[np.int64]


class Engine(Protocol):
    """Runs a bundle's network."""

    def run(self, rows: Sequence[Sequence[int]]) -> FloatArray:
        """Logits, shape (len(rows), labels), of rows of token ids."""
        ...


def pad(rows: Sequence[Sequence[int]]) -> tuple[IntArray, IntArray]:
    """Ids and attention mask, each of shape (rows, longest row), padded with zeros that the mask hides."""
    width = max(len(row) for row in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for position, row in enumerate(rows):
        ids[position, : len(row)] = row
        mask[position, : len(row)] = 1
    return ids, mask
