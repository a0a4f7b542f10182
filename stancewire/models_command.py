"""`stancewire models`: look at bundles and at the registry, and say who serves."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from stancewire.training_packages import need_training

models_app = typer.Typer(no_args_is_help=True, help="Look at bundles and the registry, and say who serves.")

_REMEMBERED = 100_000
Name = Annotated[str, typer.Argument(help="name in the registry")]


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


@models_app.command()
def register(
    model: Annotated[str, typer.Argument(help="default, a folder, models:/NAME@ALIAS or models:/NAME/VERSION")],
    name: Annotated[str, typer.Option(help="name in the registry")] = "stance",
) -> None:
    """Put a bundle that was trained elsewhere into the registry, as the challenger."""
    need_training()
    from models.registry import resolve
    from training.tracking import register as run

    typer.echo(f"registered models:/{name}/{run(resolve(model).bundle, name)} as challenger")


@models_app.command("list")
def list_(name: Name = "stance") -> None:
    """The registered versions, newest first, with their aliases and the verdict of the gate."""
    from models.aliases import list_versions, table

    typer.echo(table(list_versions(name)))


@models_app.command()
def history(name: Name = "stance") -> None:
    """Every move of the champion: when, who, from, to, why."""
    from models.aliases import list_moves

    for move in list_moves(name):
        before = move.before or "none"
        why = f"  ({move.why})" if move.why else ""
        typer.echo(f"{move.when[:19]}Z  {move.who}: {move.action} {before} -> {move.after}{why}")


@models_app.command()
def diff(
    before: Annotated[str, typer.Argument(help="default, a folder, models:/NAME@ALIAS or models:/NAME/VERSION")],
    after: Annotated[str, typer.Argument(help="the other model")],
    data: Annotated[
        list[str] | None, typer.Option(help="files, folders, globs or URLs of texts (default: what the label store remembers)")
    ] = None,
    text_column: Annotated[str, typer.Option(help="column of --data that holds the text")] = "text",
    examples: Annotated[int, typer.Option(min=0, help="changed answers to show")] = 10,
) -> None:
    """How many answers would change from one model to another, from which label to which, and some of them."""
    from models.classifier import Classifier
    from models.registry import resolve

    texts = list(dict.fromkeys(_texts(data, text_column)))
    found = []
    for name in (before, after):
        with Classifier(resolve(name).bundle) as classifier:
            found.append(classifier.classify(texts))
    moved = [(text, old, new) for text, old, new in zip(texts, *found, strict=True) if old.label != new.label]
    typer.echo(f"{len(moved)} of {len(texts)} past answers would change")
    for (old_label, new_label), count in Counter((old.label, new.label) for _, old, new in moved).most_common():
        typer.echo(f"{old_label} -> {new_label}: {count}")
    for text, old, new in moved[:examples]:
        typer.echo(f"  {old.label} -> {new.label}  {text}")


def _texts(data: list[str] | None, text_column: str) -> Iterator[str]:
    if data:
        from service.batch.texts import usable_texts

        yield from usable_texts(data, text_column)
        return
    from models.label_store import LabelStore
    from service.settings import load_settings

    store = LabelStore(load_settings().database_url)
    yield from (label.sentence for label in store.read())
    yield from (seen.sentence for seen in store.unsure("", _REMEMBERED))
    store.close()


@models_app.command()
def gate(
    name: Name = "stance",
    version: Annotated[int | None, typer.Option(help="version to judge (default: the challenger)")] = None,
    rules: Annotated[Path | None, typer.Option(help="YAML file of the limits (default: configs/gate.yaml, where it is)")] = None,
    data: Annotated[list[Path] | None, typer.Option(help="labelled file to compare on too; may be repeated")] = None,
    text_column: Annotated[str, typer.Option(help="column of --data that holds the text")] = "text",
    label_column: Annotated[str, typer.Option(help="column of --data that holds the label")] = "label",
) -> None:
    """Compare a challenger with the champion; the verdict goes to its version, exit code 1 where it fails."""
    need_training()
    from training.gate import load_rules, run_gate

    verdict = run_gate(name, version, load_rules(rules), [str(path) for path in data or ()], text_column, label_column, typer.echo)
    typer.echo(verdict.table())
    if not verdict.passed:
        raise typer.Exit(1)


@models_app.command()
def promote(
    name: Name = "stance",
    version: Annotated[int | None, typer.Option(help="version to promote (default: the challenger)")] = None,
    force: Annotated[bool, typer.Option("--force", help="without a passed gate; needs --reason")] = False,
    reason: Annotated[str, typer.Option(help="why, for the record")] = "",
) -> None:
    """Make a version the champion, and the champion `previous`; services that follow the alias take it over."""
    from models.aliases import promote as run

    move = run(name, version, force=force, why=reason)
    typer.echo(f"models:/{name}@champion is version {move.after} now (before: {move.before or 'none'})")


@models_app.command()
def rollback(name: Name = "stance", reason: Annotated[str, typer.Option(help="why, for the record")] = "") -> None:
    """Make the previous champion the champion again."""
    from models.aliases import rollback as run

    move = run(name, reason)
    typer.echo(f"models:/{name}@champion is version {move.after} again (before: {move.before or 'none'})")
