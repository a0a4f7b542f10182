"""int8 linear layers whose activation scales are fixed beforehand, so that no sentence moves another's answer.

Four steps, on sentences of the training side. (1) The few input channels that are far larger than the others, in what they hold
times what reads it, stay in float32 (LLM.int8(), Dettmers et al. 2022, arXiv 2208.07339). (2) Each other channel is divided by its
greatest size, and the weights that read it multiplied by the same, so that one scale serves all (SmoothQuant, Xiao et al. 2023,
arXiv 2211.10438, with all of the difficulty moved into the weights). (3) The weights are fitted anew to the rounded inputs by
least squares, and (4) rounded one input at a time, each time moving what is not yet rounded so that it makes up for the error
(GPTQ, Frantar et al. 2023, arXiv 2210.17323). The bias takes up what is left in the mean.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.encoding import Encoded
from models.engine import pad
from models.engine_torch import StanceNetwork

Part = Literal["qkv", "out", "up", "down"]
_MODULES: dict[Part, tuple[str, ...]] = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "out": ("attention.output.dense",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
}
SCALE_ROWS = 2000  # sentences that the scales are taken from
_LEVELS = 127
_DAMPING = 0.01  # of the mean diagonal, as in GPTQ
_BLOCK = 64
_BATCH = 16
_TINY = 1e-6
_LARGE = 10  # times the middle channel: such a channel stays in float32
_MAX_LARGE = 8  # channels of a site


@dataclass(frozen=True, slots=True)
class Site:
    """One matrix product of an encoder layer; query, key and value are one."""

    layer: int
    part: Part

    @property
    def modules(self) -> list[str]:
        """Names of the linear modules that make it up."""
        return [f"encoder.encoder.layer.{self.layer}.{name}" for name in _MODULES[self.part]]

    def weights(self, state: Mapping[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight, shape (inputs, outputs), and bias from a network's state."""
        weight = np.concatenate([state[f"{name}.weight"].T for name in self.modules], axis=1)
        return weight, np.concatenate([state[f"{name}.bias"] for name in self.modules])


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """y = (q − zero) · scale · weight · weight_scale + x[large] · large_weight + bias, q = round(x · multiplier / scale) + zero.

    q is cut to 0…255; the multiplier of a channel in `large` is 0.
    """

    multiplier: NDArray[np.float32]
    scale: float
    zero: int
    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    large: NDArray[np.int64]
    large_weight: NDArray[np.float32]


class _Range:
    """Least and greatest input of each channel so far."""

    def __init__(self) -> None:
        self.low = self.high = torch.zeros(())

    def add(self, states: torch.Tensor) -> None:
        self.low = torch.minimum(self.low, states.amin(0))
        self.high = torch.maximum(self.high, states.amax(0))


