from pathlib import Path

import pytest

from models.bundle import DEFAULT_BUNDLE
from models.classifier import Classifier
from models.errors import UsageError
from models.text import words
from training.behaviour import Direction, Expected, Same, load_suite, run_suite, unknown_labels
from training.config import load_recipe
from training.data import load_examples

ROOT = Path(__file__).parent.parent
SUITE = ROOT / "configs" / "behaviour.yaml"


def test_the_suite_has_fifteen_cases_a_category_and_none_twice() -> None:
    suite = load_suite(SUITE)
    assert len(suite) == 17
    assert all(len(cases) >= 15 for cases in suite.values())
    expected = [case.text for cases in suite.values() for case in cases if isinstance(case, Expected)]
    assert len(set(expected)) == len(expected)


def test_a_suite_for_other_labels_is_told_apart() -> None:
    suite = load_suite(SUITE)
    assert unknown_labels(suite, ("pro_dialogue", "pro_pressure", "neutral")) == []
    assert unknown_labels(suite, ("hawkish", "dovish", "neutral")) == ["pro_dialogue", "pro_pressure"]


def test_no_case_stands_in_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(ROOT / "configs" / "train" / "default.yaml")
    learnt = {tuple(words(example.text)) for example in load_examples(recipe.data.files, recipe.data, recipe.labels)}
    texts = [text for cases in load_suite(SUITE).values() for case in cases for text in case.texts()]
    assert [text for text in texts if tuple(words(text)) in learnt] == []


def test_cases_pass_and_fail_as_the_answers_say() -> None:
    with Classifier.open(DEFAULT_BUNDLE) as classifier:
        answers = classifier.classify(["We are ready for talks with them.", "They must withdraw now."])
        low, high = sorted(answers, key=lambda answer: answer.probabilities["pro_pressure"])
        assert Expected(text="x", label=low.label).passes([low])
        assert not Expected(text="x", label="other").passes([low])
        assert Same(same=("x", "y")).passes([low, low])
        assert not Same(same=("x", "y")).passes([low, high])
        direction = Direction(before="x", after="y", raises="pro_pressure")
        assert direction.passes([low, high])
        assert not direction.passes([high, low])
        assert not direction.passes([low, low])
        found = run_suite(
            classifier, {"one": [Same(same=("We want talks.", "We want talks!")), Expected(text="Hm.", label="neutral")]}
        )
    assert found.counted == {"one": 2}
    assert found.passed["one"] + len(found.failures) == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a:\n  - {text: x}\n", r"a\.0"),
        ("a:\n  - {same: [x]}\n", r"a\.0"),
        ("a: []\n", "has no cases"),
        ("{}\n", "has no categories"),
        ("a:\n  - {text: x, label: hawkish}\n", "names the label 'hawkish'"),
    ],
)
def test_a_wrong_suite_gets_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(content, "utf-8")
    with Classifier.open(DEFAULT_BUNDLE) as classifier, pytest.raises(UsageError, match=sentence):
        run_suite(classifier, load_suite(path))
