"""Sentences a second of the shipped bundle beside the same network in torch, on the seed corpus; `make bench`.

Torch runs a network of the same shape with random weights (the shipped bundle carries none), padded to 32 sentences by length,
which costs the same arithmetic.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from transformers import AutoConfig, AutoModel

from models.bundle import DEFAULT_BUNDLE, open_bundle
from models.classifier import Classifier
from models.encoding import Encoder
from models.engine_torch import StanceNetwork, TorchEngine

ROUNDS = 3
SENTENCES = 400


def main() -> None:
    """Print the table."""
    bundle = open_bundle(DEFAULT_BUNDLE)
    corpus = sorted((Path(__file__).parent.parent / "training" / "corpus").glob("*.jsonl"))
    texts = [json.loads(line)["text"] for path in corpus for line in path.read_text("utf-8").splitlines()][::7][:SENTENCES]
    config = AutoConfig.for_model(**json.loads((bundle.path / "config.json").read_text("utf-8")))
    torch_engine = TorchEngine(StanceNetwork(AutoModel.from_config(config), 3, bundle.manifest.pooling))
    rows = sorted((list(row.ids) for row in Encoder(bundle.path / "tokenizer.json", 128).encode(texts)), key=len)
    with Classifier(bundle) as classifier:
        programs: dict[str, Callable[[], object]] = {
            "torch fp32, 32 by length": lambda: [torch_engine.run(rows[i : i + 32]) for i in range(0, len(rows), 32)],
            "stancewire, whole list": lambda: classifier.classify(texts),
            "stancewire, one by one": lambda: [classifier.classify([text]) for text in texts],
        }
        times: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(ROUNDS):
            for name, program in programs.items():
                start = time.perf_counter()
                program()
                times[name].append(time.perf_counter() - start)
    peer = statistics.median(times["torch fp32, 32 by length"])
    print(f"{'engine':<28}{'sentences/s':>12}{'ratio':>8}")
    for name, taken in times.items():
        middle = statistics.median(taken)
        print(f"{name:<28}{len(texts) / middle:>12.0f}{peer / middle:>8.2f}")


if __name__ == "__main__":
    main()
