"""Predictions as columns, and what they add up to."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from models.bundle import Bundle
from models.schema import Prediction
from service.batch.job import Counts

SHOWN_ID = 12
_SLICE_CHARACTERS = 60


def prefixes(models: int) -> list[str]:
    """What the columns of each model begin with: `stance_`, or `stance_1_`, `stance_2_` … where there are several."""
    return ["stance_"] if models == 1 else [f"stance_{number + 1}_" for number in range(models)]


def result_schema(bundles: Sequence[Bundle]) -> Any:
    """The result columns: of each model label, score, confident, a probability a label, truncated and id; one error for all, and
    with two models whether they differ in the label."""
    fields: list[tuple[str, Any]] = []
    tail: list[tuple[str, Any]] = []
    for prefix, bundle in zip(prefixes(len(bundles)), bundles, strict=True):
        fields += [(f"{prefix}label", pa.string()), (f"{prefix}score", pa.float64()), (f"{prefix}confident", pa.bool_())]
        fields += [(f"{prefix}p_{label}", pa.float64()) for label in bundle.manifest.label_set.labels]
        fields += [(f"{prefix}truncated", pa.bool_())]
        tail += [(f"{prefix}model", pa.string())]
    changed = [("stance_changed", pa.bool_())] if len(bundles) == 2 else []
    return pa.schema([*fields, *changed, ("stance_error", pa.string()), *tail])


def result_table(
    schema: Any, bundles: Sequence[Bundle], predictions: Sequence[Sequence[Prediction | None]], faults: Sequence[str | None]
) -> Any:
    """The predictions of some rows, by model, as a table of `schema`; rows with a fault have nothing but it and the model."""
    columns: dict[str, Any] = {"stance_error": list(faults)}
    for prefix, bundle, rows in zip(prefixes(len(bundles)), bundles, predictions, strict=True):
        for name in ("label", "score", "confident", "truncated"):
            columns[prefix + name] = [None if row is None else getattr(row, name) for row in rows]
        for label in bundle.manifest.label_set.labels:
            columns[f"{prefix}p_{label}"] = [None if row is None else row.probabilities[label] for row in rows]
        columns[f"{prefix}model"] = [bundle.id[:SHOWN_ID]] * len(rows)
    if len(predictions) == 2:
        pairs = zip(*predictions, strict=True)
        columns["stance_changed"] = [None if a is None or b is None else a.label != b.label for a, b in pairs]
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def count(
    predictions: Sequence[Sequence[Prediction | None]], faults: Sequence[str | None], slices: Mapping[str, Sequence[Any]]
) -> Counts:
    """What some rows add up to; with two models, from which label to which the rows went, in all and by each value of `slices`."""
    counts = Counts(
        len(faults),
        [Counter(row.label for row in rows if row is not None) for rows in predictions],
        [sum(row is not None and not row.confident for row in rows) for rows in predictions],
        Counter(fault for fault in faults if fault is not None),
    )
    if len(predictions) == 2:
        for place, (before, after) in enumerate(zip(*predictions, strict=True)):
            if before is not None and after is not None:
                for slice_ in ("", *(f"{_shown(name)}={_shown(values[place])}" for name, values in slices.items())):
                    counts.moves["\t".join((slice_, before.label, after.label))] += 1
    return counts


def _shown(value: Any) -> str:
    """`value` as it can stand in a cell of the report."""
    plain = " ".join(str(value).split())[:_SLICE_CHARACTERS].replace("|", "/")
    return plain.encode("utf-8", "backslashreplace").decode()


def report_moves(moves: Counter[str], names: Sequence[str]) -> str:
    """Markdown: how many rows two models label alike, from which label to which the others went, and the same by slice."""
    table: dict[str, Counter[tuple[str, str]]] = {}
    for key, number in moves.items():
        slice_, before, after = key.split("\t")
        table.setdefault(slice_, Counter())[before, after] += number
    whole = table.pop("", Counter())
    said = f"{_changed(whole)} have another label: those where `stance_changed` is true."
    lines = [f"# Model {names[0]} beside {names[1]}", "", said, ""]
    lines += [f"| {names[0]} | {names[1]} | rows |", "|---|---|---|"]
    lines += [f"| {before} | {after} | {number} |" for (before, after), number in whole.most_common()]
    if table:
        lines += ["", "| slice | rows | another label |", "|---|---|---|"]
        ordered = sorted(table.items(), key=lambda item: (-item[1].total(), item[0]))
        lines += [f"| {slice_} | {rows.total()} | {_share(rows):.1%} |" for slice_, rows in ordered]
    return "\n".join(lines) + "\n"


def _changed(rows: Counter[tuple[str, str]]) -> str:
    return f"{sum(n for (a, b), n in rows.items() if a != b)} of {rows.total()} rows ({_share(rows):.1%})"


def _share(rows: Counter[tuple[str, str]]) -> float:
    return sum(n for (a, b), n in rows.items() if a != b) / max(1, rows.total())
