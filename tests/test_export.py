"""Any encoder becomes a graph that answers as torch does, in float32 and in int8, alone and in company."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertConfig, DistilBertConfig, PretrainedConfig, RobertaConfig

from models.calibration import softmax
from models.encoding import Encoded
from models.engine_onnx import OnnxEngine
from models.engine_torch import Pooling, StanceNetwork, TorchEngine
from training.export import export_engine
from training.fused import can_fuse
from training.static_int8 import Int8Linear, Site, int8_linears

VOCABULARY = 300
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BERT = BertConfig(**SIZES)
ROBERTA = RobertaConfig(**SIZES, max_position_embeddings=66)
DISTILBERT = DistilBertConfig(vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=48)


def make_network(config: PretrainedConfig, pooling: Pooling = "first") -> StanceNetwork:
    torch.manual_seed(1)
    network = StanceNetwork(AutoModel.from_config(config), 3, pooling).eval()
    with torch.no_grad():
        for name, value in network.named_parameters():  # as unlike the start as training leaves them
            value.add_(torch.randn_like(value), alpha=0.2 if "LayerNorm" in name else 0.05)
        network.head.weight += torch.randn_like(network.head.weight) * 0.5
    return network


def make_rows(count: int, seed: int) -> list[Encoded]:
    generator = np.random.default_rng(seed)
    return [Encoded(tuple(map(int, generator.integers(5, VOCABULARY, generator.integers(2, 60)))), False) for _ in range(count)]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("config", "pooling", "fused"),
    [(BERT, "first", True), (BERT, "mean", True), (ROBERTA, "first", True), (DISTILBERT, "first", False)],
    ids=["bert", "bert-mean", "roberta", "distilbert"],
)
def test_the_graph_answers_as_torch_does_in_any_company(
    config: PretrainedConfig, pooling: Pooling, fused: bool, precision: str, tmp_path: Path
) -> None:
    network, rows = make_network(config, pooling), make_rows(40, 2)
    assert can_fuse(network) is fused
    parity = export_engine(network, tmp_path, 64, precision, rows, 0.9, make_rows(200, 3))
    assert parity.fp32_max_change <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    engine = OnnxEngine(tmp_path / "model.onnx")
    ids = [row.ids for row in rows]
    alone = softmax(np.concatenate([engine.run([row]) for row in ids]))
    assert np.abs(alone - softmax(engine.run(ids))).max() <= (1e-5 if precision == "fp32" else 5e-3)
    assert np.abs(alone - softmax(TorchEngine(network).run(ids))).max() <= (1e-4 if precision == "fp32" else 0.1)


def test_what_another_activation_would_compute_is_left_to_the_exporter() -> None:
    assert not can_fuse(make_network(BertConfig(**SIZES, hidden_act="relu")))


def test_int8_layers_repeat_the_exact_ones_better_than_rounding_would() -> None:
    network, site = make_network(BERT), Site(1, "up")
    with torch.no_grad():  # one channel far larger than the others, as trained encoders have
        network.get_parameter("encoder.encoder.layer.1.attention.output.LayerNorm.weight")[3] *= 20
    seen: list[torch.Tensor] = []
    module = network.get_submodule(site.modules[0])
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].reshape(-1, 32)))
    with torch.inference_mode():
        for row in make_rows(60, 4):
            network(torch.tensor([row.ids]), torch.ones(1, len(row.ids), dtype=torch.long))
    handle.remove()
    states = torch.cat(seen).numpy()
    weight, bias = site.weights({name: value.numpy() for name, value in network.state_dict().items()})
    exact = states @ weight + bias

    def error(linear: Int8Linear) -> float:
        levels = np.clip(np.rint(states * linear.multiplier / linear.scale) + linear.zero, 0, 255) - linear.zero
        product = levels * linear.scale @ (linear.weight * linear.weight_scale)
        return float(np.square(product + states[:, linear.large] @ linear.large_weight + linear.bias - exact).mean())

    span = max(float(states.max() - states.min()), 1e-6) / 255
    weight_scale = np.abs(weight).max(0) / 127
    rounded = Int8Linear(
        multiplier=np.ones(32, np.float32),
        large=np.zeros(0, np.int64),
        large_weight=np.zeros((0, 48), np.float32),
        scale=span,
        zero=round(-float(states.min()) / span),
        weight=np.rint(weight / weight_scale).astype(np.int8),
        weight_scale=weight_scale,
        bias=bias,
    )
    assert error(int8_linears(network, make_rows(200, 3))[site]) < 0.2 * error(rounded)
