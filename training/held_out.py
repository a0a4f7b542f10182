"""Rows that a challenger may be judged on: what it and the champion learnt is known from their runs, and never measured on."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from models.errors import UsageError
from models.registry import Source
from training.audit import repeats
from training.config import Recipe
from training.data import Example, data_digest
from training.frozen_rows import FILE, FURTHER, read_rows
from training.split import SIDES


@dataclass(frozen=True, slots=True)
class Rows:
    """What a version was trained with: its test side, what it learnt or was calibrated on, and its further tests; `overlap` is what
    its recipe takes for a near duplicate."""

    test: list[Example]
    learnt: list[Example]
    further: dict[str, list[Example]]
    overlap: float


def choose_tests(
    name: str,
    challenger: Source,
    champion: Source | None,
    known: dict[str, Rows | None],
    given: dict[str, list[Example]],
    say: Callable[[str], object],
) -> dict[str, list[Example]]:
    """The rows to judge on, by what they are; none that the challenger learnt, and beside the frozen side none that the champion
    did."""
    own = known[challenger.version]
    if own is None:
        raise UsageError(
            f"version {challenger.version} of {name} has no run that keeps its rows, so what it learnt is not known. Register by "
            "`stancewire train`, or promote it with --force and a --reason."
        )
    tests: dict[str, list[Example]] = {}
    learnt = own.learnt
    if champion is None:
        tests["its own test side"] = own.test
    elif (its := known[champion.version]) is not None:
        tests["the champion's test side"] = its.test
        if leaked := _repeats(its.test, own.learnt, own.overlap):
            raise UsageError(
                f"version {challenger.version} learnt {len(leaked)} rows of the champion's test side, or near repeats "
                f"({leaked[0].id}): a comparison on them would be untrue. Train it with the champion's split, the "
                "split.json of its run (--set split.file=...)."
            )
        learnt = [*learnt, *its.learnt]
    else:
        say(
            f"champion {champion.version} has no run that keeps its rows: its test side is not known, it may have learnt the others"
        )
    for where, rows in (own.further | given).items():
        gone = {id(row) for row in _repeats(rows, learnt, own.overlap)}
        if gone:
            say(f"{len(gone)} of {len(rows)} rows of {where} left out: one of the models learnt them, or near repeats")
        tests[where] = [row for row in rows if id(row) not in gone]
    tests = {where: rows for where, rows in tests.items() if rows}
    if not tests:
        raise UsageError("there are no rows to judge on. Give a labelled file that neither model learnt with --data.")
    return tests


def _repeats(rows: Sequence[Example], learnt: Sequence[Example], overlap: float) -> list[Example]:
    """Those of `rows` that are, or nearly are, among `learnt`."""
    flags = repeats([row.text for row in rows], [row.text for row in learnt], overlap)
    return [row for row, flag in zip(rows, flags, strict=True) if flag]


def rows_of(client: Any, name: str, source: Source) -> Rows | None:
    """The rows of a version, as its run keeps them; None where it has no run that does. UsageError where they are not those of its
    bundle."""
    run_id = client.get_model_version(name, source.version).run_id
    if not run_id or FILE not in {artifact.path for artifact in client.list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        recipe, rows = (Path(client.download_artifacts(run_id, file, scratch)) for file in ("recipe.yaml", FILE))
        overlap = Recipe.model_validate(yaml.safe_load(recipe.read_text("utf-8"))).data.near_duplicate
        kept = read_rows(rows)
    sides = {side: kept.pop(side, []) for side in SIDES}
    if data_digest([row for rows in sides.values() for row in rows]) != source.bundle.manifest.training_data_sha256:
        said = f"{FILE} in the run of version {source.version} of {name} has other rows than it was trained with."
        raise UsageError(f"{said} Train it again.")
    further = {purpose.removeprefix(FURTHER): rows for purpose, rows in kept.items()}
    return Rows(sides["test"], [*sides["train"], *sides["validation"]], further, overlap)
