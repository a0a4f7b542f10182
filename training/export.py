"""A fitted network to the ONNX graph that serves, checked against torch on the test side.

A BERT or RoBERTa is written by `fused`, its int8 layers by `static_int8`; any other encoder is exported by torch and gets the int8
of `quantise`, which is slower. float32 must give torch's probabilities to 1e-4, int8 the same labels. Either int8 answers a
sentence alike in any company.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.calibration import softmax
from models.encoding import Encoded
from models.engine import Engine
from models.engine_onnx import OnnxEngine
from models.engine_torch import StanceNetwork, TorchEngine
from models.errors import ExportError
from models.schema import FloatArray
from training.fused import can_fuse, save_fused
from training.quantise import quantise
from training.static_int8 import int8_linears

MAX_PARITY = 1e-4
PARITY_ROWS = 8  # in a call, of like length: a row's company moves float32 by some 1e-6


@dataclass(frozen=True, slots=True)
class Parity:
    """How the serving graph differs from torch: greatest change of a probability, and share of rows with the same label."""

    fp32_max_change: float
    max_change: float
    agreement: float

    def flat(self) -> dict[str, float]:
        """The figures for a manifest."""
        return {"fp32_max_change": self.fp32_max_change, "max_change": self.max_change, "agreement": self.agreement}


def export_onnx(network: StanceNetwork, target: Path, max_tokens: int) -> None:
    """Write `network` as a float32 ONNX graph with free batch and length."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    tokens = torch.export.Dim("tokens", min=2, max=max_tokens)
    shape = {0: batch, 1: tokens}
    ids = torch.ones(2, 8, dtype=torch.long)
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    for chatty in ("torch.onnx", "onnx_ir", "onnxscript"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Logits(network).eval(),
            (ids, mask),
            dynamo=True,
            verbose=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": shape, "attention_mask": shape},
        )
    if program is None:
        raise ExportError("torch gave no ONNX program for this base. Choose another base model.")
    program.save(str(target))


def export_engine(
    network: StanceNetwork,
    folder: Path,
    max_tokens: int,
    precision: str,
    rows: Sequence[Encoded],
    min_agreement: float,
    examples: Sequence[Encoded],
) -> Parity:
    """Write `model.onnx` into `folder` and compare it with torch on `rows`; ExportError where it answers otherwise.

    int8 takes its scales from `examples`, which must not be those it is judged on.
    """
    target = folder / "model.onnx"
    scratch = folder / "fp32.onnx"
    fused = can_fuse(network)
    if fused:
        save_fused(network, scratch, max_tokens)
    else:
        export_onnx(network, scratch, max_tokens)
    expected = _probabilities(TorchEngine(network), rows)
    exact = _probabilities(OnnxEngine(scratch), rows)
    change = float(np.abs(exact - expected).max())
    if change > MAX_PARITY:
        raise ExportError(f"the ONNX graph moves a probability by {change:.2g} (at most {MAX_PARITY:g}). Report this base model.")
    if precision == "fp32":
        scratch.rename(target)
        return Parity(change, change, _agreement(exact, expected))
    if fused:
        save_fused(network, target, max_tokens, int8_linears(network, examples))
    else:
        quantise(scratch, target)
    scratch.unlink()
    served = _probabilities(OnnxEngine(target), rows)
    parity = Parity(change, float(np.abs(served - expected).max()), _agreement(served, expected))
    if parity.agreement < min_agreement:
        raise ExportError(
            f"int8 gives the same label as float32 on {parity.agreement:.2%} of the test rows, below {min_agreement:.0%}. "
            "Set export.precision=fp32, or export.min_agreement lower if that is good enough, and go on with --resume."
        )
    return parity


class _Logits(torch.nn.Module):
    def __init__(self, network: StanceNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits = self.network(input_ids, attention_mask).logits
        assert isinstance(logits, torch.Tensor)
        return logits


def _probabilities(engine: Engine, rows: Sequence[Encoded]) -> FloatArray:
    order = sorted(range(len(rows)), key=lambda row: len(rows[row].ids))
    parts = [order[start : start + PARITY_ROWS] for start in range(0, len(order), PARITY_ROWS)]
    logits = np.concatenate([engine.run([rows[row].ids for row in part]) for part in parts])
    return softmax(logits)[np.argsort(order)]


def _agreement(left: FloatArray, right: FloatArray) -> float:
    return float((left.argmax(1) == right.argmax(1)).mean())
