"""`stancewire evaluate`: models on the same rows, the table, the figures, and a paired bootstrap between them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from models.classifier import Classifier
from models.errors import UsageError
from models.explain import explain
from models.registry import resolve
from training.behaviour import load_suite, run_suite
from training.config import DataRecipe
from training.data import Example, load_examples
from training.evaluate import Evaluation, compare, evaluate
from training.report import draw_evaluation, table


def evaluate_models(
    names: Sequence[str],
    files: Sequence[str],
    out: Path,
    text_column: str,
    label_column: str,
    *,
    explained: bool = False,
    behaviour: Path | None = None,
) -> str:
    """Evaluate each model on `files`, write figures and `evaluation.json` below `out`, and return the printed report.

    Where `explained` is set, `explanations.jsonl` gives each row's words with their contributions, the surest errors first;
    where `behaviour` names a suite, its table is printed and the failed cases are written to `behaviour.txt`.
    """
    suite = load_suite(behaviour) if behaviour is not None else None
    data = DataRecipe(text_column=text_column, label_column=label_column)
    lines: list[str] = []
    evaluations: list[Evaluation] = []
    label_sets: list[tuple[str, ...]] = []
    content: dict[str, object] = {}
    for number, name in enumerate(names, start=1):
        source = resolve(name)
        with Classifier(source.bundle) as classifier:
            labels = classifier.label_set
            examples = load_examples(files, data, labels)
            evaluation = evaluate(classifier, examples)
            conduct = run_suite(classifier, suite) if suite is not None else None
            explanations = _explanations(classifier, examples) if explained else None
        if label_sets and label_sets[0] != labels.labels:
            raise UsageError(f"{name} knows other labels than {names[0]}; models are compared on the same labels only.")
        label_sets.append(labels.labels)
        evaluations.append(evaluation)
        folder = out if len(names) == 1 else out / f"model-{number}"
        try:
            draw_evaluation(evaluation, labels.labels, folder)
            if conduct is not None:
                (folder / "behaviour.txt").write_text("\n".join([conduct.table(), "", *conduct.failures, ""]), "utf-8")
            if explanations is not None:
                (folder / "explanations.jsonl").write_text(explanations, "utf-8")
        except OSError as error:
            raise UsageError(f"cannot write to {folder} ({error.strerror}). Choose another --out.") from error
        lines += [
            f"{name} (bundle {source.bundle.id[:12]})",
            table(evaluation.scores),
            f"not confident {evaluation.not_confident:.1%}",
            *([conduct.table()] if conduct is not None else []),
            "",
        ]
        content[f"{number} {name}"] = {
            "bundle": source.bundle.id,
            **asdict(evaluation.scores),
            **({"behaviour": conduct.shares()} if conduct is not None else {}),
        }
    for name, evaluation in list(zip(names, evaluations, strict=True))[1:]:
        found = compare(evaluations[0], evaluation)
        low, high = found.interval
        lines.append(
            f"{name} minus {names[0]}: macro-F1 {found.difference:+.3f} (95 % {low:+.3f} to {high:+.3f}, "
            f"better in {found.share_better:.0%} of 1000 resamples)"
        )
        content[f"{name} minus {names[0]}"] = asdict(found)
    (out / "evaluation.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    lines.append(f"figures and evaluation.json: {out}")
    return "\n".join(lines)


def _explanations(classifier: Classifier, examples: Sequence[Example]) -> str:
    """A line of JSON for each row: wrong answers first, and among them the surest."""
    rows = list(zip(examples, explain(classifier, [example.text for example in examples]), strict=True))
    rows.sort(key=lambda row: (row[1][0].label == row[0].label, -max(row[1][0].probabilities.values())))
    lines = [
        json.dumps(
            {
                "id": example.id,
                "text": example.text,
                "label": example.label,
                "answer": prediction.label,
                "probability": prediction.probabilities[prediction.label],
                "words": [[example.text[word.start : word.end], word.start, word.end, word.contribution] for word in words],
            },
            ensure_ascii=False,
        )
        for example, (prediction, words) in rows
    ]
    return "\n".join(lines) + "\n"
