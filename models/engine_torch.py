"""The network itself, in torch: any transformers encoder, pooled, with one linear layer on top.

`StanceNetwork` is what training fits and export converts; `TorchEngine` runs it on a bundle's `model.safetensors`, to check that
the serving engine answers the same. Mean pooling follows Reimers and Gurevych (2019).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from models.bundle import Bundle
from models.engine import pad
from models.errors import BundleError
from models.schema import FloatArray

Pooling = Literal["mean", "first"]


class StanceNetwork(nn.Module):
    """Encoder, pooling, dropout and a linear layer."""

    def __init__(
        self,
        encoder: nn.Module,
        labels: int,
        pooling: Pooling,
        *,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.config.hidden_size, labels)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @property
    def config(self) -> PretrainedConfig:
        """The encoder's configuration."""
        config = self.encoder.config
        assert isinstance(config, PretrainedConfig)
        return config

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        """Logits, shape (batch, labels), of token ids and their mask, both of shape (batch, tokens)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "mean":
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        else:
            pooled = states[:, 0]
        return SequenceClassifierOutput(logits=self.head(self.dropout(pooled)))

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json` into `folder`."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors")
        config = self.config.to_diff_dict()
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


class TorchEngine:
    """Runs a bundle's float32 weights in torch."""

    def __init__(self, network: StanceNetwork) -> None:
        self._network = network.eval()

    @classmethod
    def open(cls, bundle: Bundle) -> "TorchEngine":
        """Load the weights of `bundle`; BundleError where it ships without them."""
        if "model.safetensors" not in bundle.manifest.files:
            raise BundleError(f"{bundle.path} has no model.safetensors: it ships for serving only. Use the registry's copy.")
        config = AutoConfig.for_model(**json.loads((bundle.path / "config.json").read_text("utf-8")))
        network = StanceNetwork(AutoModel.from_config(config), len(bundle.manifest.label_set.labels), bundle.manifest.pooling)
        network.load_state_dict(load_file(bundle.path / "model.safetensors"))
        return cls(network)

    def run(self, rows: Sequence[Sequence[int]]) -> FloatArray:
        """Logits, shape (len(rows), labels), of rows of token ids."""
        ids, mask = pad(rows)
        with torch.inference_mode():
            logits = self._network(torch.from_numpy(ids), torch.from_numpy(mask)).logits
        return np.asarray(logits.float().numpy(), dtype=np.float64)
