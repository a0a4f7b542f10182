"""Labelled files to examples, through `datasets`: CSV, TSV, JSONL, Parquet or a folder written by `Dataset.save_to_disk`."""

import glob
import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError
from datasets.utils import disable_progress_bars

from models.errors import DataError
from models.schema import LabelSet
from models.text import has_surrogate, normalise
from training.agreement import ANNOTATORS
from training.config import DataRecipe

_KINDS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
MIN_ROWS_A_LABEL = 8


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled sentence; `where` is its file and row (1 is the first), `slices` its values by slice column; `votes` what each
    of its annotators said, where the file has their labels (`label_a`, `label_b`, `label_c`); `opinion` is the probability of
    each label by a model that has not learnt it, where there is one."""

    id: str
    text: str
    label: str
    group: str | None
    slices: dict[str, tuple[str, ...]]
    where: str
    votes: tuple[str, ...] = ()
    opinion: tuple[float, ...] = ()

    @property
    def contested(self) -> bool:
        """Whether its annotators differ."""
        return len(set(self.votes)) > 1


def load_examples(patterns: Sequence[str], recipe: DataRecipe, labels: LabelSet) -> list[Example]:
    """Read every file that `patterns` name; DataError lists all rows that cannot be used."""
    examples: list[Example] = []
    problems: list[str] = []
    for path in _expand(patterns):
        _read(path, recipe, labels, examples, problems)
    if problems:
        raise DataError(f"{len(problems)} rows cannot be used. Mend them (`stancewire labels check` lists more):", problems)
    return examples


def require_enough(examples: Sequence[Example], labels: LabelSet) -> None:
    """DataError where some label has too few rows to train, validate and test on."""
    counts = Counter(example.label for example in examples)
    short = [f"{label}: {counts[label]} rows" for label in labels.labels if counts[label] < MIN_ROWS_A_LABEL]
    if short:
        raise DataError(
            f"each label needs at least {MIN_ROWS_A_LABEL} rows to be trained and tested on. Add rows, or set labels.labels "
            "to the labels that the data has:",
            short,
        )


def data_digest(examples: Iterable[Example]) -> str:
    """SHA-256 over every text and label, whatever their order."""
    lines = sorted(f"{example.label}\t{normalise(example.text)}" for example in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_votes(row: Mapping[str, object], labels: LabelSet) -> tuple[str, ...]:
    """The annotators' labels that `row` carries and `labels` knows."""
    return tuple(str(row[column]) for column in ANNOTATORS if row.get(column) in labels.labels)


def _expand(patterns: Sequence[str]) -> list[Path]:
    if not patterns:
        raise DataError("no data was named. Give --data FILE, or data.files in the recipe.")
    paths: list[Path] = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not found:
            raise DataError(f"there is no file {pattern}. Check the path (it is read from the current folder).")
        paths += [Path(name) for name in found]
    return paths


def _load(path: Path) -> Dataset:
    disable_progress_bars()
    try:
        if path.is_dir():
            loaded = load_from_disk(str(path))
            if isinstance(loaded, DatasetDict):
                raise DataError(f"{path} holds several splits ({', '.join(loaded)}). Name the folder of one of them.")
            return loaded
        kind = _KINDS.get(path.suffix.lower())
        if kind is None:
            raise DataError(f"{path} is of no known kind. Use {', '.join(sorted(_KINDS))} or a Hugging Face dataset folder.")
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty. Give a file with rows.")
        options: dict[str, object] = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
        if kind == "csv":
            options |= {"keep_default_na": False}
        with tempfile.TemporaryDirectory(prefix="stancewire-datasets-") as cache:
            dataset = load_dataset(kind, data_files=str(path), split="train", cache_dir=cache, keep_in_memory=True, **options)
            return Dataset.from_list(dataset.to_list(), features=dataset.features)
    except DatasetGenerationError as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise DataError(f"{path} cannot be read: {cause}. Save it as UTF-8 {path.suffix.lstrip('.').upper()}.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error


def _read(path: Path, recipe: DataRecipe, labels: LabelSet, examples: list[Example], problems: list[str]) -> None:
    dataset = _load(path)
    columns = dataset.column_names
    for option, name in (("text_column", recipe.text_column), ("label_column", recipe.label_column)):
        if name not in columns:
            raise DataError(f"{path} has no column {name!r}; it has {', '.join(columns)}. Set data.{option} to one of them.")
    for number, row in enumerate(dataset, start=1):
        where = f"{path}:{number}"
        text, label = row[recipe.text_column], row[recipe.label_column]
        if not isinstance(text, str) or not normalise(text):
            problems.append(f"{where}: the text is empty or not text")
        elif has_surrogate(text):
            problems.append(f"{where}: the text holds a lone surrogate; save the file as UTF-8")
        elif label not in labels.labels:
            problems.append(f"{where}: unknown label {label!r}; the recipe knows {', '.join(labels.labels)}")
        else:
            key = row.get(recipe.id_column) if recipe.id_column else None
            group = next((row[name] for name in recipe.group_columns() if row.get(name) not in (None, "")), None)
            slices = {name: _values(row[name]) for name in recipe.slice_columns if name in columns}
            identity = str(key) if key not in (None, "") else f"{path.name}:{number}"
            votes = read_votes(row, labels)
            examples.append(Example(identity, text, label, str(group) if group else None, slices, where, votes))


def _values(value: object) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, list | tuple):
        return tuple(str(item) for item in value)
    return (str(value),)
