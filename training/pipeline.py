"""One training from recipe to registered bundle, in the order a reader would expect.

Started by `torchrun`, every process fits; the first alone calibrates, exports, evaluates and logs.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from models.bundle import Bundle, EngineEntry, Manifest, save_bundle
from models.calibration import softmax
from models.classifier import Classifier
from models.encoding import Encoded, Encoder
from models.engine import Engine
from models.engine_onnx import OnnxEngine
from models.errors import UsageError
from models.schema import FloatArray
from training.base import base_digest, locate_base, write_tokenizer
from training.behaviour import Suite, load_suite, run_suite, unknown_labels
from training.briefings import load_briefings
from training.calibrate import choose_threshold, fit_calibration
from training.config import Recipe
from training.data import Example, data_digest, load_examples, require_enough
from training.evaluate import Evaluation, evaluate
from training.export import export_engine
from training.finetune import Fitted, fit, focus_rows
from training.frozen_rows import FILE, FURTHER, write_rows
from training.report import draw_evaluation, draw_losses, model_card
from training.split import Split, make_split
from training.static_int8 import SCALE_ROWS
from training.teachers import with_opinions
from training.tracking import Registered, connect, log_training

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training leaves: its bundle, the evaluation on the test side, its place in MLflow, and the loop's log."""

    bundle: Bundle
    evaluation: Evaluation
    registered: Registered
    history: tuple[dict[str, float], ...]


def train(recipe: Recipe, *, resume: bool = False, promote: bool = False, quiet: bool = False, say: Say = print) -> Trained | None:
    """Run `recipe`; None in the processes of a `torchrun` that are not the first."""
    first = int(os.environ.get("RANK", "0")) == 0
    if first:
        connect()  # before the work, not after it
    tell: Say = say if first else lambda _: None
    suite = _suite(recipe, tell)
    further = {name: load_examples([file], recipe.data, recipe.labels) for name, file in recipe.data.further_tests.items()}
    split = load_split(recipe, tell, [row for rows in further.values() for row in rows])
    base = locate_base(recipe.model.base)
    _prepare_out(recipe, resume=resume, first=first)
    tokenizer = recipe.out / f"tokenizer-{os.environ.get('RANK', '0')}.json"
    write_tokenizer(base, tokenizer)
    if first:
        split.write(recipe.out / "split.json")
    checkpoints, hushed = recipe.out / "checkpoints", quiet or not first
    taught = with_opinions(recipe, base, tokenizer, split, checkpoints, resume=resume, quiet=hushed)
    fitted = fit(recipe, base, tokenizer, taught, checkpoints, resume=resume, quiet=hushed)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    if not first:
        tokenizer.unlink()
        return None
    bundle, evaluation = _build(recipe, base, tokenizer, split, fitted, further, suite, say)
    tokenizer.unlink()
    artifacts = recipe.out / "report"
    draw_evaluation(evaluation, recipe.labels.labels, artifacts)
    draw_losses(fitted.history, artifacts / "losses.png")
    (artifacts / "evaluation.json").write_text(json.dumps(asdict(evaluation.scores), indent=1) + "\n", "utf-8")
    shutil.copyfile(recipe.out / "split.json", artifacts / "split.json")
    write_rows({**split.sides(), **{FURTHER + name: rows for name, rows in further.items()}}, artifacts / FILE)
    shutil.copyfile(recipe.out / "recipe.yaml", artifacts / "recipe.yaml")
    metrics = {f"test_{name}": value for name, value in bundle.manifest.metrics["test"].items()}
    metrics |= {f"validation_{name}": value for name, value in bundle.manifest.metrics["validation"].items()}
    metrics |= {f"slice_{name.replace('=', '_')}_macro_f1": s["macro_f1"] for name, s in evaluation.scores.slices.items()}
    for name in further:
        metrics |= {f"further_{name}_{key}": value for key, value in bundle.manifest.metrics[f"further_{name}"].items()}
    metrics |= {f"behaviour_{name}": value for name, value in bundle.manifest.metrics.get("behaviour", {}).items()}
    metrics |= {f"export_{name}": value for name, value in bundle.manifest.metrics["export"].items()}
    registered = log_training(recipe, bundle, split.sides(), fitted.history, metrics, artifacts, promote=promote)
    shutil.rmtree(recipe.out / "checkpoints", ignore_errors=True)
    return Trained(bundle, evaluation, registered, fitted.history)


def load_split(recipe: Recipe, say: Say, measured: Sequence[Example] = ()) -> Split:
    """Read the recipe's rows, and the briefing sentences where it names their place, and divide them into the three sides; no row
    that repeats one of `measured` is learnt."""
    examples = load_examples(recipe.data.files, recipe.data, recipe.labels)
    if recipe.data.briefings is not None:
        briefings = load_briefings(recipe.data.briefings, recipe.labels)
        examples += briefings.examples
        for repository in sorted(briefings.found | briefings.missing):
            found, missing = briefings.found[repository], briefings.missing[repository]
            say(f"real sentences of {repository}: {found} with their text, {missing} not found")
    tests = load_examples(recipe.data.test_files, recipe.data, recipe.labels) if recipe.data.test_files else []
    train_only = load_examples(recipe.data.train_only, recipe.data, recipe.labels) if recipe.data.train_only else []
    require_enough(examples, recipe.labels)
    split = make_split(examples, tests, recipe.data, recipe.split, train_only, measured)
    sizes = ", ".join(f"{side} {len(rows)}" for side, rows in split.sides().items())
    if recipe.fit.focus.rows is not None and not focus_rows(split.train, recipe.fit):
        say(f"fit.focus: no row of {recipe.fit.focus.rows}, so there is no second fit")
    say(f"rows: {sizes}" + (f", left out {len(split.dropped)} (see split.json)" if split.dropped else ""))
    return split


