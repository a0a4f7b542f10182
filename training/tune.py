"""`stancewire tune`: a search over a recipe's values with Optuna, judged on the validation side alone.

Each trial is one fit, an MLflow run below the study's; a trial that falls behind the others' median is cut after an epoch. The
study lives in a database, so a killed search goes on where it stood and several processes may share one; a trial whose process
died is given out again once its heartbeat has stopped. The test side is never looked at: train the recipe this writes for that.
"""

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import optuna
import yaml
from optuna.storages import RDBStorage, RetryFailedTrialCallback
from optuna.trial import TrialState
from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from models.documents import read_yaml
from models.errors import RegistryError, UsageError
from models.registry import reason
from training.base import locate_base, write_tokenizer
from training.config import Recipe, revise
from training.data import data_digest
from training.finetune import fit, focus_rows
from training.pipeline import Say, load_split
from training.split import Split
from training.teachers import with_opinions
from training.tracking import FAULTS, connect, flatten

HEARTBEAT_S = 20
_KEPT_STATES = (TrialState.COMPLETE, TrialState.PRUNED)


class Range(BaseModel):
    """Numbers from `low` to `high`, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant: none of its numbers was written with a point."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))


Space = dict[str, Range | tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Found:
    """The best trial's validation macro-F1 and values, how many trials ended, and the recipe that was written."""

    macro_f1: float
    values: dict[str, Any]
    trials: int
    recipe: Path


def load_space(path: Path, recipe: Recipe) -> Space:
    """Read a search space; UsageError names a key that the recipe lacks or a range that is none."""
    content = read_yaml(path, "search space", "configs/tune/default.yaml")
    space: Space = {}
    for key, value in content.items():
        if key not in flatten(recipe.model_dump(mode="json")):
            raise UsageError(f"{path}: the recipe has no key {key!r}. Write it as in --set, such as fit.learning_rate.")
        if isinstance(value, list) and value:
            space[key] = tuple(value)
            continue
        try:
            found = Range.model_validate(value)
        except ValidationError as error:
            raise UsageError(f"{path}: {key} must be a list of choices or a range such as {{low: 1, high: 3}}.") from error
        if found.low >= found.high or (found.log and (found.low <= 0 or found.step is not None)):
            raise UsageError(f"{path}: {key} needs low < high; with log also low > 0 and no step.")
        space[key] = found
    for which, name in ((0, "lowest or first"), (-1, "highest or last")):
        try:
            revise(recipe, {key: _edge(choice, which) for key, choice in space.items()})
        except UsageError as error:
            raise UsageError(f"{path}: with the {name} values, {error}") from error
    return space


