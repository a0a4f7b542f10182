"""The command line. Each sub-command imports only what it needs, so `serve` and `score` run without torch.

Exit codes: 0 done, 1 the data has problems, 2 a wrong call or a thing that is missing (one sentence on standard error).
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from models.errors import StancewireError, UsageError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
labels_app = typer.Typer(no_args_is_help=True, help="Look after files of labelled quotes.")
models_app = typer.Typer(no_args_is_help=True, help="Look at bundles and move them.")
app.add_typer(labels_app, name="labels")
app.add_typer(models_app, name="models")

Model = Annotated[str, typer.Option(help="default, a folder, models:/NAME@ALIAS or models:/NAME/VERSION")]
TextColumn = Annotated[str, typer.Option(help="column that holds the text")]


def main() -> None:
    """Run the command; every error that a user can cause becomes one sentence and exit code 2."""
    try:
        app()
    except StancewireError as error:
        sys.stderr.write(f"stancewire: {error}\n")
        sys.exit(2)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="YAML file of settings")] = None,
    model: Annotated[str | None, typer.Option(help="default, a folder, models:/NAME@ALIAS or models:/NAME/VERSION")] = None,
    host: Annotated[str | None, typer.Option(help="address to bind")] = None,
    port: Annotated[int | None, typer.Option(help="port to bind")] = None,
    workers: Annotated[int | None, typer.Option(help="processes that share the port")] = None,
) -> None:
    """Answer HTTP."""
    from service.server import run_server
    from service.settings import load_settings

    given = {"model": model, "host": host, "port": port, "workers": workers}
    run_server(load_settings(config, **{key: value for key, value in given.items() if value is not None}))


@app.command()
def score(
    source: Annotated[Path, typer.Argument(help="CSV, TSV, JSONL or Parquet file to read")],
    target: Annotated[Path, typer.Argument(help="file to write; its ending chooses the kind")],
    model: Model = "default",
    text_column: TextColumn = "text",
    overwrite: Annotated[bool, typer.Option(help="replace an existing output")] = False,
    quiet: Annotated[bool, typer.Option(help="no progress bar")] = False,
) -> None:
    """Classify every row of a file; all its columns are kept."""
    from models.classifier import Classifier
    from models.registry import resolve
    from service.score import score_file

    with Classifier(resolve(model).bundle) as classifier:
        summary = score_file(source, target, classifier, text_column=text_column, progress=not quiet, overwrite=overwrite)
    labels = ", ".join(f"{label} {count}" for label, count in summary.labels.items())
    rate = summary.rows / summary.seconds if summary.seconds else 0.0
    typer.echo(f"{summary.rows} rows in {summary.seconds:.1f} s ({rate:.0f}/s): {labels}; not confident {summary.not_confident}")
    for kind, count in summary.errors.items():
        typer.echo(f"not scored, {kind}: {count}")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe, such as configs/train/default.yaml")],
    data: Annotated[list[Path] | None, typer.Option(help="labelled file, instead of the recipe's; may be repeated")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, such as fit.epochs=3; may be repeated")] = None,
    resume: Annotated[bool, typer.Option(help="go on from the last epoch of a killed run")] = False,
    promote: Annotated[bool, typer.Option(help="also set the alias champion")] = False,
    quiet: Annotated[bool, typer.Option(help="no progress bar")] = False,
) -> None:
    """Fine-tune, calibrate, evaluate, export and register a model."""
    _need_training()
    from training.config import load_recipe

    loaded = load_recipe(recipe, set_ or [], data or [])
    from training.pipeline import train as run
    from training.report import table

    trained = run(loaded, resume=resume, promote=promote, quiet=quiet, say=typer.echo)
    if trained is not None:
        typer.echo(table(trained.evaluation.scores))
        aliases = "challenger and champion" if promote else "challenger"
        typer.echo(f"bundle {trained.bundle.path} ({trained.bundle.id[:12]})")
        typer.echo(f"registered models:/{trained.registered.name}/{trained.registered.version} as {aliases}")


@app.command()
def tune(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe to start from")],
    space: Annotated[Path, typer.Option(help="YAML search space")] = Path("configs/tune/default.yaml"),
    trials: Annotated[int, typer.Option(min=1, help="trials that must have ended, earlier ones counted")] = 20,
    out: Annotated[Path, typer.Option(help="folder for the study and best.yaml")] = Path("runs/tune"),
    study: Annotated[str, typer.Option(help="name of the study; the same name goes on with it")] = "stance",
    storage: Annotated[
        str | None, typer.Option(help="database URL shared by processes or machines (default: a file in --out)")
    ] = None,
    data: Annotated[list[Path] | None, typer.Option(help="labelled file, instead of the recipe's; may be repeated")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, such as fit.seed=3; may be repeated")] = None,
    seed: Annotated[int, typer.Option(help="seed of the search")] = 0,
    quiet: Annotated[bool, typer.Option(help="no progress bars")] = False,
) -> None:
    """Search a recipe's values, judged on validation; resumable, and several processes may share one study."""
    _need_training()
    from training.config import load_recipe
    from training.tune import load_space
    from training.tune import tune as run

    loaded = load_recipe(recipe, set_ or [], data or [])
    found = run(
        loaded,
        load_space(space, loaded),
        out,
        trials=trials,
        study_name=study,
        storage=storage,
        seed=seed,
        quiet=quiet,
        say=typer.echo,
    )
    typer.echo(f"best of {found.trials}: validation macro-F1 {found.macro_f1:.3f}; now run `stancewire train {found.recipe}`")