def _build(
    recipe: Recipe,
    base: Path,
    tokenizer: Path,
    split: Split,
    fitted: Fitted,
    further: Mapping[str, Sequence[Example]],
    suite: Suite | None,
    say: Say,
) -> tuple[Bundle, Evaluation]:
    """Export, calibrate on validation through the engine that serves, evaluate on test and `further` rows, and write the bundle."""
    scratch = recipe.out / "export"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    encoder = Encoder(tokenizer, recipe.model.max_tokens)
    rows = encoder.encode([example.text for example in split.test])
    spread = split.train[:: max(1, len(split.train) // SCALE_ROWS)][:SCALE_ROWS]
    parity = export_engine(
        fitted.network,
        scratch,
        recipe.model.max_tokens,
        recipe.export.precision,
        rows,
        recipe.export.min_agreement,
        encoder.encode([example.text for example in spread]),
    )
    say(
        f"export: {recipe.export.precision}, same label as torch on {parity.agreement:.2%} of {len(rows)} test rows, "
        f"greatest change of a probability {parity.max_change:.4f} (float32 graph {parity.fp32_max_change:.1e})"
    )
    engine = OnnxEngine(scratch / "model.onnx")
    logits = _logits(engine, encoder.encode([example.text for example in split.validation]))
    truth = np.array([recipe.labels.index(example.label) for example in split.validation], dtype=np.int64)
    prior = [recipe.calibration.prior[label] for label in recipe.labels.labels] if recipe.calibration.prior else []
    fitting = fit_calibration(logits, truth, bias=recipe.calibration.bias, prior=prior)
    probabilities = softmax(logits, fitting.temperature, fitting.bias)
    threshold = choose_threshold(probabilities, truth, recipe.calibration.target_accuracy)
    manifest = Manifest(
        name=recipe.name,
        version=recipe.version,
        label_set=recipe.labels,
        base_model=recipe.model.base,
        base_sha256=base_digest(base),
        pooling=recipe.model.pooling,
        max_tokens=recipe.model.max_tokens,
        temperature=fitting.temperature,
        bias=fitting.bias,
        confidence_threshold=threshold,
        training_data_sha256=data_digest([*split.train, *split.validation, *split.test]),
        git_commit=_git_commit(),
        engine=EngineEntry(precision=recipe.export.precision),
    )

    def write(folder: Path) -> None:
        shutil.copyfile(scratch / "model.onnx", folder / "model.onnx")
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
        fitted.network.save(folder)

    with Classifier(save_bundle(scratch / "draft", manifest, write)) as classifier:
        evaluation = evaluate(classifier, split.test)
        others = {name: evaluate(classifier, rows) for name, rows in further.items()}
        behaviour = run_suite(classifier, suite) if suite is not None else None
        validated = evaluate(classifier, split.validation)
    metrics = {"test": evaluation.scores.flat(), "validation": validated.scores.flat(), "export": parity.flat()}
    metrics |= {f"further_{name}": other.scores.flat() for name, other in others.items()}
    if behaviour is not None:
        say(behaviour.table())
        metrics["behaviour"] = {name: round(share, 6) for name, share in behaviour.shares().items()}
    full = manifest.model_copy(update={"metrics": metrics, "reference": evaluation.reference})
    card = model_card(
        full, evaluation, {side: len(examples) for side, examples in split.sides().items()}, others, behaviour, recipe.data.note
    )

    def write_all(folder: Path) -> None:
        write(folder)
        (folder / "MODEL_CARD.md").write_text(card, "utf-8")

    bundle = save_bundle(recipe.out / "bundle", full, write_all)
    shutil.rmtree(scratch)
    return bundle, evaluation


def _suite(recipe: Recipe, say: Say) -> Suite | None:
    """The recipe's behaviour suite; None where it was written for other labels, as when a user brings a table of their own."""
    suite = load_suite(recipe.behaviour) if recipe.behaviour is not None else None
    if suite is not None and (unknown := unknown_labels(suite, recipe.labels.labels)):
        say(f"behaviour suite {recipe.behaviour} left out: it names {unknown[0]}, which is not a label of this recipe")
        return None
    return suite


def _logits(engine: Engine, rows: list[Encoded]) -> FloatArray:
    return np.concatenate([engine.run([row.ids]) for row in rows])


def _prepare_out(recipe: Recipe, *, resume: bool, first: bool) -> None:
    """Make the output folder; a resumed run must fit what it was started with."""
    note = recipe.out / "recipe.yaml"
    checkpoints = recipe.out / "checkpoints"
    try:
        recipe.out.mkdir(parents=True, exist_ok=True)
        if resume and checkpoints.is_dir() and first:
            before = Recipe.model_validate(yaml.safe_load(note.read_text("utf-8")))
            if before.fit_digest() != recipe.fit_digest():
                raise UsageError(
                    f"{recipe.out} was begun with another recipe: only name, version, behaviour, calibration.*, export.* and "
                    "tracking.* may change on the way. Train without --resume, or set another out."
                )
        elif first:
            shutil.rmtree(checkpoints, ignore_errors=True)
        if first:
            note.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write to {recipe.out} ({error.strerror}). Set out to a folder you may write to.") from error


def _git_commit() -> str | None:
    folder = Path(__file__).parent
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
