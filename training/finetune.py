"""Fine-tuning with transformers' Trainer: the same recipe on one process or several, twice the same weights from the same seed.

Batches hold sentences of like length and are padded to their longest. The loop stops early on validation macro-F1 and ends with
the best epoch's weights. A killed run goes on from its last epoch.
"""

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from models.encoding import Encoder
from models.engine import pad
from models.engine_torch import StanceNetwork
from models.errors import UsageError
from training.augment import with_swapped_names, with_typos
from training.config import FitRecipe, Recipe
from training.data import Example
from training.metrics import macro_f1
from training.objective import StanceTrainer, row_weight, target
from training.split import Split


@dataclass(frozen=True, slots=True)
class Fitted:
    """The network, the best epoch's or the mean of several fits' best, and the loop's log, one entry for each logged step."""

    network: StanceNetwork
    history: tuple[dict[str, float], ...]


def fit(
    recipe: Recipe,
    base: Path,
    tokenizer: Path,
    split: Split,
    checkpoints: Path,
    *,
    resume: bool,
    quiet: bool,
    callbacks: Sequence[TrainerCallback] = (),
) -> Fitted:
    """Fine-tune `base` on the train side; checkpoints go below `checkpoints`, one an epoch; `callbacks` hear of every epoch of the
    last fits.

    With a `focus` the fit is followed by one on its rows (intermediate training, Phang et al., 2018). With `members` above 1 that
    many fits start from the same weights, see the rows in other orders, and are averaged (model soup, Wortsman et al., 2022): the
    cost is the training's, an answer costs what it did. Before a focus there is one fit; the focus has members of its own.
    """
    encoder = Encoder(tokenizer, recipe.model.max_tokens)
    validation = _dataset(split.validation, recipe, encoder)
    weights = class_weights(split.train, recipe) if recipe.fit.class_weights else None
    start: dict[str, torch.Tensor] | None = None
    history: list[dict[str, float]] = []

    def run(settings: FitRecipe, rows: Sequence[Example], name: str, member: int, *, last: bool) -> dict[str, torch.Tensor]:
        stage = _Stage(settings, _learnt(rows, recipe, encoder), checkpoints / name, settings.seed + member, start)
        state, log = _run(recipe, base, stage, validation, weights, callbacks if last else (), resume=resume, quiet=quiet)
        before = history[-1]["step"] if history else 0.0
        history.extend(entry | {"step": entry.get("step", 0.0) + before} for entry in log)
        return state

    settings, rows = recipe.fit, split.train
    if focused := focus_rows(split.train, recipe.fit):
        start = run(settings, rows, "first", 0, last=False)
        settings = settings.model_copy(update=recipe.fit.focus.model_dump(exclude={"rows", "others"}))
        rows = focused
    states = [run(settings, rows, f"member-{member + 1}", member, last=True) for member in range(settings.members)]
    # accelerate has wrapped the network's forward in autocast; the weights move to one that runs in float32
    network = StanceNetwork(
        AutoModel.from_config(AutoConfig.from_pretrained(base)), len(recipe.labels.labels), recipe.model.pooling
    )
    network.load_state_dict(_mean(states))
    return Fitted(network.float().eval(), tuple(history))


def focus_rows(examples: Sequence[Example], recipe: FitRecipe) -> tuple[Example, ...]:
    """The rows of `recipe.focus`: those of its slices and a share of the others, in their order; none where no row is of `rows`."""
    focus = recipe.focus
    if focus.rows is None or not any(_in(example, focus.rows) for example in examples):
        return ()
    whole = (focus.rows, *focus.also)
    draw = random.Random(recipe.seed)
    return tuple(e for e in examples if any(_in(e, slice_) for slice_ in whole) or draw.random() < focus.others)


def _in(example: Example, slice_: str) -> bool:
    column, _, value = slice_.partition("=")
    return value in example.slices.get(column, ())


@dataclass(frozen=True, slots=True)
class _Stage:
    """One fit: its settings and rows, where its checkpoints go, the seed of its order, and the weights it starts from (the base's
    where there are none)."""

    settings: FitRecipe
    train: Dataset
    folder: Path
    seed: int
    start: dict[str, torch.Tensor] | None


