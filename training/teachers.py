"""What models that have not learnt a row say of it, to learn from beside its label: labels are noisy, hard rows have several.

Cross-fitted self-distillation (Furlanello et al., 2018, Born-again neural networks; Dao et al., 2021, Knowledge distillation as
semiparametric inference): the train side is cut into folds, a model is fitted without each of them, and gives its probabilities
for the rows of that fold. A model that had learnt the rows would only repeat their labels.
"""

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models.calibration import softmax
from models.encoding import Encoder
from models.engine import pad
from models.engine_torch import StanceNetwork
from models.errors import UsageError
from models.schema import FloatArray
from training.calibrate import fit_calibration
from training.config import Recipe, revise
from training.data import Example
from training.finetune import fit, use_bfloat16
from training.split import Split, families

_BATCH = 64


def with_opinions(
    recipe: Recipe, base: Path, tokenizer: Path, split: Split, checkpoints: Path, *, resume: bool, quiet: bool
) -> Split:
    """`split` with the teachers' opinion on every row of its train side, where the recipe asks for teachers.

    Rows of one family share a fold. A teacher is fitted as the recipe says, once; its temperature is set on the fold. UsageError
    where there are fewer families than folds.
    """
    settings = recipe.fit.teachers
    if not settings.folds:
        return split
    folds = _folds(families(split.train, recipe.data.near_duplicate), settings.folds, recipe.fit.seed)
    encoder = Encoder(tokenizer, recipe.model.max_tokens)
    single = _single(recipe)
    opinions: dict[str, tuple[float, ...]] = {}
    for fold in range(settings.folds):
        learnt = tuple(row for row, its in zip(split.train, folds, strict=True) if its != fold)
        judged = tuple(row for row, its in zip(split.train, folds, strict=True) if its == fold)
        kept = checkpoints / f"teacher-{fold + 1}" / "opinions.npy"
        if resume and kept.is_file():
            probabilities = np.load(kept)
        else:
            fitted = fit(single, base, tokenizer, replace(split, train=learnt), kept.parent, resume=resume, quiet=quiet)
            probabilities = _probabilities(fitted.network, judged, recipe, encoder)
            if os.environ.get("RANK", "0") == "0":
                np.save(partial := kept.with_name("partial.npy"), probabilities)
                partial.rename(kept)
        opinions |= {row.id: tuple(map(float, its)) for row, its in zip(judged, probabilities, strict=True)}
    return replace(split, train=tuple(replace(row, opinion=opinions[row.id]) for row in split.train))


def _single(recipe: Recipe) -> Recipe:
    """The recipe of one teacher: nothing is averaged, nobody taught it."""
    return revise(recipe, {"fit.members": 1, "fit.focus.members": 1, "fit.teachers.folds": 0})


def _folds(family: Sequence[int], count: int, seed: int) -> list[int]:
    """A fold from 0 for each row, the same within a family, of about the same size."""
    sizes = Counter(family)
    if len(sizes) < count:
        raise UsageError(f"fit.teachers.folds {count} is more than the {len(sizes)} unrelated rows to train on. Choose fewer.")
    drawn = sorted(sizes)
    random.Random(seed).shuffle(drawn)
    drawn.sort(key=lambda each: -sizes[each])
    filled, fold = [0] * count, {}
    for each in drawn:
        fold[each] = filled.index(min(filled))
        filled[fold[each]] += sizes[each]
    return [fold[each] for each in family]


def _probabilities(network: StanceNetwork, rows: Sequence[Example], recipe: Recipe, encoder: Encoder) -> FloatArray:
    """Shape (rows, labels)."""
    encoded = [each.ids for each in encoder.encode([row.text for row in rows])]
    logits = np.zeros((len(rows), len(recipe.labels.labels)))
    order = sorted(range(len(rows)), key=lambda place: len(encoded[place]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        ids, mask = pad([encoded[place] for place in chosen])
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=use_bfloat16(recipe.fit.bfloat16)):
            found = network(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)).logits
        logits[chosen] = found.float().cpu().numpy()
    truth = np.array([recipe.labels.index(row.label) for row in rows])
    return softmax(logits, fit_calibration(logits, truth, bias=False).temperature, ())