@app.command()
def evaluate(
    model: Annotated[list[str], typer.Argument(help="one model or several, as for serve --model")],
    data: Annotated[list[Path], typer.Option(help="labelled file; may be repeated")],
    out: Annotated[Path, typer.Option(help="folder for figures and JSON")] = Path("runs/evaluation"),
    text_column: TextColumn = "text",
    label_column: Annotated[str, typer.Option(help="column that holds the label")] = "label",
    explain: Annotated[bool, typer.Option("--explain", help="also write each word's contribution to explanations.jsonl")] = False,
    behaviour: Annotated[Path | None, typer.Option(help="also run a behaviour suite, such as configs/behaviour.yaml")] = None,
) -> None:
    """Measure one model, or several side by side, on labelled rows."""
    _need_training()
    from training.compare import evaluate_models

    typer.echo(
        evaluate_models(model, [str(path) for path in data], out, text_column, label_column, explained=explain, behaviour=behaviour)
    )


@labels_app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="JSONL, CSV or TSV files")],
    label: Annotated[list[str] | None, typer.Option(help="a label of the set, in place of the default three; repeat")] = None,
    text_column: TextColumn = "text",
    label_column: Annotated[str, typer.Option(help="column that holds the label")] = "label",
) -> None:
    """Check labelled files: each problem with file, line and the fix; exit code 1 where there is one."""
    from models.schema import LabelSet
    from training.check import check_files

    try:
        label_set = LabelSet(labels=tuple(label)) if label else LabelSet()
    except ValueError as error:
        raise UsageError(f"--label: {error}.") from error
    report = check_files(files, label_set, text_column=text_column, label_column=label_column)
    for problem in report.problems:
        typer.echo(str(problem))
    for agreement in report.agreement:
        typer.echo(str(agreement))
    counts = ", ".join(f"{name} {count}" for name, count in report.labels.items())
    typer.echo(f"{report.rows} rows ({counts}), {len(report.problems)} problems")
    if report.problems:
        raise typer.Exit(1)


@models_app.command()
def show(model: Annotated[str, typer.Argument(help="default, a folder, models:/NAME@ALIAS or models:/NAME/VERSION")]) -> None:
    """Verify a model and print its manifest."""
    from models.registry import resolve

    source = resolve(model)
    content = source.bundle.manifest.model_dump(mode="json")
    typer.echo(json.dumps({"id": source.bundle.id, "registry_version": source.version, **content}, indent=2, ensure_ascii=False))


@models_app.command()
def pack(
    model: Annotated[str, typer.Argument(help="default, a folder, models:/NAME@ALIAS or models:/NAME/VERSION")],
    target: Annotated[Path, typer.Argument(help="folder to write")],
) -> None:
    """Write a bundle without its training weights: what a service needs and no more."""
    from models.bundle import copy_bundle
    from models.registry import resolve

    bundle = copy_bundle(resolve(model).bundle, target, weights=False)
    size = sum(entry.bytes for entry in bundle.manifest.files.values()) / 1e6
    typer.echo(f"{target}: {size:.1f} MB, id {bundle.id[:12]}")


def _need_training() -> None:
    # The hub answers no one behind a closed network; a base that is already here must not wait for it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "training needs the training packages. Run `make setup-train`, or `pip install 'stancewire[train]'`."
        ) from error