def _run(
    recipe: Recipe,
    base: Path,
    stage: _Stage,
    validation: Dataset,
    weights: list[float] | None,
    callbacks: Sequence[TrainerCallback],
    *,
    resume: bool,
    quiet: bool,
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """One fit: its weights (the best epoch's; after a start of its own the last epoch's, and then only callbacks need validation)
    and its log; read from its folder where an earlier, killed run has finished it."""
    folder, settings = stage.folder, stage.settings
    done, log = folder / "weights.safetensors", folder / "log.json"
    if resume and log.is_file():
        return load_file(done), json.loads(log.read_text("utf-8"))
    set_seed(settings.seed)  # every member begins with the same head
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs 2 %, changes nothing read
    network = StanceNetwork(
        AutoModel.from_pretrained(base, dtype=torch.float32),
        len(recipe.labels.labels),
        recipe.model.pooling,
        dropout=recipe.model.dropout,
    )
    if stage.start is not None:
        network.load_state_dict(stage.start)
    choose = stage.start is None
    _freeze_unused(network)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if settings.batch_size % processes:
        raise UsageError(f"fit.batch_size {settings.batch_size} cannot be shared by {processes} processes. Choose a multiple.")
    steps = -(-len(stage.train) // settings.batch_size) * settings.epochs
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size // processes,
        per_device_eval_batch_size=64,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup * steps),
        eval_strategy="epoch" if choose or callbacks else "no",
        save_strategy="epoch",
        save_total_limit=2,
        logging_strategy="epoch",
        load_best_model_at_end=choose,
        metric_for_best_model="macro_f1",
        greater_is_better=True,
        seed=stage.seed,
        bf16=use_bfloat16(settings.bfloat16),
        use_cpu=not torch.cuda.is_available(),
        ddp_backend="gloo" if processes > 1 and not torch.cuda.is_available() else None,
        ddp_find_unused_parameters=False if processes > 1 else None,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=quiet,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
    stopping = [EarlyStoppingCallback(early_stopping_patience=settings.patience)] if choose else []
    trainer = StanceTrainer(
        recipe=settings,
        class_weights=weights,
        model=network,
        args=arguments,
        train_dataset=stage.train,
        eval_dataset=validation,
        data_collator=collate,
        compute_metrics=_macro_f1,
        callbacks=[*stopping, *callbacks],
    )
    if quiet:
        trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if resume and folder.is_dir() else None)
    state = {name: value.detach().clone().contiguous() for name, value in network.state_dict().items()}
    history = [{key: float(value) for key, value in entry.items()} for entry in trainer.state.log_history]
    if trainer.is_world_process_zero():
        save_file(state, done)
        log.write_text(json.dumps(history), "utf-8")
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
    return state, history


def _mean(states: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of each weight; whole numbers (positions) are the same in all."""
    if len(states) == 1:
        return states[0]
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }


def class_weights(examples: Sequence[Example], recipe: Recipe) -> list[float]:
    """Weights inverse to the square root of a label's share, mean 1 over the rows."""
    counts = Counter(example.label for example in examples)
    raw = [(len(examples) / counts[label]) ** 0.5 for label in recipe.labels.labels]
    mean = sum(weight * counts[label] for weight, label in zip(raw, recipe.labels.labels, strict=True)) / len(examples)
    return [weight / mean for weight in raw]


def use_bfloat16(wish: str) -> bool:
    """Whether to autocast to bfloat16: `auto` asks the processor for native instructions."""
    if wish != "auto":
        return wish == "on"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad rows to the longest of them."""
    ids, mask = pad([row["input_ids"] for row in rows])
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "labels": torch.tensor([row["labels"] for row in rows]),
        "targets": torch.tensor([row["targets"] for row in rows], dtype=torch.float32),
        "weights": torch.tensor([row["weight"] for row in rows], dtype=torch.float32),
    }


def _learnt(examples: Sequence[Example], recipe: Recipe, encoder: Encoder) -> Dataset:
    """The rows of a fit: `examples`, some of them with other names or with typos."""
    swapped = with_swapped_names(examples, recipe.fit.name_swap, recipe.fit.seed)
    return _dataset(with_typos(swapped, recipe.fit.typos, recipe.fit.seed), recipe, encoder)


def _dataset(examples: Sequence[Example], recipe: Recipe, encoder: Encoder) -> Dataset:
    rows = encoder.encode([example.text for example in examples])
    return Dataset.from_dict(
        {
            "input_ids": [list(row.ids) for row in rows],
            "length": [len(row.ids) for row in rows],
            "labels": [recipe.labels.index(example.label) for example in examples],
            "targets": [target(example, recipe) for example in examples],
            "weight": [row_weight(example, recipe.fit) for example in examples],
        }
    )


def _macro_f1(prediction: EvalPrediction) -> dict[str, float]:
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    truth = np.asarray(prediction.label_ids)
    return {"macro_f1": macro_f1(np.asarray(logits).argmax(1), truth, np.asarray(logits).shape[1])}


def _freeze_unused(network: StanceNetwork) -> None:
    """A BERT pooler has weights that pooled token states never use; several processes would wait for their gradients."""
    pooler = getattr(network.encoder, "pooler", None)
    if isinstance(pooler, torch.nn.Module):
        pooler.requires_grad_(False)
