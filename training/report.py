"""What people read after a training: the table, the figures and the model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from models.bundle import Manifest
from training.behaviour import Behaviour
from training.evaluate import Evaluation
from training.metrics import BINS, Scores

matplotlib.use("Agg")


def table(scores: Scores) -> str:
    """The scores as plain text."""
    low, high = scores.interval
    lines = [
        f"rows {scores.rows}   macro-F1 {scores.macro_f1:.3f} (95 % {low:.3f}-{high:.3f})   weighted F1 {scores.weighted_f1:.3f}   "
        f"accuracy {scores.accuracy:.3f}",
        f"Brier {scores.brier:.3f}   ECE {scores.ece:.3f}   area under risk-coverage {scores.aurc:.3f}   "
        f"accuracy on the surest 60 % {scores.accuracy_at_60:.3f}",
        f"{'label':<16}{'precision':>10}{'recall':>8}{'F1':>7}{'rows':>7}",
    ]
    for label, values in scores.per_label.items():
        lines.append(f"{label:<16}{values['precision']:>10.3f}{values['recall']:>8.3f}{values['f1']:>7.3f}{int(values['rows']):>7}")
    if scores.slices:
        lines.append(f"{'slice':<36}{'macro-F1':>9}{'rows':>6}")
        for name, values in list(scores.slices.items())[:25]:
            lines.append(f"{name:<36}{values['macro_f1']:>9.3f}{int(values['rows']):>6}")
    return "\n".join(lines)


def draw_evaluation(evaluation: Evaluation, labels: Sequence[str], folder: Path) -> list[Path]:
    """Confusion matrix, reliability diagram and risk-coverage curve as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _confusion(evaluation, labels, folder / "confusion.png"),
        _reliability(evaluation, folder / "reliability.png"),
        _risk_coverage(evaluation, folder / "risk_coverage.png"),
    ]


def draw_losses(history: Sequence[Mapping[str, float]], path: Path) -> Path:
    """Training and validation loss and validation macro-F1 by step, at the end of each epoch; a line for each fit."""
    figure, axes = _figure("Loss by step", "step", "loss")
    second = axes.twinx()
    for key, name, where, style in (
        ("loss", "train", axes, "o-C0"),
        ("eval_loss", "validation", axes, "o-C1"),
        ("eval_macro_f1", "validation macro-F1", second, "--C2"),
    ):
        label = name
        for points in fits_of(history, key):
            where.plot([x for x, _ in points], [y for _, y in points], style, label=label)
            label = "_"  # one entry in the legend for all fits
    second.set_ylabel("macro-F1")
    figure.legend(loc="lower center", ncols=3, fontsize=8)
    figure.subplots_adjust(bottom=0.2, right=0.85)
    figure.savefig(path)
    return path


def fits_of(history: Sequence[Mapping[str, float]], key: str) -> list[list[tuple[float, float]]]:
    """(step, value) of the entries that have `key`, a list for each fit: a new one begins where the epoch falls back."""
    fits: list[list[tuple[float, float]]] = []
    epoch = float("inf")
    for entry in history:
        if key in entry:
            if entry["epoch"] <= epoch:
                fits.append([])
            fits[-1].append((entry["step"], entry[key]))
            epoch = entry["epoch"]
    return fits


