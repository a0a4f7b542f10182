"""The trainer on somebody else's table: FOMC hawkish/dovish/neutral, the three published splits; `make bench-quality`.

Reads `train-SEED.csv` and `test-SEED.csv` (columns sentence, label) from a folder (first argument, or ../shared/benchmarks/fomc).
Training rows that repeat or nearly repeat a test row are left out, so the model has seen no test row; the published figures kept
them, as `data.on_leak=keep` does. Beside the whole test side stands the score without those test rows. Source: Shah, Paturi and
Chava, "Trillion Dollar Words", ACL 2023.
"""

import statistics
import sys
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from models.classifier import Classifier
from training.audit import near_duplicates
from training.config import load_recipe
from training.data import Example, load_examples
from training.pipeline import train

SEEDS = (5768, 78516, 944601)
ROOT = Path(__file__).parent.parent
PUBLISHED = (("RoBERTa-large, 355 M", 0.7171), ("RoBERTa-base, 125 M", 0.6756), ("BERT-base, 110 M", 0.6310))


def main() -> None:
    """Train on each split and print the table."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "benchmarks" / "fomc"
    overrides = sys.argv[2:]
    if not (folder / f"train-{SEEDS[0]}.csv").is_file():
        sys.exit(f"{folder} has no train-{SEEDS[0]}.csv. Give the folder of the FOMC table as the first argument.")
    whole, clean, baseline, validation = [], [], [], []
    for seed in SEEDS:
        settings = [f"out=runs/fomc-{seed}", f"data.test_files=[{folder}/test-{seed}.csv]", *overrides]
        recipe = load_recipe(ROOT / "configs/train/fomc.yaml", settings, [folder / f"train-{seed}.csv"])
        trained = train(recipe, quiet=True, say=lambda line: None)
        assert trained is not None
        learnt = load_examples(recipe.data.files, recipe.data, recipe.labels)
        tests = load_examples(recipe.data.test_files, recipe.data, recipe.labels)
        texts = [example.text for example in (*learnt, *tests)]
        seen = {max(a, b) for a, b, _ in near_duplicates(texts, recipe.data.near_duplicate) if min(a, b) < len(learnt) <= max(a, b)}
        unseen = [example for number, example in enumerate(tests, start=len(learnt)) if number not in seen]
        whole.append(_score(trained.bundle.path, tests))
        clean.append(_score(trained.bundle.path, unseen))
        baseline.append(_tfidf(learnt, tests))
        validation.append(trained.bundle.manifest.metrics["validation"]["macro_f1"])
        print(
            f"seed {seed}: test rows {len(tests)}, weighted F1 {whole[-1]:.4f}; {len(unseen)} not in train {clean[-1]:.4f}; "
            f"validation macro-F1 {validation[-1]:.4f}; TF-IDF {baseline[-1]:.4f}",
            flush=True,
        )
    print(f"\n{'model':<44}{'weighted F1, mean of 3':>22}{'±':>8}")
    for name, scores in (("Stancewire, 22 M, int8", whole), ("the same, test rows in train left out", clean), ("TF-IDF", baseline)):
        print(f"{name:<44}{statistics.mean(scores):>22.4f}{statistics.stdev(scores):>8.4f}")
    for name, score in PUBLISHED:
        print(f"{name + ' (published)':<44}{score:>22.4f}")


def _score(bundle: Path, examples: list[Example]) -> float:
    with Classifier.open(bundle) as classifier:
        answers = [answer.label for answer in classifier.classify([example.text for example in examples])]
    return float(f1_score([example.label for example in examples], answers, average="weighted"))


def _tfidf(learnt: list[Example], tests: list[Example]) -> float:
    """TF-IDF of words and word pairs with logistic regression, class weights balanced."""
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    known = features.fit_transform([example.text for example in learnt])
    model = LogisticRegression(C=10, max_iter=1000, class_weight="balanced").fit(known, [example.label for example in learnt])
    answers = model.predict(features.transform([example.text for example in tests]))
    return float(f1_score([example.label for example in tests], answers, average="weighted"))


if __name__ == "__main__":
    main()
