"""Texts that are nearly the same: what must not straddle a split, and what a label file should not hold twice.

Two texts are compared by their sets of three-word runs (a shorter text is one run), without case and punctuation. A text
without any word is like no other. Everything here is exact: nothing is sampled or hashed down.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from models.text import words

RUN = 3


def normal_key(text: str) -> str:
    """The words of `text`, joined: equal for texts that differ in case, punctuation or spacing alone."""
    return " ".join(words(text))


def near_duplicates(texts: Sequence[str], threshold: float = 0.6) -> list[tuple[int, int, float]]:
    """Sorted pairs (earlier, later, similarity) of positions whose runs have a Jaccard similarity of at least `threshold`.

    A text that repeats an earlier one, word for word, is paired with the first of its kind alone, at 1.0: `clusters` loses
    nothing by that, and a sentence that stands ten thousand times does not make fifty million pairs. ValueError where
    `threshold` is not in (0, 1].

    Sets are joined by prefix filtering (Bayardo et al., 2007): two sets that similar share one of their few rarest members.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold must be above 0 and at most 1, not {threshold}")
    first: dict[str, int] = {}
    pairs: list[tuple[int, int, float]] = []
    for position, text in enumerate(texts):
        key = normal_key(text)
        if key and (earlier := first.setdefault(key, position)) != position:
            pairs.append((earlier, position, 1.0))
    runs = {position: _runs(key) for key, position in first.items()}
    frequency = Counter(run for members in runs.values() for run in members)
    rank = {run: place for place, (run, _) in enumerate(sorted(frequency.items(), key=lambda item: (item[1], item[0])))}
    sets = {position: frozenset(rank[run] for run in members) for position, members in runs.items()}
    index: defaultdict[int, list[int]] = defaultdict(list)
    for position in sorted(sets, key=lambda position: (len(sets[position]), position)):
        own = sets[position]
        least = math.ceil(threshold * len(own) - 1e-9)
        candidates: set[int] = set()
        for member in sorted(own)[: len(own) - least + 1]:
            candidates.update(other for other in index[member] if len(sets[other]) >= least)
            index[member].append(position)
        for other in candidates:
            common = len(own & sets[other])
            similarity = common / (len(own) + len(sets[other]) - common)
            if similarity >= threshold - 1e-9:
                pairs.append((min(position, other), max(position, other), similarity))
    return sorted(pairs)


def repeats(texts: Sequence[str], others: Sequence[str], threshold: float = 0.6) -> list[bool]:
    """For each of `texts`, whether it is or nearly is one of `others`, by `near_duplicates`."""
    everything = [*others, *texts]
    count = len(others)
    found = {
        normal_key(everything[later]) for earlier, later, _ in near_duplicates(everything, threshold) if earlier < count <= later
    }
    return [normal_key(text) in found for text in texts]


def clusters(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` items, the smallest position among all that `pairs` connect it to, itself included."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for left, right in pairs:
        low, high = sorted((root(left), root(right)))
        parent[high] = low
    return [root(item) for item in range(count)]


def conflicts(texts: Sequence[str], labels: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of positions with the same words and two labels; the earlier is the first with those words."""
    first: dict[str, int] = {}
    found: list[tuple[int, int]] = []
    for position, (text, label) in enumerate(zip(texts, labels, strict=True)):
        key = normal_key(text)
        if key and labels[earlier := first.setdefault(key, position)] != label:
            found.append((earlier, position))
    return found


def _runs(key: str) -> set[str]:
    parts = key.split(" ")
    return {" ".join(parts[start : start + RUN]) for start in range(max(1, len(parts) - RUN + 1))}