def model_card(
    manifest: Manifest,
    evaluation: Evaluation,
    sizes: Mapping[str, int],
    others: Mapping[str, Evaluation],
    behaviour: Behaviour | None,
    note: str,
) -> str:
    """The model card in Markdown (Mitchell et al., 2019); `others` are rows that took no part in training, by name."""
    scores = evaluation.scores
    further = "".join(f"\n## Further rows: {name}\n\n```\n{table(other.scores)}\n```\n" for name, other in others.items())
    if behaviour is not None:
        further += f"\n## Behaviour\n\n```\n{behaviour.table()}\n```\n"
    parity = manifest.metrics["export"]
    return f"""# {manifest.name} {manifest.version}

Labels a sentence as {", ".join(f"`{label}`" for label in manifest.label_set.labels)}.

- Base: `{manifest.base_model}` (SHA-256 of its weights {manifest.base_sha256[:16]}…), {manifest.pooling} pooling, at most
  {manifest.max_tokens} tokens; longer text is read from its start.
- Data: {sizes["train"]} rows to train, {sizes["validation"]} to validate, {sizes["test"]} to test;
  digest {manifest.training_data_sha256[:16]}….{" " + note if note else ""}
- Calibration: temperature {manifest.temperature:.3f}{_bias(manifest)} set on validation; `confident` from a probability of
  {manifest.confidence_threshold:.3f}, chosen on validation; {evaluation.not_confident:.0%} of the test rows are below it.
- Engine: ONNX Runtime, {manifest.engine.precision}; same label as float32 torch on {parity["agreement"]:.2%} of the test rows,
  greatest change of a probability {parity["max_change"]:.3f}.

## Test side of its own data

```
{table(scores)}
```

These rows come from the same source as the training rows. Text of another kind will be classified less well: measure it with
`stancewire evaluate` on labels of your own before relying on an answer.
{further}
## Limits

One sentence is read without its context and without knowing who speaks. It knows the languages of its training rows only. An
answer with `confident: false` needs a reader.
{_weakest(evaluation, behaviour)}"""


def _figure(title: str, x: str, y: str) -> tuple[Figure, "matplotlib.axes.Axes"]:
    figure = Figure(figsize=(5, 4), dpi=120)
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    figure.subplots_adjust(left=0.16, bottom=0.14)
    return figure, axes


def _confusion(evaluation: Evaluation, labels: Sequence[str], path: Path) -> Path:
    figure, axes = _figure("Confusion matrix (rows)", "predicted", "true")
    cells = np.array(evaluation.scores.confusion)
    axes.imshow(cells, cmap="Blues")
    for row in range(len(labels)):
        for column in range(len(labels)):
            colour = "white" if cells[row, column] > cells.max() / 2 else "black"
            axes.text(column, row, str(cells[row, column]), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=20, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    figure.subplots_adjust(left=0.25, bottom=0.2)
    figure.savefig(path)
    return path


def _reliability(evaluation: Evaluation, path: Path) -> Path:
    figure, axes = _figure(f"Reliability (ECE {evaluation.scores.ece:.3f})", "confidence", "accuracy")
    confidence = evaluation.probabilities.max(1)
    right = evaluation.probabilities.argmax(1) == evaluation.truth
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    filled = [b for b in range(BINS) if (bins == b).any()]
    heights = [right[bins == b].mean() for b in filled]
    axes.bar([(b + 0.5) / BINS for b in filled], heights, width=0.9 / BINS, label="accuracy in the bin")
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", label="perfect")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(loc="upper left", fontsize=8)
    figure.savefig(path)
    return path


def _risk_coverage(evaluation: Evaluation, path: Path) -> Path:
    figure, axes = _figure("Risk-coverage", "share of rows answered, surest first", "share of these that are wrong")
    order = np.argsort(-evaluation.probabilities.max(1), kind="stable")
    wrong = (evaluation.probabilities.argmax(1) != evaluation.truth)[order]
    count = np.arange(1, len(wrong) + 1)
    axes.plot(count / len(wrong), np.cumsum(wrong) / count)
    axes.set_ylim(bottom=0)
    figure.savefig(path)
    return path


def _weakest(evaluation: Evaluation, behaviour: Behaviour | None) -> str:
    """Where it errs most: the slices of the test side with the lowest accuracy, the behaviour categories with the lowest share."""
    slices = sorted(evaluation.scores.slices.items(), key=lambda item: item[1]["accuracy"])[:5]
    named = ", ".join(f"{name} {scores['accuracy']:.2f} ({scores['rows']:.0f} rows)" for name, scores in slices)
    text = f"\nWeakest slices of the test side, accuracy: {named}.\n" if slices else ""
    if behaviour is not None:
        worst = sorted((share, name) for name, share in behaviour.shares().items() if name != "all")[:5]
        text += "\nWeakest behaviour: " + ", ".join(f"{name} {share:.0%}" for share, name in worst) + ".\n"
    return text


def _bias(manifest: Manifest) -> str:
    if not manifest.bias:
        return ""
    shifts = ", ".join(f"{label} {value:+.3f}" for label, value in zip(manifest.label_set.labels, manifest.bias, strict=True))
    return f" and a bias for each label ({shifts})"