class _Moments:
    """One site: which inputs stay exact, how the others are rounded, and what a least-squares fit needs of both."""

    def __init__(self, inputs: _Range, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        self.bias = bias
        size = torch.maximum(-inputs.low, inputs.high).clamp(min=_TINY)
        products = size * torch.from_numpy(np.abs(weight).max(axis=1))
        largest = products.argsort(descending=True)[:_MAX_LARGE]
        self.large = largest[products[largest] > _LARGE * products.median()]
        self.large_weight = weight[self.large.numpy()]
        self.scaled = torch.from_numpy(weight).double() * size.double().unsqueeze(1)
        self.scaled[self.large] = 0
        self.multiplier = 1 / size
        self.multiplier[self.large] = 0
        low, high = float((inputs.low * self.multiplier).min()), float((inputs.high * self.multiplier).max())
        self.scale = max((high - low) / 255, _TINY)
        self.zero = round(-low / self.scale)
        width = len(size)
        self.rows = 0
        self.exact, self.rounded = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        self.square = torch.zeros(width, width, dtype=torch.float64)
        self.cross = torch.zeros(width, width, dtype=torch.float64)

    def add(self, states: torch.Tensor) -> None:
        exact = states * self.multiplier
        rounded = ((exact / self.scale).round() + self.zero).clamp(0, 255).sub(self.zero) * self.scale
        self.rows += len(states)
        self.exact += exact.sum(0)
        self.rounded += rounded.sum(0)
        self.square += rounded.T @ rounded
        self.cross += rounded.T @ exact

    def fit(self) -> Int8Linear:
        """The layer in int8."""
        exact, rounded = self.exact / self.rows, self.rounded / self.rows
        square = self.square / self.rows - torch.outer(rounded, rounded)
        cross = self.cross / self.rows - torch.outer(rounded, exact)
        damping = _DAMPING * float(square.diagonal().mean()) + _TINY
        identity = torch.eye(len(square), dtype=torch.float64)
        square += damping * identity
        fitted = torch.linalg.solve(square, (cross + damping * identity) @ self.scaled)
        levels, scales = _round_in_turn(fitted, square)
        shift = torch.from_numpy(self.bias).double() + exact @ self.scaled - rounded @ (levels * scales)
        return Int8Linear(
            multiplier=self.multiplier.numpy(),
            scale=self.scale,
            zero=self.zero,
            weight=levels.to(torch.int8).numpy(),
            weight_scale=scales.float().numpy(),
            bias=shift.float().numpy(),
            large=self.large.numpy(),
            large_weight=self.large_weight,
        )


def int8_linears(network: StanceNetwork, rows: Sequence[Encoded]) -> dict[Site, Int8Linear]:
    """Every linear layer of the encoder of `network` in int8, its scales taken from `rows`."""
    sites = [Site(layer, part) for layer in range(network.config.num_hidden_layers) for part in _MODULES]
    ranges = {site: _Range() for site in sites}
    _observe(network, rows, {site: each.add for site, each in ranges.items()})
    state = {name: value.detach().float().numpy() for name, value in network.state_dict().items()}
    moments = {site: _Moments(each, *site.weights(state)) for site, each in ranges.items()}
    _observe(network, rows, {site: each.add for site, each in moments.items()})
    return {site: each.fit() for site, each in moments.items()}


def _round_in_turn(fitted: torch.Tensor, square: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels, shape (inputs, outputs), and a scale an output, by GPTQ for inputs of second moment `square`."""
    scales = fitted.abs().amax(0).clamp(min=1e-12) / _LEVELS
    inverse = torch.linalg.cholesky(torch.linalg.inv(square), upper=True)
    rest, levels = fitted.clone(), torch.zeros_like(fitted)
    for start in range(0, len(rest), _BLOCK):
        stop = min(start + _BLOCK, len(rest))
        errors = torch.zeros_like(rest[start:stop])
        for row in range(start, stop):
            levels[row] = (rest[row] / scales).round().clamp(-_LEVELS, _LEVELS)
            errors[row - start] = (rest[row] - levels[row] * scales) / inverse[row, row]
            rest[row + 1 : stop] -= torch.outer(inverse[row, row + 1 : stop], errors[row - start])
        rest[stop:] -= inverse[start:stop, stop:].T @ errors
    return levels, scales


def _observe(network: StanceNetwork, rows: Sequence[Encoded], see: Mapping[Site, Callable[[torch.Tensor], None]]) -> None:
    """Show each site of `see` its inputs on `rows`, shape (tokens, channels), padding left out."""
    order = sorted(rows, key=lambda row: len(row.ids))
    with _hooks(network, see) as kept, torch.inference_mode():
        for start in range(0, len(order), _BATCH):
            ids, mask = pad([row.ids for row in order[start : start + _BATCH]])
            kept.mask = torch.from_numpy(mask).bool()
            network(torch.from_numpy(ids), torch.from_numpy(mask))


class _Kept:
    mask = torch.ones(())


@contextmanager
def _hooks(network: StanceNetwork, see: Mapping[Site, Callable[[torch.Tensor], None]]) -> Iterator[_Kept]:
    kept = _Kept()

    def hook(show: Callable[[torch.Tensor], None]) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda module, inputs: show(inputs[0][kept.mask].float())

    was_training = network.training
    network.eval()
    handles = [network.get_submodule(site.modules[0]).register_forward_pre_hook(hook(show)) for site, show in see.items()]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
        network.train(was_training)
