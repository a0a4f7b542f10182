"""Train, validation and test: grouped, stratified, written down by id, and audited.

Rows of one contrast pair, and rows that nearly repeat each other, always share a side; otherwise a test row would have been
learnt by heart.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from models.errors import DataError
from training.audit import clusters, conflicts, near_duplicates, normal_key
from training.config import DataRecipe, SplitRecipe
from training.data import Example

SIDES = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Split:
    """The three sides; `added` are those rows of the train side that were to train only. `dropped` rows were left out: they
    repeat a row that is measured on, their text has two labels, a row to train only took their place, or the split's file does
    not name them."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    dropped: tuple[Example, ...] = ()
    added: tuple[Example, ...] = ()

    def sides(self) -> dict[str, tuple[Example, ...]]:
        """The sides by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def write(self, path: Path) -> None:
        """Write the ids of each side as JSON, and of the train side those that were to train only (`train_only`)."""
        content = {side: [example.id for example in rows] for side, rows in self.sides().items()}
        content |= {"train_only": [row.id for row in self.added], "dropped": [row.id for row in self.dropped]}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def families(examples: Sequence[Example], near_duplicate: float) -> list[int]:
    """A number for each example, the same for those that must share a side."""
    pairs = [(a, b) for a, b, _ in near_duplicates([example.text for example in examples], near_duplicate)]
    first: dict[str, int] = {}
    for position, example in enumerate(examples):
        if example.group is not None:
            pairs.append((first.setdefault(example.group, position), position))
    return clusters(len(examples), pairs)


def make_split(
    examples: Sequence[Example],
    tests: Sequence[Example],
    data: DataRecipe,
    recipe: SplitRecipe,
    train_only: Sequence[Example] = (),
    measured: Sequence[Example] = (),
) -> Split:
    """Split `examples`; where `tests` is given it is the test side and only validation is taken out of `examples`.

    `train_only` rows join the train side, but for those that repeat a row of another side: these are left out. Where one has the
    words of a row of the train side it takes that row's place, whatever its label. No row that repeats one of `measured` is
    learnt or calibrated on, unless `data.on_leak` is `keep`.
    """
    _refuse_same_ids([*examples, *tests, *train_only])
    contested = [*_contested(examples, tests, data), *_contested(train_only, (), data)]
    examples, train_only = ([example for example in rows if example not in contested] for rows in (examples, train_only))
    measured = () if data.on_leak == "keep" else measured
    everything = [*examples, *tests]
    family = families([*everything, *measured], data.near_duplicate)
    if recipe.file is not None:
        split = _from_file(everything, recipe.file)
    elif tests:
        split = _with_tests(examples, tests, family, data, recipe)
    else:
        rest, test = _take(list(range(len(examples))), examples, family, recipe.test, recipe.seed)
        train, validation = _take(rest, examples, family, recipe.validation / (1 - recipe.test), recipe.seed)
        split = Split(*(tuple(examples[i] for i in side) for side in (train, validation, test)))
    home = dict(zip((example.id for example in everything), family, strict=False))
    audit_split(split, home, keep=bool(tests) and data.on_leak == "keep")
    split = _without(split, home, set(family[len(everything) :]))
    split = replace(split, dropped=(*contested, *split.dropped))
    return _with_train_only(split, train_only, measured, data)


def audit_split(split: Split, family: dict[str, int], *, keep: bool = False) -> None:
    """DataError naming the rows where a family straddles two sides, or where a side lacks a label; `keep` allows
    repeats of test rows."""
    homes: dict[int, dict[str, Example]] = defaultdict(dict)
    for side, rows in split.sides().items():
        if keep and side == "test":
            continue
        for example in rows:
            homes[family[example.id]].setdefault(side, example)
    leaks = [
        " and ".join(f"{example.id} ({side}, {example.where})" for side, example in home.items())
        for home in homes.values()
        if len(home) > 1
    ]
    if leaks:
        raise DataError(
            "rows of one pair, or near duplicates, stand on two sides of the split. Remove one of each, or set data.on_leak=drop "
            "to leave out the training rows:",
            leaks,
        )
    labels = {example.label for rows in split.sides().values() for example in rows}
    for side, rows in split.sides().items():
        if missing := sorted(labels - {example.label for example in rows}):
            raise DataError(f"the {side} side has no row labelled {missing[0]}. Add rows of that label from unrelated texts.")


def _with_tests(
    examples: Sequence[Example], tests: Sequence[Example], family: list[int], data: DataRecipe, recipe: SplitRecipe
) -> Split:
    tested = set(family[len(examples) :])
    leaking = [i for i in range(len(examples)) if family[i] in tested]
    if leaking and data.on_leak == "refuse":
        rows = [f"{examples[i].id} ({examples[i].where})" for i in leaking]
        raise DataError(
            f"{len(rows)} training rows repeat a test row. Remove them, or set data.on_leak=drop to leave them out:", rows
        )
    if data.on_leak == "keep":
        leaking = []
    left_out = set(leaking)
    kept = [i for i in range(len(examples)) if i not in left_out]
    train, validation = _take(kept, examples, family, recipe.validation, recipe.seed)
    return Split(
        tuple(examples[i] for i in train),
        tuple(examples[i] for i in validation),
        tuple(tests),
        tuple(examples[i] for i in leaking),
    )


def _without(split: Split, home: dict[str, int], measured: set[int]) -> Split:
    """`split` without the rows that would be learnt or calibrated on and belong to a family of `measured`."""
    leaking = [row for row in (*split.train, *split.validation) if home[row.id] in measured]
    train, validation = (tuple(row for row in rows if home[row.id] not in measured) for rows in (split.train, split.validation))
    return replace(split, train=train, validation=validation, dropped=(*split.dropped, *leaking))


def _with_train_only(split: Split, train_only: Sequence[Example], measured: Sequence[Example], data: DataRecipe) -> Split:
    held = (*split.validation, *split.test, *measured)
    family = families([*held, *train_only], data.near_duplicate)
    taken = set(family[: len(held)])
    leaking = [position in taken for position in family[len(held) :]]
    learnt = tuple(example for example, leaks in zip(train_only, leaking, strict=True) if not leaks)
    left_out = [example for example, leaks in zip(train_only, leaking, strict=True) if leaks]
    keys = {key for example in learnt if (key := normal_key(example.text))}
    left_out += [row for row in split.train if normal_key(row.text) in keys]
    kept = tuple(row for row in split.train if normal_key(row.text) not in keys)
    return replace(split, train=(*kept, *learnt), dropped=(*split.dropped, *left_out), added=learnt)


def _take(
    positions: list[int], examples: Sequence[Example], family: list[int], share: float, seed: int
) -> tuple[list[int], list[int]]:
    labels = [examples[i].label for i in positions]
    groups = [family[i] for i in positions]
    folds = max(2, round(1 / share))
    if min(Counter(labels).values()) < folds or len(set(groups)) < folds:
        raise DataError(
            f"there are too few unrelated rows to hold out {share:.0%} of each label. Add rows, or set split.validation and "
            "split.test higher (0.2)."
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    kept, taken = next(iter(splitter.split(np.zeros(len(positions)), labels, groups)))
    return [positions[i] for i in kept], [positions[i] for i in taken]


def _refuse_same_ids(examples: Sequence[Example]) -> None:
    seen: dict[str, Example] = {}
    problems = []
    for example in examples:
        if example.id in seen:
            problems.append(f"{example.where}: the id {example.id!r} already stands at {seen[example.id].where}")
        seen[example.id] = example
    if problems:
        raise DataError("ids must be unique. Give each row its own, or set data.id_column=null:", problems)


def _contested(examples: Sequence[Example], tests: Sequence[Example], data: DataRecipe) -> list[Example]:
    """Rows of `examples` whose text also stands with another label; DataError where the recipe does not leave them out."""
    everything = [*examples, *tests]
    found = conflicts([example.text for example in everything], [example.label for example in everything])
    if found and data.on_conflict == "refuse":
        rows = [
            f"{everything[a].where} ({everything[a].label}) and {everything[b].where} ({everything[b].label})" for a, b in found
        ]
        raise DataError(
            "the same text stands with two labels. Decide for one, or set data.on_conflict=drop to leave out such training rows:",
            rows,
        )
    return [examples[i] for i in sorted({i for pair in found for i in pair if i < len(examples)})]


def _from_file(examples: Sequence[Example], path: Path) -> Split:
    try:
        content = json.loads(path.read_text("utf-8"))
        added = set(content.get("train_only", ()))  # which are chosen anew
        wanted = {side: [key for key in content[side] if key not in added] for side in SIDES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a split: it must be JSON with lists of ids under train, validation and test.") from error
    known = {example.id: example for example in examples}
    if absent := [str(key) for ids in wanted.values() for key in ids if key not in known]:
        raise DataError(f"{path} names {len(absent)} ids that the data lacks:", absent)
    named = {key for ids in wanted.values() for key in ids}
    unnamed = tuple(example for example in examples if example.id not in named)
    train, validation, test = (tuple(known[key] for key in wanted[side]) for side in SIDES)
    return Split(train, validation, test, unnamed)
