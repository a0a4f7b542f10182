"""Fine-tuning with transformers' Trainer: the same recipe on one process or several, twice the same weights from the same seed.

Batches hold sentences of like length and are padded to their longest. The loop stops early on validation macro-F1 and ends with
the best epoch's weights. A killed run goes on from its last epoch.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModel, EarlyStoppingCallback, EvalPrediction, PrinterCallback, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from models.encoding import Encoder
from models.engine import pad
from models.engine_torch import StanceNetwork
from models.errors import UsageError
from training.config import Recipe
from training.data import Example
from training.metrics import macro_f1
from training.split import Split


@dataclass(frozen=True, slots=True)
class Fitted:
    """The best epoch's network and the loop's log, one entry for each logged step."""

    network: StanceNetwork
    history: tuple[dict[str, float], ...]


def fit(recipe: Recipe, base: Path, tokenizer: Path, split: Split, checkpoints: Path, *, resume: bool, quiet: bool) -> Fitted:
    """Fine-tune `base` on the train side; checkpoints go below `checkpoints`, one an epoch."""
    fit_recipe = recipe.fit
    set_seed(fit_recipe.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    encoder = Encoder(tokenizer, recipe.model.max_tokens)
    network = StanceNetwork(
        AutoModel.from_pretrained(base, dtype=torch.float32),
        len(recipe.labels.labels),
        recipe.model.pooling,
        dropout=recipe.model.dropout,
        class_weights=class_weights(split.train, recipe) if fit_recipe.class_weights else None,
        label_smoothing=fit_recipe.label_smoothing,
    )
    _freeze_unused(network)
    train = _dataset(split.train, recipe, encoder)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if fit_recipe.batch_size % processes:
        raise UsageError(f"fit.batch_size {fit_recipe.batch_size} cannot be shared by {processes} processes. Choose a multiple.")
    a_process = fit_recipe.batch_size // processes
    steps = -(-len(train) // fit_recipe.batch_size) * fit_recipe.epochs
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=fit_recipe.epochs,
        per_device_train_batch_size=a_process,
        per_device_eval_batch_size=64,
        learning_rate=fit_recipe.learning_rate,
        weight_decay=fit_recipe.weight_decay,
        warmup_steps=round(fit_recipe.warmup * steps),
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        logging_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        greater_is_better=True,
        seed=fit_recipe.seed,
        bf16=use_bfloat16(fit_recipe.bfloat16),
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
    trainer = Trainer(
        model=network,
        args=arguments,
        train_dataset=train,
        eval_dataset=_dataset(split.validation, recipe, encoder),
        data_collator=collate,
        compute_metrics=_macro_f1,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=fit_recipe.patience)],
    )
    if quiet:
        trainer.remove_callback(PrinterCallback)
    last = get_last_checkpoint(str(checkpoints)) if resume and checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    # accelerate has wrapped the network's forward in autocast; the weights move to one that runs in float32
    clean = StanceNetwork(AutoModel.from_config(network.encoder.config), len(recipe.labels.labels), recipe.model.pooling)
    clean.load_state_dict(network.state_dict())
    history = tuple({key: float(value) for key, value in entry.items()} for entry in trainer.state.log_history)
    return Fitted(clean.float().eval(), history)


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
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), "labels": labels}


def _dataset(examples: Sequence[Example], recipe: Recipe, encoder: Encoder) -> Dataset:
    rows = encoder.encode([example.text for example in examples])
    return Dataset.from_dict(
        {
            "input_ids": [list(row.ids) for row in rows],
            "length": [len(row.ids) for row in rows],
            "labels": [recipe.labels.index(example.label) for example in examples],
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
