"""The ONNX graph of a BERT or RoBERTa encoder with its head, written operator by operator, for the kernels that are fast on a CPU.

What the exporter's own graph lacks: query, key and value as one product, attention as one operator, positions as a table with
the token type added, the last layer beyond attention for the first token alone where that is what is pooled, and linear layers
in int8 with activation scales fixed beforehand (see `static_int8`). States stay two-dimensional between attentions: on
three-dimensional ones ONNX Runtime fuses the residual sum and the layer norm to an operator that takes four times as long.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.engine_torch import StanceNetwork
from training.quantise import int8_rows
from training.static_int8 import Int8Linear, Site

_KINDS = frozenset({"BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel"})
_MICROSOFT = "com.microsoft"
_OPSET = 20
_IR_VERSION = 10


def can_fuse(network: StanceNetwork) -> bool:
    """Whether `network` is of a kind that `save_fused` writes."""
    config = network.config
    return (
        type(network.encoder).__name__ in _KINDS
        and getattr(config, "hidden_act", None) == "gelu"
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not getattr(config, "is_decoder", False)
    )


def save_fused(network: StanceNetwork, target: Path, max_tokens: int, linears: Mapping[Site, Int8Linear] | None = None) -> None:
    """Write the graph of `network` to `target`: float32, or int8 in the linear layers and embedding tables where `linears` has
    every linear layer of the encoder."""
    onnx.save(_Writer(network, max_tokens, linears).model(), target)


class _Writer:
    def __init__(self, network: StanceNetwork, max_tokens: int, linears: Mapping[Site, Int8Linear] | None) -> None:
        self._weights = {name: value.detach().float().numpy() for name, value in network.state_dict().items()}
        self._config = network.config
        self._first = network.pooling == "first"
        self._max_tokens = max_tokens
        self._linears = linears
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, onnx.TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        """The whole graph: `input_ids` and `attention_mask`, int64 of shape (batch, tokens), to `logits`, (batch, labels)."""
        self._shapes()
        states = self._op("Reshape", self._embed(), "flat")
        for layer in range(self._config.num_hidden_layers):
            states = self._layer(states, layer)
        if not self._first:
            states = self._mean(states)
        head = [self._tensor("head.weight", self._weights["head.weight"]), self._tensor("head.bias", self._weights["head.bias"])]
        self._nodes.append(helper.make_node("Gemm", [states, *head], ["logits"], name="logits", transB=1))
        shape = ["batch", "tokens"]
        graph = helper.make_graph(
            self._nodes,
            "stance",
            [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(self._weights["head.bias"])])],
            list(self._tensors.values()),
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)

    def _shapes(self) -> None:
        width = self._config.hidden_size
        self._tensor("flat", np.array([-1, width], np.int64))
        sizes = self._op("Shape", "input_ids")
        self._op("Concat", sizes, self._tensor("width", np.array([width], np.int64)), name="cubic", axis=0)
        self._op("Concat", sizes, self._tensor("width_3", np.array([3 * width], np.int64)), name="cubic_3", axis=0)
        self._op("Cast", "attention_mask", name="mask", to=TensorProto.INT32)
        self._op(
            "Slice",
            sizes,
            self._tensor("at_1", np.array([1], np.int64)),
            self._tensor("at_2", np.array([2], np.int64)),
            name="tokens",
        )
        self._tensor("at_0", np.array([0], np.int64))
        self._tensor("zero", np.array(0, np.int64))

    def _embed(self) -> str:
        prefix = "encoder.embeddings."
        offset = 0 if type(self._config).__name__ == "BertConfig" else self._config.pad_token_id + 1
        positions = self._weights[f"{prefix}position_embeddings.weight"][offset : offset + self._max_tokens]
        table = positions + self._weights[f"{prefix}token_type_embeddings.weight"][0]
        places = self._op("Slice", self._tensor("positions", table), "at_0", "tokens", "at_0")
        words = self._op("Add", self._look_up(self._weights[f"{prefix}word_embeddings.weight"]), places)
        return self._norm(words, f"{prefix}LayerNorm")

    def _look_up(self, words: NDArray[np.float32]) -> str:
        if self._linears is None:
            return self._op("Gather", self._tensor("words", words), "input_ids")
        rows, scales = int8_rows(words)
        found = self._op("Cast", self._op("Gather", self._tensor("words_int8", rows), "input_ids"), to=TensorProto.FLOAT)
        return self._op("Mul", found, self._op("Gather", self._tensor("words_scale", scales), "input_ids"))

    def _layer(self, states: str, layer: int) -> str:
        prefix = f"encoder.encoder.layer.{layer}."
        last = self._first and layer == self._config.num_hidden_layers - 1
        heads = self._op("Reshape", self._linear(states, Site(layer, "qkv")), "cubic_3")
        query, key, value = self._split(heads, 3)
        if last:
            query = self._op("Slice", query, "at_0", "at_1", "at_1")
        attended = self._op(
            "MultiHeadAttention", query, key, value, "", "mask", domain=_MICROSOFT, num_heads=self._config.num_attention_heads
        )
        attended = self._op("Reshape", attended, "flat")
        if last:
            states = self._op("Gather", self._op("Reshape", states, "cubic"), "zero", axis=1)
        attended = self._linear(attended, Site(layer, "out"))
        states = self._norm(self._op("Add", attended, states), f"{prefix}attention.output.LayerNorm")
        inner = self._op("Gelu", self._linear(states, Site(layer, "up")))
        return self._norm(self._op("Add", self._linear(inner, Site(layer, "down")), states), f"{prefix}output.LayerNorm")

    def _linear(self, states: str, site: Site) -> str:
        name = f"{site.layer}.{site.part}"
        if self._linears is None:
            weight, bias = site.weights(self._weights)
            product = self._op("MatMul", states, self._tensor(f"{name}.weight", weight))
            return self._op("Add", product, self._tensor(f"{name}.bias", bias))
        linear = self._linears[site]
        scaled = self._op("Mul", states, self._tensor(f"{name}.multiplier", linear.multiplier))
        scale = self._tensor(f"{name}.scale", np.array(linear.scale, np.float32))
        zero = self._tensor(f"{name}.zero", np.array(linear.zero, np.uint8))
        product = self._op(
            "MatMulIntegerToFloat",
            self._op("QuantizeLinear", scaled, scale, zero),
            self._tensor(f"{name}.weight", linear.weight),
            scale,
            self._tensor(f"{name}.weight_scale", linear.weight_scale),
            zero,
            "",
            self._tensor(f"{name}.bias", linear.bias),
            domain=_MICROSOFT,
        )
        if not len(linear.large):
            return product
        large = self._op("Gather", states, self._tensor(f"{name}.large", linear.large), axis=1)
        return self._op("Add", product, self._op("MatMul", large, self._tensor(f"{name}.large_weight", linear.large_weight)))

    def _mean(self, states: str) -> str:
        mask = self._op(
            "Cast", self._op("Unsqueeze", "attention_mask", self._tensor("at_last", np.array([-1], np.int64))), to=TensorProto.FLOAT
        )
        total = self._op("ReduceSum", self._op("Mul", self._op("Reshape", states, "cubic"), mask), "at_1", keepdims=0)
        return self._op("Div", total, self._op("ReduceSum", mask, "at_1", keepdims=0))

    def _norm(self, states: str, prefix: str) -> str:
        scale = self._tensor(f"{prefix}.weight", self._weights[f"{prefix}.weight"])
        shift = self._tensor(f"{prefix}.bias", self._weights[f"{prefix}.bias"])
        return self._op("LayerNormalization", states, scale, shift, axis=-1, epsilon=self._config.layer_norm_eps)

    def _split(self, states: str, parts: int) -> list[str]:
        names = [f"{states}_part_{part}" for part in range(parts)]
        self._nodes.append(helper.make_node("Split", [states], names, name=f"{states}_split", axis=-1, num_outputs=parts))
        return names

    def _op(self, kind: str, *inputs: str, name: str | None = None, domain: str = "", **attributes: object) -> str:
        name = name or f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def _tensor(self, name: str, values: NDArray[np.generic]) -> str:
        self._tensors[name] = numpy_helper.from_array(np.array(values, order="C"), name)
        return name
