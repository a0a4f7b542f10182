"""Behaviour cases: what a model must do, must not mind, and must react to, counted by category.

A suite is a YAML file that maps a category to cases (Ribeiro et al., 2020): `text` and `label` is a minimum function, `same` lists
texts that must get one label (invariance), `from`, `to` and `raises` name a label whose probability must be higher in the second
text (direction).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from models.classifier import Classifier
from models.documents import read_yaml
from models.errors import UsageError
from models.schema import Prediction


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Expected(_Strict):
    """Minimum function: this text has this label."""

    text: str
    label: str

    def texts(self) -> tuple[str, ...]:
        """The texts to classify."""
        return (self.text,)

    def passes(self, answers: Sequence[Prediction]) -> bool:
        """Whether the answers, one for each text, are as they must be."""
        return answers[0].label == self.label


class Same(_Strict):
    """Invariance: these texts have one label, whichever it is."""

    same: tuple[str, ...] = Field(min_length=2)

    def texts(self) -> tuple[str, ...]:
        """The texts to classify."""
        return self.same

    def passes(self, answers: Sequence[Prediction]) -> bool:
        """Whether the answers, one for each text, are as they must be."""
        return len({answer.label for answer in answers}) == 1


class Direction(_Strict):
    """Direction: `raises` is likelier in the second text than in the first."""

    before: str = Field(alias="from")
    after: str = Field(alias="to")
    raises: str

    def texts(self) -> tuple[str, ...]:
        """The texts to classify."""
        return (self.before, self.after)

    def passes(self, answers: Sequence[Prediction]) -> bool:
        """Whether the answers, one for each text, are as they must be."""
        return answers[1].probabilities[self.raises] > answers[0].probabilities[self.raises]


Case = Expected | Same | Direction
Suite = Mapping[str, Sequence[Case]]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Passed and counted cases by category, and a line for each that failed."""

    passed: dict[str, int]
    counted: dict[str, int]
    failures: tuple[str, ...]

    def shares(self) -> dict[str, float]:
        """Share of passed cases by category, and of `all`."""
        shares = {category: self.passed[category] / self.counted[category] for category in self.counted}
        return {"all": sum(self.passed.values()) / sum(self.counted.values()), **shares}

    def table(self) -> str:
        """The counts as plain text."""
        lines = [f"{'behaviour':<24}{'passed':>7}{'of':>5}"]
        for category, count in self.counted.items():
            lines.append(f"{category:<24}{self.passed[category]:>7}{count:>5}")
        lines.append(f"{'all':<24}{sum(self.passed.values()):>7}{sum(self.counted.values()):>5}   {self.shares()['all']:.1%}")
        return "\n".join(lines)


def load_suite(path: Path) -> Suite:
    """Read a suite; UsageError names the case that is wrong."""
    content = read_yaml(path, "behaviour suite", "configs/behaviour.yaml")
    try:
        suite = TypeAdapter(dict[str, list[Expected | Same | Direction]]).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc'][:2]))}: {first['msg']}.") from error
    if empty := [category for category, cases in suite.items() if not cases]:
        raise UsageError(f"{path}: the category {empty[0]} has no cases. Add some or remove it.")
    if not suite:
        raise UsageError(f"{path} has no categories. configs/behaviour.yaml is an example.")
    return suite


def unknown_labels(suite: Suite, labels: Sequence[str]) -> list[str]:
    """Labels that cases of `suite` name and `labels` lacks, sorted."""
    named = {
        case.label if isinstance(case, Expected) else case.raises
        for cases in suite.values()
        for case in cases
        if not isinstance(case, Same)
    }
    return sorted(named - set(labels))


def run_suite(classifier: Classifier, suite: Suite) -> Behaviour:
    """Classify every text of `suite` and count; UsageError where a case names a label that the model does not know."""
    if unknown := unknown_labels(suite, classifier.label_set.labels):
        known = ", ".join(classifier.label_set.labels)
        raise UsageError(
            f"the behaviour suite names the label {unknown[0]!r}; the model knows {known}. Write a suite of its labels."
        )
    texts = [text for cases in suite.values() for case in cases for text in case.texts()]
    answers = iter(classifier.classify(texts))
    passed, counted, failures = dict.fromkeys(suite, 0), dict.fromkeys(suite, 0), []
    for category, cases in suite.items():
        for case in cases:
            found = [next(answers) for _ in case.texts()]
            counted[category] += 1
            if case.passes(found):
                passed[category] += 1
            else:
                given = " | ".join(f"{answer.label}: {text}" for answer, text in zip(found, case.texts(), strict=True))
                wanted = {Expected: "is not", Same: "differ", Direction: "does not raise"}[type(case)]
                label = "" if isinstance(case, Same) else case.label if isinstance(case, Expected) else case.raises
                failures.append(f"{category}: {given} ({' '.join([wanted, label]).strip()})")
    return Behaviour(passed, counted, tuple(failures))
