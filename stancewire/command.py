"""The command line. Each sub-command imports only what it needs, so `serve` and `score` run without torch.

Exit codes: 0 done, 1 the data has problems, 2 a wrong call or a thing that is missing (one sentence on standard error), 3 stopped
by a signal before the end, to be continued by the same call.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from models.errors import StancewireError, UsageError
from stancewire.keys_command import keys_app
from stancewire.labels_command import labels_app
from stancewire.models_command import models_app
from stancewire.training_packages import need_training

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(labels_app, name="labels")
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")

_EXIT_CODES = {"bad_rows": 1, "stopped": 3}

TextColumn = Annotated[str, typer.Option(help="column that holds the text")]


def main() -> None:
    """Run the command; every error that a user can cause becomes one sentence and exit code 2."""
    try:
        app()
    except StancewireError as error:
        sys.stderr.write(f"stancewire: {error}\n")
        sys.exit(_EXIT_CODES.get(error.code, 2))


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="YAML file of settings")] = None,
    model: Annotated[str | None, typer.Option(help="default, a folder, models:/NAME@ALIAS or models:/NAME/VERSION")] = None,
    host: Annotated[str | None, typer.Option(help="address to bind")] = None,
    port: Annotated[int | None, typer.Option(help="port to bind")] = None,
    workers: Annotated[int | None, typer.Option(help="processes that share the port")] = None,
    shadow: Annotated[str | None, typer.Option(help="a model that scores a sample of the traffic too")] = None,
) -> None:
    """Answer HTTP."""
    from service.server import run_server
    from service.settings import load_settings

    given = {"model": model, "host": host, "port": port, "workers": workers, "shadow": shadow}
    run_server(load_settings(config, **{key: value for key, value in given.items() if value is not None}))


@app.command()
def score(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="IN... OUT", help="files, folders, globs or URLs to read, and what to write"),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(help="default, a folder, models:/NAME@ALIAS or models:/NAME/VERSION; two are compared"),
    ] = None,
    text_column: TextColumn = "text",
    format_: Annotated[
        str | None, typer.Option("--format", help="of the shards: parquet (default), csv, tsv, jsonl, also csv.gz, jsonl.zst …")
    ] = None,
    single_file: Annotated[bool, typer.Option("--single-file", help="join the shards of a folder to one file in it")] = False,
    shard_rows: Annotated[int, typer.Option(min=1, help="rows of a shard: what a crash can cost")] = 20_000,
    strict: Annotated[bool, typer.Option("--strict", help="fail at the first row that cannot be scored")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the job in OUT; the same call does so by itself")] = False,
    overwrite: Annotated[bool, typer.Option(help="replace an existing output, or start its job anew")] = False,
    slice_column: Annotated[list[str] | None, typer.Option(help="column to compare two models by; may be repeated")] = None,
    max_characters: Annotated[int, typer.Option(min=1, help="longer texts become too_long")] = 5000,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="this process, or Ray Data")] = "local",
    address: Annotated[str | None, typer.Option(help="Ray cluster; none starts one on this machine")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="engine threads, or Ray actors (default: as many as cores)")] = None,
    quiet: Annotated[bool, typer.Option(help="no progress, no summary")] = False,
) -> None:
    """Classify every row of an archive; all its columns are kept. Exit code 3: stopped by a signal, and ready to go on."""
    from models.registry import resolve
    from service.batch.files import read_ending
    from service.batch.job import Options
    from service.batch.join import Target, shard_ending
    from service.batch.run import run_job

    if len(paths) < 2:
        raise UsageError("name at least one input and, last, an output: stancewire score IN... OUT.")
    if slice_column and len(model or ()) != 2:
        raise UsageError("--slice-column is for the comparison of two models. Give --model twice, or leave it out.")
    if resume and overwrite:
        raise UsageError("--resume goes on with a job, --overwrite starts it anew. Choose one.")
    chosen = read_ending(f"x.{format_}") if format_ else None
    if format_ and chosen is None:
        raise UsageError(f"--format {format_} is not known. Use parquet, csv, tsv or jsonl, the last three also with .gz or .zst.")
    target, ending = Target.of(paths[-1], chosen, single=single_file)
    options = Options(text_column, shard_ending(target, ending), shard_rows, max_characters, tuple(slice_column or ()))
    bundles = [resolve(name).bundle for name in model or ["default"]]
    run = None
    if engine == "ray":
        from service.batch.on_ray import ray_engine

        run = ray_engine(address, workers)
    summary = run_job(
        paths[:-1], target, bundles, options, engine=run, strict=strict, overwrite=overwrite, workers=workers, quiet=quiet
    )
    if not quiet:
        typer.echo(summary.text(), nl=False)


@app.command()
def drift(
    data: Annotated[list[str], typer.Argument(help="files, folders, globs or URLs of texts, such as last month's archive")],
    model: Annotated[str, typer.Option(help="default, a folder, models:/NAME@ALIAS or models:/NAME/VERSION")] = "default",
    text_column: TextColumn = "text",
) -> None:
    """How far texts have moved from what a model was measured on; exit code 1 where a retrain is due."""
    from models.classifier import Classifier
    from models.reference import MUCH, count
    from models.reference import drift as measure
    from models.registry import resolve
    from service.batch.texts import usable_texts

    bundle = resolve(model).bundle
    if bundle.manifest.reference is None:
        raise UsageError(f"{model} carries no reference to compare with. Train it anew with this release.")
    texts = usable_texts(data, text_column)
    with Classifier(bundle) as classifier:
        found = count(classifier.label_set.labels, texts, classifier.classify(texts))
    moved = measure(bundle.manifest.reference, found)
    for dimension, index in moved.items():
        typer.echo(f"{dimension:<12}{index:>8.3f}  {'moved much' if index > MUCH else ''}".rstrip())
    due = max(moved.values()) > MUCH
    typer.echo(f"{len(texts)} texts: " + ("a retrain is due" if due else "no retrain is due"))
    if due:
        raise typer.Exit(1)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe, such as configs/train/default.yaml")],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="labelled file, instead of the recipe's; may be repeated. labels:latest adds the label store to either"),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, such as fit.epochs=3; may be repeated")] = None,
    resume: Annotated[bool, typer.Option(help="go on from the last epoch of a killed run")] = False,
    promote: Annotated[bool, typer.Option(help="also set the alias champion")] = False,
    quiet: Annotated[bool, typer.Option(help="no progress bar")] = False,
) -> None:
    """Fine-tune, calibrate, evaluate, export and register a model."""
    need_training()
    from training.config import load_recipe

    files = [path for path in data or () if not str(path).startswith("labels:")]
    loaded = load_recipe(recipe, set_ or [], files)
    if len(files) < len(data or ()):
        from service.settings import load_settings
        from training.snapshot import with_labels

        loaded, snapshot = with_labels(loaded, load_settings().database_url)
        typer.echo(str(snapshot))
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
    need_training()
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
    need_training()
    from training.compare import evaluate_models

    typer.echo(
        evaluate_models(model, [str(path) for path in data], out, text_column, label_column, explained=explain, behaviour=behaviour)
    )
