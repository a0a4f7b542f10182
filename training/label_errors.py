"""Labels that are likely wrong, found by what a model says of rows whose own labels it has not seen.

Confident learning (Northcutt, Jiang and Chuang, 2021): a row is a suspect where the probability of another label reaches what
that label's own rows get on average, and is above that of its own label. It is a list to read, not to obey: hard sentences stand
in it beside mistakes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from transformers import AutoModel, AutoTokenizer

from models.errors import DataError

_FOLDS = 5
_BATCH = 64
_MAX_TOKENS = 128
_STRENGTH = 10.0  # of the regression on unit vectors (C)


@dataclass(frozen=True, slots=True)
class Suspect:
    """The row at `position` has the label `given`; `likely` is the one that it seems to deserve, more probable by `margin`."""

    position: int
    given: str
    likely: str
    margin: float


def find_suspects(given: Sequence[str], probabilities: NDArray[np.float64], labels: Sequence[str]) -> list[Suspect]:
    """The suspects among rows labelled `given`, those most out of line first; `probabilities` has a column for each of `labels`,
    by a model that has not learnt the rows."""
    place = {label: column for column, label in enumerate(labels)}
    own = np.array([place[label] for label in given])
    confidence = probabilities[np.arange(len(own)), own]
    usual = np.array([confidence[own == column].mean() if (own == column).any() else np.inf for column in range(len(labels))])
    found = []
    for position, row in enumerate(probabilities):
        reached = [column for column in range(len(labels)) if row[column] >= usual[column]]
        best = max(reached, key=lambda column: float(row[column]), default=own[position])
        if row[best] > confidence[position]:
            found.append(Suspect(position, given[position], labels[best], float(row[best] - confidence[position])))
    return sorted(found, key=lambda suspect: -suspect.margin)


def unseen_probabilities(
    texts: Sequence[str], given: Sequence[str], family: Sequence[int], labels: Sequence[str], base: Path
) -> NDArray[np.float64]:
    """Probabilities, rows by `labels`, by a regression on the sentence vectors of the model at `base` that has learnt only from
    rows of other families; DataError where there are too few."""
    unrelated = [{each for each, mine in zip(family, given, strict=True) if mine == label} for label in labels]
    if min(map(len, unrelated)) < _FOLDS:
        raise DataError(f"an audit needs {_FOLDS} unrelated rows of each label. Add rows, or name the labels with --label.")
    vectors, target = embed(texts, base), np.array([labels.index(label) for label in given])
    found = np.zeros((len(texts), len(labels)))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    for learnt, judged in folds.split(vectors, target, family):
        regression = LogisticRegression(C=_STRENGTH, max_iter=1000).fit(vectors[learnt], target[learnt])
        found[np.ix_(judged, regression.classes_)] = regression.predict_proba(vectors[judged])
    return found


def embed(texts: Sequence[str], base: Path) -> NDArray[np.float32]:
    """Unit vectors, one a text: the mean of its tokens' last states."""
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModel.from_pretrained(base).eval()
    order = sorted(range(len(texts)), key=lambda position: len(texts[position]))
    vectors: NDArray[np.float32] | None = None
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        batch = tokenizer(
            [texts[position] for position in chosen], padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()
        if vectors is None:
            vectors = np.zeros((len(texts), means.shape[1]), np.float32)
        vectors[chosen] = means
    if vectors is None:
        raise DataError("there is nothing to audit. Give a file with rows.")
    return vectors
