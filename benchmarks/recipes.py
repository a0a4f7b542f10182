"""Ways to train, side by side: each variant of the default recipe under three seeds, an MLflow run each; `make bench-recipes`.

    python -m benchmarks.recipes [--out DIR] [--only NAME,NAME] [KEY=VALUE ...]

KEY=VALUE goes to every variant, before its own values, such as `data.briefings=CLONE` or `data.further_tests={real:
labelled.jsonl}`. A run that has ended is read from DIR and not repeated, so a stopped table is continued by the same command; the
recipe is the copy that the first start puts into DIR, so that an edit meanwhile does not mix settings.
Choose by the validation column alone.
"""

import shutil
import statistics
import sys
from pathlib import Path

from models.bundle import Manifest, open_bundle
from training.config import load_recipe
from training.pipeline import train

SEEDS = (17, 18, 19)
RECIPE = Path(__file__).parent.parent / "configs" / "train" / "default.yaml"
PLAIN = ["fit.r_drop=0", "fit.members=1", "fit.soft_labels=false", "fit.typos=0", "fit.focus={}", "fit.class_weights=false"]
VARIANTS: dict[str, list[str]] = {
    "plain": [],
    "r-drop": ["fit.r_drop=1.0"],
    "smoothing": ["fit.label_smoothing=0.1"],
    "soft-labels": ["fit.soft_labels=true"],
    "layer-decay": ["fit.layer_decay=0.9"],
    "name-swap": ["fit.name_swap=0.5"],
    "typos": ["fit.typos=0.2"],
    "class-weights": ["fit.class_weights=true"],
    "mean-pooling": ["model.pooling=mean"],
    "three-averaged": ["fit.members=3"],
    "teachers": ["fit.teachers.folds=4"],
    "focus": ["fit.focus.rows=origin=real"],
    "focus-averaged": ["fit.focus.rows=origin=real", "fit.focus.members=3"],
}


def main() -> None:
    """Train what is missing and print the table."""
    arguments = sys.argv[1:]
    out = Path(_option(arguments, "--out", "runs/recipes"))
    chosen = _option(arguments, "--only", ",".join(VARIANTS)).split(",")
    if unknown := [name for name in chosen if name not in VARIANTS]:
        sys.exit(f"there is no variant {unknown[0]}. Known: {', '.join(VARIANTS)}.")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / RECIPE.name).is_file():
        shutil.copyfile(RECIPE, out / RECIPE.name)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in SEEDS:
        for name in chosen:
            manifest = _run(name, seed, out, arguments)
            rows.setdefault(name, []).append(_figures(manifest))
            print(f"{name} {seed}: " + ", ".join(f"{key} {value:.3f}" for key, value in rows[name][-1].items()), flush=True)
    print("\n" + table(rows))


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Mean and standard deviation over the seeds, one line a variant, as Markdown."""
    columns = list(next(iter(rows.values()))[0])
    lines = ["| variant | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in rows.items():
        cells = [
            f"{statistics.mean(f[key] for f in figures):.3f} ± {statistics.stdev(f[key] for f in figures):.3f}" for key in columns
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _run(name: str, seed: int, out: Path, overrides: list[str]) -> Manifest:
    folder = out / f"{name}-{seed}"
    if not (folder / "bundle").is_dir():
        settings = [
            *PLAIN,
            *overrides,
            *VARIANTS[name],
            f"fit.seed={seed}",
            f"out={folder}",
            f"name={name}",
            "export.min_agreement=0.9",
        ]
        settings += ["tracking.experiment=recipes", "tracking.registered_model=recipes"]
        train(load_recipe(out / RECIPE.name, settings), quiet=True, say=lambda _: None)
    return open_bundle(folder / "bundle").manifest


def _figures(manifest: Manifest) -> dict[str, float]:
    metrics = manifest.metrics
    figures = {"validation": metrics["validation"]["macro_f1"], "test": metrics["test"]["macro_f1"]}
    for key in metrics:
        if key.startswith("further_"):
            figures[key.removeprefix("further_")] = metrics[key]["macro_f1"]
    return figures | {"behaviour": metrics["behaviour"]["all"]}


def _option(arguments: list[str], name: str, default: str) -> str:
    if name not in arguments:
        return default
    position = arguments.index(name)
    value = arguments[position + 1]
    del arguments[position : position + 2]
    return value


if __name__ == "__main__":
    main()
