"""How far annotators agree: Cohen's kappa of two (Cohen, 1960), Krippendorff's alpha of any number (Krippendorff, 2004).

Both are 1 for always and 0 for what chance alone would give.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sklearn.metrics import cohen_kappa_score

ANNOTATORS = ("label_a", "label_b", "label_c")  # the columns in which a row carries what each annotator said


@dataclass(frozen=True, slots=True)
class Agreement:
    """Cohen's kappa and the share of equal labels over `rows` rows of `part`; kappa is None where both used one label only."""

    part: str
    rows: int
    same: float
    kappa: float | None

    def __str__(self) -> str:
        kappa = "not defined" if self.kappa is None else f"{self.kappa:.3f}"
        return f"{self.part}: two annotators gave {self.same:.1%} of {self.rows} rows the same label, Cohen's kappa {kappa}"


def measure_agreement(labels: Sequence[tuple[str, str, str]]) -> list[Agreement]:
    """Agreement in each part, in their order, and last in all of them; `labels` holds part, first label, second label."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for part, first, second in labels:
        parts.setdefault(part, []).append((first, second))
    found = [_measure(part, pairs) for part, pairs in parts.items()]
    if len(parts) > 1:
        found.append(_measure("all", [pair for pairs in parts.values() for pair in pairs]))
    return found


def _measure(part: str, pairs: Sequence[tuple[str, str]]) -> Agreement:
    same = sum(first == second for first, second in pairs) / len(pairs)
    used = {label for pair in pairs for label in pair}
    kappa = float(cohen_kappa_score(*zip(*pairs, strict=True))) if len(used) > 1 else None
    return Agreement(part, len(pairs), same, kappa)


def agreement_of_pairs(given: Mapping[str, Mapping[str, str]]) -> list[Agreement]:
    """Agreement of every two annotators on what both labelled; `given` maps annotator to item to label."""
    names = sorted(given)
    found = []
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            both = [(given[first][item], given[second][item]) for item in given[first] if item in given[second]]
            if both:
                found.append(_measure(f"{first} and {second}", both))
    return found


def krippendorff_alpha(items: Sequence[Sequence[str]]) -> float | None:
    """Alpha for nominal labels; `items` holds the labels that each item was given. None where it is not defined: nothing was
    labelled twice, or one label only was used."""
    paired = [labels for labels in items if len(labels) > 1]
    total = sum(len(labels) for labels in paired)
    uses = Counter(label for labels in paired for label in labels)
    expected = total * (total - 1) - sum(count * (count - 1) for count in uses.values())
    if not expected:
        return None
    observed = 0.0
    for labels in paired:
        counts = Counter(labels)
        alike = sum(count * (count - 1) for count in counts.values())
        observed += (len(labels) * (len(labels) - 1) - alike) / (len(labels) - 1)
    return 1 - (total - 1) * observed / expected
