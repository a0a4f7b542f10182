"""Greatest memory of `stancewire score` by length of the archive: `python -m benchmarks.batch.memory [--rows 200000 2000000]`.

Every row is another text, and the network is a tiny one with random weights, so that the engine does not take hours; what
the job holds of rows and answers is what grows or does not.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModel, BertConfig

from models.bundle import DEFAULT_BUNDLE, Bundle, EngineEntry, open_bundle, save_bundle
from models.engine_torch import StanceNetwork
from training.fused import save_fused

ROOT = Path(__file__).parent.parent.parent


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[200_000, 2_000_000])
    options = parser.parse_args()
    print("| rows | MB, greatest | rows/s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle = _tiny(folder / "bundle")
        for rows in options.rows:
            source = folder / f"{rows}.csv"
            with source.open("w", encoding="utf-8") as stream:
                stream.write("id,text\n")
                stream.writelines(f"{n},We will talk about point {n} of the long list of points.\n" for n in range(rows))
            start = time.perf_counter()
            command = [sys.executable, "-m", "stancewire", "score", str(source), str(folder / f"out{rows}"), "--quiet"]
            process = subprocess.Popen([*command, "--model", str(bundle.path)], cwd=ROOT)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"stancewire score failed with {status}.")
            print(f"| {rows} | {usage.ru_maxrss / 1024:.0f} | {rows / (time.perf_counter() - start):.0f} |", flush=True)


def _tiny(target: Path) -> Bundle:
    shipped = open_bundle(DEFAULT_BUNDLE)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=30522, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
    network = StanceNetwork(AutoModel.from_config(config), len(shipped.manifest.label_set.labels), "first").eval()

    def write(folder: Path) -> None:
        (folder / "tokenizer.json").write_bytes((shipped.path / "tokenizer.json").read_bytes())
        save_fused(network, folder / "model.onnx", shipped.manifest.max_tokens)

    manifest = shipped.manifest.model_copy(update={"files": {}, "engine": EngineEntry(precision="fp32"), "metrics": {}})
    return save_bundle(target, manifest, write)


if __name__ == "__main__":
    main()
