import difflib
import json
from collections import defaultdict
from pathlib import Path

import pytest

from models.bundle import DEFAULT_BUNDLE
from models.classifier import Classifier
from models.explain import GAP, Word, explain, occlude
from models.schema import Prediction

CORPUS = Path(__file__).parent.parent / "training" / "corpus"


def test_words_are_found_where_they_stand_in_the_text_as_sent() -> None:
    text = "  “No,” said the U.N.\u200b envoy — we won’t\tre-open it 😀 now."
    words = [text[start:end] for start, end in occlude(text, 128).spans]
    assert words == ["No", "said", "the", "U.N", "envoy", "we", "won’t", "re-open", "it", "now"]


@pytest.mark.parametrize(("text", "words", "variants"), [("", 0, 0), ("Talks!", 1, 0), ("…", 0, 0), ("No talks.", 2, 2)])
def test_nothing_is_left_out_of_a_single_word(text: str, words: int, variants: int) -> None:
    found = occlude(text, 128)
    assert (len(found.spans), len(found.variants)) == (words, variants)


def test_words_that_are_never_read_contribute_nothing(tiny_bundle: Path) -> None:
    with Classifier.open(tiny_bundle) as classifier:
        ((prediction, words),) = explain(classifier, ["talks " * 100])
    assert prediction.truncated
    assert len(words) == 100
    assert words[64:] == [Word(word.start, word.end, 0.0) for word in words[64:]]


def test_a_contribution_is_what_leaving_the_word_out_takes(tiny_bundle: Path) -> None:
    texts = ["We reject talks.", "They met, and they will meet again."]
    with Classifier.open(tiny_bundle) as classifier:
        explained = explain(classifier, texts)
        for text, (prediction, words) in zip(texts, explained, strict=True):
            assert prediction == classifier.classify([text])[0]
            for word in words:
                (without,) = classifier.classify([text[: word.start] + GAP + text[word.end :]])
                taken = prediction.probabilities[prediction.label] - without.probabilities[prediction.label]
                assert word.contribution == pytest.approx(taken, abs=2e-6)


def test_on_contrast_pairs_the_words_that_differ_rank_on_top() -> None:
    """Where the shipped model tells both sentences of a pair apart, one of the words in which they differ is among the three that
    contribute most, in at least eight of ten sentences; words drawn by lot would be far below."""
    pairs = defaultdict(list)
    for path in sorted(CORPUS.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            if row.get("pair"):
                pairs[row["pair"]].append((row["text"], row["label"]))
    sentences = [pair for pair in pairs.values() if len(pair) == 2]
    with Classifier.open(DEFAULT_BUNDLE) as classifier:
        answers = classifier.classify([text for pair in sentences for text, _ in pair])
        told = [
            pair
            for number, pair in enumerate(sentences)
            if [answer.label for answer in answers[2 * number : 2 * number + 2]] == [label for _, label in pair]
        ]
        explained = explain(classifier, [text for pair in told for text, _ in pair])
    ranks = [
        rank
        for number, pair in enumerate(told)
        for place in range(2)
        if (rank := _best_rank(pair[place], pair[1 - place][0], explained[2 * number + place])) is not None
    ]
    assert len(ranks) >= 40
    assert sum(rank < 3 for rank in ranks) / len(ranks) >= 0.8


def _best_rank(own: tuple[str, str], other: str, explained: tuple[Prediction, list[Word]]) -> int | None:
    """The best place of a word that `other` lacks; None where the sentence is neutral or differs in most."""
    text, label = own
    words = explained[1]
    mine = [text[word.start : word.end].lower() for word in words]
    theirs = [other[start:end].lower() for start, end in occlude(other, 0).spans]
    matcher = difflib.SequenceMatcher(None, mine, theirs, autojunk=False)
    differing = {i for kind, low, high, _, _ in matcher.get_opcodes() if kind != "equal" for i in range(low, high)}
    if label == "neutral" or not differing or len(differing) > len(mine) / 2:
        return None
    order = sorted(range(len(words)), key=lambda i: -words[i].contribution)
    return min(order.index(i) for i in differing)
