"""What the loop minimises, and how fast each layer learns: transformers' Trainer with this project's loss and optimiser.

Cross-entropy with class weights, label smoothing and a weight for each row; R-Drop (Liang et al., 2021) adds the distance between
two passes under different dropout; layer-wise decay of the learning rate follows Howard and Ruder (2018).
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Trainer

from training.config import FitRecipe, Recipe
from training.data import Example

_LAYER = re.compile(r"\.layers?\.(\d+)\.")


def target(example: Example, recipe: Recipe) -> list[float]:
    """The share of each label that the row is learnt at: its label's 1, or with `soft_labels` what its annotators said, its final
    label being one voice more; of these, what a teacher thinks of it takes the place of a share."""
    said = [example.label, *(example.votes if recipe.fit.soft_labels else ())]
    shares = [said.count(label) / len(said) for label in recipe.labels.labels]
    if not example.opinion:
        return shares
    weight = recipe.fit.teachers.weight
    return [(1 - weight) * share + weight * thought for share, thought in zip(shares, example.opinion, strict=True)]


def row_weight(example: Example, recipe: FitRecipe) -> float:
    """How much `example` counts in the loss."""
    weight = recipe.contested_weight if example.contested else 1.0
    for column, values in example.slices.items():
        for value in values:
            weight *= recipe.slice_weights.get(f"{column}={value}", 1.0)
    return weight


class StanceTrainer(Trainer):  # type: ignore[misc]
    """A Trainer for `StanceNetwork`; batches may carry `weights`, shape (batch,), and `targets`, shape (batch, labels), the
    share of each label, beside `labels`, shape (batch,)."""

    def __init__(self, *, recipe: FitRecipe, class_weights: Sequence[float] | None, **options: Any) -> None:
        super().__init__(**options)
        self.recipe = recipe
        self.optimizer: torch.optim.Optimizer | None
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean loss of a batch; R-Drop only while training."""
        targets, weights = inputs.get("targets", inputs["labels"]), inputs.get("weights")
        passed = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        twice = model.training and self.recipe.r_drop > 0
        if twice:
            passed = {name: torch.cat([value, value]) for name, value in passed.items()}
        outputs = model(**passed)
        logits = outputs.logits.float()
        if twice:
            one, two = logits.chunk(2)
            loss = (self._cross_entropy(one, targets, weights) + self._cross_entropy(two, targets, weights)) / 2
            loss = loss + self.recipe.r_drop * symmetric_divergence(one, two)
        else:
            loss = self._cross_entropy(logits, targets, weights)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW; layer n of N learns at `layer_decay` ** (N - n) of the head's rate, embeddings at ** (N + 1)."""
        if self.recipe.layer_decay == 1 or self.optimizer is not None:
            plain: torch.optim.Optimizer = super().create_optimizer(model)
            return plain
        network = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(network))
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, rate in layer_rates(network, self.recipe.layer_decay).items():
            key = (rate, self.args.weight_decay if name in decayed else 0.0)
            groups.setdefault(key, []).append(network.get_parameter(name))
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, network)
        base = float(options.pop("lr"))
        optimizer: torch.optim.Optimizer = kind(
            [{"params": found, "lr": base * rate, "weight_decay": decay} for (rate, decay), found in groups.items()],
            lr=base,
            **options,
        )
        self.optimizer = optimizer
        return optimizer

    def _cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        if targets.ndim == 1:
            targets = functional.one_hot(targets, logits.shape[1]).float()
        by_class = torch.ones(logits.shape[1]) if self.class_weights is None else self.class_weights
        by_class = by_class.to(logits.device)
        weights = torch.ones(len(logits), device=logits.device) if weights is None else weights
        losses = functional.cross_entropy(
            logits, targets, weight=by_class, label_smoothing=self.recipe.label_smoothing, reduction="none"
        )
        return (losses * weights).sum() / (weights * (targets @ by_class)).sum()


def symmetric_divergence(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """Mean over rows of (KL(one, two) + KL(two, one)) / 2 in nats; both are logits, shape (batch, labels)."""
    first, second = functional.log_softmax(one, 1), functional.log_softmax(two, 1)
    there = functional.kl_div(first, second, reduction="batchmean", log_target=True)
    back = functional.kl_div(second, first, reduction="batchmean", log_target=True)
    return (there + back) / 2


def layer_rates(network: nn.Module, decay: float) -> dict[str, float]:
    """For each trainable parameter the factor on the learning rate: 1 for the head, less the nearer to the words."""
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    found = {name: int(match.group(1)) for name in names if (match := _LAYER.search(name))}
    layers = max(found.values(), default=-1) + 1
    return {
        name: 1.0 if name.startswith("head.") else decay ** (layers - found[name] if name in found else layers + 1)
        for name in names
    }
