"""Sentences in, predictions out: a bundle with its encoder and engine.

Work is cut into small calls, sorted by length, each for one engine thread: on a CPU small calls are as fast as large ones and
padding is what costs. The order of the sentences and their company in a call never change an answer.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from models.bundle import Bundle, open_bundle
from models.calibration import softmax
from models.cores import usable_cores
from models.encoding import Encoded, Encoder
from models.engine import Engine
from models.engine_onnx import OnnxEngine
from models.schema import FloatArray, Prediction, predict

CALL_TOKENS = 192


@dataclass(frozen=True, slots=True)
class Call:
    """Sentences that go through the engine together; `positions` are their places in the request."""

    positions: tuple[int, ...]
    rows: tuple[Encoded, ...]


class Classifier:
    """Classifies with one bundle. Safe to use from many threads; close it, or use it as a context manager."""

    def __init__(self, bundle: Bundle, *, engine: Engine | None = None, workers: int | None = None) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.label_set = manifest.label_set
        self.encoder = Encoder(bundle.path / "tokenizer.json", manifest.max_tokens)
        self._engine = engine or OnnxEngine(bundle.path / manifest.engine.file)
        self.workers = workers or usable_cores()
        self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="engine")

    @classmethod
    def open(cls, path: Path, *, workers: int | None = None) -> Self:
        """Open the bundle at `path` and make it ready; BundleError where it is damaged."""
        return cls(open_bundle(path), workers=workers)

    def prepare(self, sentences: Sequence[str]) -> list[Call]:
        """Encode `sentences` and cut them into calls."""
        return self.cut(self.encoder.encode(sentences))

    def cut(self, encoded: Sequence[Encoded]) -> list[Call]:
        """Cut encoded sentences into calls of at most CALL_TOKENS tokens, or one sentence."""
        order = sorted(range(len(encoded)), key=lambda position: len(encoded[position].ids))
        calls: list[list[int]] = []
        for position in order:
            width = len(encoded[position].ids)
            if not calls or (len(calls[-1]) + 1) * width > CALL_TOKENS:
                calls.append([position])
            else:
                calls[-1].append(position)
        return [Call(tuple(call), tuple(encoded[position] for position in call)) for call in calls]

    def logits(self, call: Call) -> FloatArray:
        """The network's raw outputs for one call, shape (sentences, labels)."""
        return self._engine.run([row.ids for row in call.rows])

    def probabilities(self, call: Call) -> FloatArray:
        """Calibrated probabilities of one call, shape (sentences, labels)."""
        manifest = self.bundle.manifest
        return softmax(self.logits(call), manifest.temperature, manifest.bias)

    def run(self, call: Call) -> list[tuple[int, Prediction]]:
        """Predictions of one call, each with its place in the request."""
        threshold = self.bundle.manifest.confidence_threshold
        return [
            (position, predict(self.label_set, row, threshold, encoded.truncated))
            for position, encoded, row in zip(call.positions, call.rows, self.probabilities(call).tolist(), strict=True)
        ]

    def answer(self, encoded: Sequence[Encoded]) -> list[Prediction]:
        """Predictions in order, computed in the calling thread."""
        found = dict(pair for call in self.cut(encoded) for pair in self.run(call))
        return [found[position] for position in range(len(encoded))]

    def classify(self, sentences: Sequence[str]) -> list[Prediction]:
        """Predictions in the order of `sentences`, computed by the workers."""
        found = dict(pair for part in self.pool.map(self.run, self.prepare(sentences)) for pair in part)
        return [found[position] for position in range(len(sentences))]

    def warm(self) -> None:
        """Run every worker once, so that the first answer is as fast as the next."""
        self.classify(["Both sides agreed to meet again."] * (2 * self.workers))

    def close(self) -> None:
        """Stop the workers."""
        self.pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
