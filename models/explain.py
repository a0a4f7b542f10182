"""Which words made the answer: each word in turn gives way to an ellipsis, and what that takes from the answer is its contribution.

Occlusion after Zeiler and Fergus (2014) and Li, Monroe and Jurafsky (2016). The shortened sentences are sentences like any other,
so they go through the engine in one pass with the rest of the work and need nothing but a classifier.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from models.classifier import Classifier
from models.schema import DECIMALS, Prediction

GAP = "…"  # how text says that words are missing; plain deletion leaves sentences that say something else
_WORD = re.compile(r"\w+(?:[-'’.]\w+)*")


@dataclass(frozen=True, slots=True)
class Word:
    """A word's place in the text as it was given, in characters (Unicode code points, `end` is one past the last), and its
    contribution: the probability of the answered label with the word minus that without it, in [−1, 1]."""

    start: int
    end: int
    contribution: float


@dataclass(frozen=True, slots=True)
class Occlusion:
    """One sentence's words, and the sentence without each of them; a word that is all there is has no variant."""

    spans: tuple[tuple[int, int], ...]
    variants: tuple[str, ...]

    def words(self, whole: Prediction, without: Sequence[Prediction]) -> list[Word]:
        """The contributions, in the order of the text; words that no variant leaves out contribute 0."""
        full = whole.probabilities[whole.label]
        deltas = [round(full - prediction.probabilities[whole.label], DECIMALS) for prediction in without]
        deltas += [0.0] * (len(self.spans) - len(deltas))
        return [Word(start, end, delta) for (start, end), delta in zip(self.spans, deltas, strict=True)]


def occlude(sentence: str, max_words: int) -> Occlusion:
    """The words of `sentence` and its variants, one for each of the first `max_words` words."""
    spans = tuple(match.span() for match in _WORD.finditer(sentence))
    if len(spans) < 2:
        return Occlusion(spans, ())
    return Occlusion(spans, tuple(sentence[:start] + GAP + sentence[end:] for start, end in spans[:max_words]))


def explain(classifier: Classifier, sentences: Sequence[str]) -> list[tuple[Prediction, list[Word]]]:
    """Predictions of `sentences` with the contribution of each word, in one pass.

    A word beyond the model's `max_tokens` is never read and contributes 0.
    """
    occlusions = [occlude(sentence, classifier.bundle.manifest.max_tokens) for sentence in sentences]
    predictions = classifier.classify([*sentences, *(variant for each in occlusions for variant in each.variants)])
    return fold(occlusions, predictions)


def fold(occlusions: Sequence[Occlusion], predictions: Sequence[Prediction]) -> list[tuple[Prediction, list[Word]]]:
    """Join the predictions of all sentences, followed by those of all their variants, to explained answers."""
    place = len(occlusions)
    explained = []
    for each, whole in zip(occlusions, predictions, strict=False):
        explained.append((whole, each.words(whole, predictions[place : place + len(each.variants)])))
        place += len(each.variants)
    return explained
