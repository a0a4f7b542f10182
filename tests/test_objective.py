"""The loss, the layers' rates, and sentences with other names in them."""

import random

import pytest
import torch
from torch.nn import functional
from transformers import BertConfig, BertModel

from models.engine_torch import StanceNetwork
from training.augment import STATES, swap_names, with_swapped_names, with_typos
from training.config import FitRecipe
from training.data import Example
from training.objective import StanceTrainer, layer_rates, symmetric_divergence


@pytest.fixture(scope="module")
def network() -> StanceNetwork:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
    return StanceNetwork(BertModel(BertConfig(**size)), 3, "first")


def batch(weights: list[float] | None = None) -> dict[str, torch.Tensor]:
    inputs = {
        "input_ids": torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        "attention_mask": torch.ones(3, 3, dtype=torch.long),
        "labels": torch.tensor([0, 1, 2]),
    }
    return inputs if weights is None else inputs | {"weights": torch.tensor(weights)}


def trainer(network: StanceNetwork, class_weights: list[float] | None = None, **settings: float) -> StanceTrainer:
    found = StanceTrainer(recipe=FitRecipe.model_validate(settings), class_weights=class_weights, model=network)
    found.model.eval()
    return found


def test_a_row_of_weight_nothing_is_not_learnt(network: StanceNetwork) -> None:
    found = trainer(network)
    logits = network(batch()["input_ids"], batch()["attention_mask"]).logits
    expected = functional.cross_entropy(logits[:2], torch.tensor([0, 1]))
    assert found.compute_loss(network, batch([1.0, 1.0, 0.0])).item() == pytest.approx(expected.item())
    assert found.compute_loss(network, batch()).item() == pytest.approx(found.compute_loss(network, batch([1.0] * 3)).item())


def test_class_weights_are_those_of_torch(network: StanceNetwork) -> None:
    found = trainer(network, [2.0, 1.0, 0.5], label_smoothing=0.1)
    logits = network(batch()["input_ids"], batch()["attention_mask"]).logits
    expected = functional.cross_entropy(logits, batch()["labels"], weight=torch.tensor([2.0, 1.0, 0.5]), label_smoothing=0.1)
    assert found.compute_loss(network, batch([1.0] * 3)).item() == pytest.approx(expected.item())


def test_a_row_is_learnt_at_the_shares_of_its_labels(network: StanceNetwork) -> None:
    found = trainer(network)
    logits = network(batch()["input_ids"], batch()["attention_mask"]).logits
    hard = found.compute_loss(network, batch()).item()
    sure = batch() | {"targets": torch.eye(3)}
    assert found.compute_loss(network, sure).item() == pytest.approx(hard)
    shares = torch.tensor([[0.75, 0.25, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    expected = -(shares * functional.log_softmax(logits, 1)).sum(1).mean()
    assert found.compute_loss(network, batch() | {"targets": shares}).item() == pytest.approx(expected.item())
    classes = trainer(network, [2.0, 1.0, 0.5])
    plain = classes.compute_loss(network, batch()).item()
    assert classes.compute_loss(network, sure).item() == pytest.approx(plain)


def test_r_drop_adds_the_distance_of_two_passes(network: StanceNetwork) -> None:
    without, with_it = trainer(network), trainer(network, r_drop=5.0)
    assert with_it.compute_loss(network, batch()).item() == pytest.approx(without.compute_loss(network, batch()).item())
    network.train()
    torch.manual_seed(3)
    twice = {name: torch.cat([value, value]) for name, value in batch().items()}
    one, two = network(twice["input_ids"], twice["attention_mask"]).logits.chunk(2)
    plain = (functional.cross_entropy(one, batch()["labels"]) + functional.cross_entropy(two, batch()["labels"])) / 2
    torch.manual_seed(3)
    found = with_it.compute_loss(network, batch()).item()
    network.eval()
    assert found == pytest.approx((plain + 5 * symmetric_divergence(one, two)).item())
    assert found > plain.item()
    same = torch.tensor([[1.0, 2.0, 3.0]])
    assert symmetric_divergence(same, same).item() == 0
    assert symmetric_divergence(same, same.flip(1)).item() == pytest.approx(symmetric_divergence(same.flip(1), same).item())


def test_lower_layers_learn_more_slowly(network: StanceNetwork) -> None:
    rates = layer_rates(network, 0.5)
    assert rates["head.weight"] == 1
    assert rates["encoder.encoder.layer.2.output.dense.weight"] == 0.5
    assert rates["encoder.encoder.layer.0.output.dense.weight"] == 0.125
    assert rates["encoder.embeddings.word_embeddings.weight"] == 0.0625
    optimizer = trainer(network, layer_decay=0.5, learning_rate=1e-4).create_optimizer()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rates)
    highest = max(group["lr"] for group in optimizer.param_groups)
    assert min(group["lr"] for group in optimizer.param_groups) == pytest.approx(highest / 16)


def test_names_are_swapped_throughout_and_the_label_stays() -> None:
    text = "Iran and the Iranian envoy left Tehran; North Korea, not South Korea, called Moscow."
    swapped = swap_names(text, random.Random(1))
    assert not any(name in swapped for name in ("Iran", "Tehran", "North Korea", "South Korea", "Moscow"))
    number = next(n for n, state in enumerate(STATES) if swapped.startswith(state[0]))
    assert STATES[number][1] in swapped
    assert STATES[number][2] in swapped
    assert swap_names("They will talk.", random.Random(1)) == "They will talk."
    rows = [Example(str(n), text if n % 2 else "They will talk.", "neutral", None, {}, "") for n in range(40)]
    assert with_swapped_names(rows, 0.0, 1) == rows
    assert len(with_swapped_names(rows, 1.0, 1)) == 60
    half = with_swapped_names(rows, 0.5, 1)
    assert half == with_swapped_names(rows, 0.5, 1)
    assert 44 <= len(half) <= 56
    assert half[40].label == "neutral"
    assert half[40].id.endswith("-swapped")


def test_a_slip_changes_one_long_word_and_nothing_else() -> None:
    text = "They will talk again to the other side in Geneva."
    rows = [Example(str(n), text, "pro_dialogue", None, {}, "") for n in range(200)]
    assert with_typos(rows, 0.0, 1) == rows
    slipped = with_typos(rows, 1.0, 1)
    assert slipped == with_typos(rows, 1.0, 1)
    assert {row.label for row in slipped} == {"pro_dialogue"}
    kinds = set()
    for row in slipped:
        changed = [(was, now) for was, now in zip(text.split(" "), row.text.split(" "), strict=True) if was != now]
        assert len(changed) <= 1  # two equal letters changed round are the same word
        for was, now in changed:
            assert was.strip(".") in {"again", "other", "Geneva"}
            assert now[0] == was[0]
            kinds.add(len(now) - len(was))
    assert kinds == {-1, 0, 1}
    assert 60 <= sum(row.text != text for row in with_typos(rows, 0.5, 1)) <= 140
    short = Example("s", "We talk.", "pro_dialogue", None, {}, "")
    assert with_typos([short], 1.0, 1) == [short]
