"""An archive from file to file by each way of doing it, the same quotes on the same cores; `make bench-batch`.

    python -m benchmarks.batch [--rounds 3] [--rows 20000] [--out batch.png]

Rounds are interleaved, figures are medians, and each is the whole command: start, reading, writing. `share` is the rate over that
of the bare engine, which classifies the same texts as one list in memory. The pipeline runs a network of the same size in torch
over `datasets.map`, on a part of the rows, since it is slow.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks.bare import engine_rate
from benchmarks.serving.peers import make_model

ROOT = Path(__file__).parent.parent.parent
_PIPELINE_SHARE = 8  # of the rows, one in so many
_PIPELINE = """
import sys
from datasets import load_dataset
from transformers import pipeline
pipe = pipeline("text-classification", sys.argv[1], top_k=None, truncation=True, batch_size=32)
data = load_dataset("json", data_files=sys.argv[2], split="train", cache_dir=sys.argv[4])
best = lambda found: max(found, key=lambda row: row["score"])["label"]
data = data.map(lambda rows: {"stance": [best(found) for found in pipe(rows["text"])]}, batched=True)
data.to_parquet(sys.argv[3])
"""


def main() -> None:
    """Run the rounds, print the table and draw it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("batch.png"))
    options = parser.parse_args()
    texts = _texts()[: options.rows]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write(folder / "in.jsonl", texts)
        _write(folder / "few.jsonl", texts[::_PIPELINE_SHARE])
        make_model(folder / "model")
        score = [sys.executable, "-m", "stancewire", "score", str(folder / "in.jsonl"), str(folder / "out"), "--quiet"]
        pipeline = [sys.executable, "-c", _PIPELINE, str(folder / "model"), str(folder / "few.jsonl"), str(folder / "few.parquet")]
        few = len(texts[::_PIPELINE_SHARE])
        ways: dict[str, Callable[[], float]] = {
            "bare engine, a list in memory": lambda: engine_rate(texts),
            "stancewire score": lambda: len(texts) / _run(score, folder),
            "stancewire score --engine ray": lambda: len(texts) / _run([*score, "--engine", "ray", "--shard-rows", "1000"], folder),
            "transformers pipeline, datasets.map": lambda: few / _run([*pipeline, str(folder / "cache")], folder),
        }
        found: dict[str, list[float]] = defaultdict(list)
        for number in range(options.rounds):
            for name, way in ways.items():
                found[name].append(way())
                print(f"round {number + 1}, {name}: {found[name][-1]:.0f}/s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    bare, slowest = medians["bare engine, a list in memory"], medians["transformers pipeline, datasets.map"]
    print(f"{len(texts)} quotes\n\n| way | rows/s | share of the engine | against the pipeline |\n|---|---|---|---|")
    for name, rate in medians.items():
        print(f"| {name} | {rate:.0f} | {rate / bare:.0%} | {rate / slowest:.1f}× |")
    draw(medians, options.out)


def _texts() -> list[str]:
    corpus = sorted((ROOT / "training" / "corpus").glob("*.jsonl"))
    return list(dict.fromkeys(json.loads(line)["text"] for path in corpus for line in path.read_text("utf-8").splitlines()))


def _write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(texts)), "utf-8")


def _run(command: list[str], folder: Path) -> float:
    for name in ("out", "cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
    start = time.perf_counter()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:5])} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def draw(medians: dict[str, float], path: Path) -> None:
    """Rows a second of each way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6), dpi=120)
    axes = figure.add_subplot()
    names = list(medians)[::-1]
    bars = axes.barh(names, [medians[name] for name in names])
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.margins(x=0.1)  # room for the numbers
    axes.set_xlabel("rows/s")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