def tune(
    recipe: Recipe, space: Space, out: Path, *, trials: int, study_name: str, storage: str | None, seed: int, quiet: bool, say: Say
) -> Found:
    """Search until `trials` trials of the study have ended, its earlier ones counted, and write the best recipe to `out`."""
    uri = connect()
    members = recipe.fit.members
    recipe = revise(recipe, {"fit.members": 1})  # one fit a trial; the recipe that is written averages again
    split = load_split(recipe, say)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {out} ({error.strerror}). Choose another --out.") from error
    study = _study(study_name, storage or f"sqlite:///{out.resolve()}/study.db", seed)
    fixed = revise(recipe, {key: _edge(choice, 0) for key, choice in space.items()}).digest()
    digest = f"{fixed} {data_digest([*split.train, *split.validation])}"
    if study.user_attrs.get("recipe", digest) != digest:
        raise UsageError(f"the study {study_name!r} was begun with another recipe or other data. Choose another --study.")
    study.set_user_attr("recipe", digest)
    try:
        mlflow.set_experiment(recipe.tracking.experiment)
        parent = _parent(study)
    except FAULTS as error:
        raise RegistryError(f"MLflow at {uri} refused: {reason(error)}.") from error

    def objective(trial: optuna.Trial) -> float:
        values = {key: _suggest(trial, key, choice) for key, choice in space.items()}
        return _trial(trial, revise(recipe, values), values, split, out / f"trial-{trial.number}", parent, quiet=quiet)

    def report(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        value = "cut" if trial.state is TrialState.PRUNED else f"{trial.value or 0:.3f}"
        say(f"trial {trial.number}: {value}  " + ", ".join(f"{key} {_short(item)}" for key, item in trial.params.items()))
        if len(study.get_trials(deepcopy=False, states=_KEPT_STATES)) >= trials:
            study.stop()

    ended = len(study.get_trials(deepcopy=False, states=_KEPT_STATES))
    if ended:
        say(f"study {study_name}: {ended} trials have ended before")
    try:
        if ended < trials:
            study.optimize(objective, callbacks=[report])
    except FAULTS as error:
        raise RegistryError(f"MLflow at {uri} failed: {reason(error)}. The same command goes on with the study.") from error
    try:
        best = study.best_trial
    except ValueError as error:
        raise UsageError(f"no trial of {study_name!r} ran to its end. Ask for more --trials.") from error
    target = out / "best.yaml"
    target.write_text(
        yaml.safe_dump(
            revise(recipe, best.params | {"fit.members": members}).model_dump(mode="json", exclude_defaults=True), sort_keys=False
        ),
        "utf-8",
    )
    for key, weight in _importances(study).items():
        say(f"importance of {key}: {weight:.2f}")
    return Found(float(best.value or 0), dict(best.params), len(study.get_trials(states=_KEPT_STATES)), target)


class _Report(TrainerCallback):  # type: ignore[misc]
    """Tells Optuna and MLflow of each epoch's validation macro-F1, and stops the loop where the trial has fallen behind."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self.pruned = False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Mapping[str, float], **_: Any
    ) -> None:
        epoch = round(state.epoch or 0)
        mlflow.log_metric("eval_macro_f1", metrics["eval_macro_f1"], step=epoch)
        self._trial.report(metrics["eval_macro_f1"], epoch)
        if self._trial.should_prune():
            self.pruned = control.should_training_stop = True


def _trial(
    trial: optuna.Trial, recipe: Recipe, values: Mapping[str, Any], split: Split, folder: Path, parent: str, *, quiet: bool
) -> float:
    base = locate_base(recipe.model.base)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_tokenizer(base, folder / "tokenizer.json")
    watch = _Report(trial)
    tags = {"mlflow.parentRunId": parent, "trial": str(trial.number)}
    try:
        with mlflow.start_run(run_name=f"{recipe.name}-trial-{trial.number}", tags=tags):
            mlflow.log_params(dict(values))
            tokenizer, below = folder / "tokenizer.json", folder / "fit"
            taught = with_opinions(recipe, base, tokenizer, split, below, resume=False, quiet=quiet)
            fitted = fit(recipe, base, tokenizer, taught, below, resume=False, quiet=quiet, callbacks=[watch])
            scores = [entry["eval_macro_f1"] for entry in fitted.history if "eval_macro_f1" in entry]
            best = scores[-1] if focus_rows(split.train, recipe.fit) else max(scores)  # the last epoch of a focus counts
            mlflow.log_metric("validation_macro_f1", best)
            mlflow.set_tag("pruned", str(watch.pruned).lower())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if watch.pruned:
        raise optuna.TrialPruned
    return best


def _study(name: str, storage: str, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    try:
        options = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
        database = RDBStorage(
            storage,
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT_S,
            grace_period=3 * HEARTBEAT_S,
            failed_trial_callback=RetryFailedTrialCallback(),
        )
        return optuna.create_study(
            study_name=name,
            storage=database,
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        )
    except (OperationalError, ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        cause = str(error).splitlines()[0]
        raise UsageError(
            f"the study's database {storage} does not open: {cause}. Give --storage such as sqlite:////path.db."
        ) from error


def _parent(study: optuna.Study) -> str:
    """The study's own MLflow run, the same for every process and every resumed search."""
    known = study.user_attrs.get("mlflow_run")
    if known is not None:
        try:
            mlflow.get_run(known)
            return str(known)
        except mlflow.MlflowException:
            pass  # another tracking server than last time
    with mlflow.start_run(run_name=f"tune {study.study_name}") as run:
        study.set_user_attr("mlflow_run", run.info.run_id)
    return str(run.info.run_id)


def _suggest(trial: optuna.Trial, key: str, choice: Range | tuple[Any, ...]) -> Any:
    if isinstance(choice, tuple):
        return trial.suggest_categorical(key, choice)
    if choice.whole:
        return trial.suggest_int(key, int(choice.low), int(choice.high), step=int(choice.step or 1), log=choice.log)
    return trial.suggest_float(key, choice.low, choice.high, step=choice.step, log=choice.log)


def _edge(choice: Range | tuple[Any, ...], which: int) -> Any:
    if isinstance(choice, tuple):
        return choice[which]
    return choice.low if which == 0 else choice.high


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _importances(study: optuna.Study) -> dict[str, float]:
    try:
        found: dict[str, float] = optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError):  # too few trials, or all alike
        return {}
    return found
