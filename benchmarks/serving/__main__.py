"""Servers side by side under the same load on the same cores, the load generator among them; `make bench-serving`.

    python -m benchmarks.serving [--rounds 3] [--seconds 5] [--only stancewire,pipeline] [--out serving.png]

Needs wrk (`apt-get install wrk`) and LitServe for its row (`pip install litserve`). Each round starts each server in turn, waits
for its first answer and puts every load on it; figures are medians over the rounds. "share" is the rate over that of the bare
engine in the layout that serves (one-threaded workers, no HTTP), measured in every round too.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.bare import engine_rate
from benchmarks.serving.peers import make_mlflow_model, make_model
from benchmarks.serving.process import Server, load, measure, resident_mb, running, write_sentences
from models.bundle import DEFAULT_BUNDLE
from models.classifier import Classifier

LOADS = ((1, 1), (8, 1), (32, 1), (128, 1), (4, 32), (8, 32))  # clients, sentences a request
LARGE = 256  # sentences of the large requests that a single client stands beside


def main() -> None:
    """Run the rounds, print the table and draw it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=Path("serving.png"))
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed. Install it with: apt-get install wrk")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sentences, texts = write_sentences(folder)
        make_model(folder / "model")
        make_mlflow_model(folder / "pyfunc", folder / "model")
        servers = _servers(folder)
        chosen = [name for name in options.only.split(",") if name] or list(servers)
        found: dict[str, list[dict[str, float]]] = defaultdict(list)
        for number in range(options.rounds):
            found["bare engine"].append(
                {"list": engine_rate(texts), "single": _engine_single(texts), "alone": _engine_alone(texts)}
            )
            for name in chosen:
                found[name].append(_measure(servers[name], sentences, options.seconds))
                print(f"round {number + 1}, {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    medians = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    print(table(medians))
    draw(medians, options.out)


def _servers(folder: Path) -> dict[str, Server]:
    pipeline = [sys.executable, "-m", "benchmarks.serving.peers", "PORT", str(folder / "model")]
    litserve = [sys.executable, "-m", "benchmarks.serving.peer_litserve", "PORT", str(folder / "model")]
    stancewire = [sys.executable, "-m", "stancewire", "serve", "--port"]
    mlflow = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder / "pyfunc"), "--env-manager", "local", "--port"]
    return {
        "stancewire": Server([*stancewire, "PORT"]),
        "stancewire, 2 processes": Server([*stancewire, "PORT", "--workers", "2"]),
        "FastAPI + pipeline": Server(pipeline),
        "mlflow models serve": Server([*mlflow, "PORT"], "/invocations", "inputs"),
        "LitServe + pipeline": Server(litserve),
        "LitServe + the same engine": Server([*litserve[:-1], "ENGINE"]),
    }


def _engine_single(texts: list[str]) -> float:
    with Classifier.open(DEFAULT_BUNDLE) as classifier:
        classifier.warm()
        calls = [call for text in texts for call in classifier.prepare([text])]
        start = time.perf_counter()
        for _ in classifier.pool.map(classifier.run, calls):
            pass
        return len(texts) / (time.perf_counter() - start)


def _engine_alone(texts: list[str]) -> float:
    """Milliseconds that one sentence takes with nothing beside it, text to answer, the middle of all."""
    with Classifier.open(DEFAULT_BUNDLE, workers=1) as classifier:
        classifier.warm()
        taken = []
        for text in texts[:300]:
            start = time.perf_counter()
            classifier.answer(classifier.encoder.encode([text]))
            taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def _measure(server: Server, sentences: Path, seconds: int) -> dict[str, float]:
    with running(server) as process:
        found = {"first answer, s": process.first_answer_s}
        for clients, count in LOADS:
            result = measure(process, sentences, clients, count, seconds)
            key = f"{clients}x{count}"
            found[key] = result["rate"]
            for part in ("p50", "p95", "p99", "errors"):
                found[f"{key} {part}"] = result[part]
        with load(process, sentences, 1, LARGE, seconds) as large:
            beside = measure(process, sentences, 1, 1, max(1, seconds - 1))
        found |= {"beside p50": beside["p50"], "beside p99": beside["p99"], "large p50": large["p50"]}
        found["RSS, MB"] = resident_mb(process.group)
        return found


def table(medians: dict[str, dict[str, float]]) -> str:
    """Markdown: sentences a second and p99 in milliseconds for each load, the share of the bare engine, memory, start."""
    bare = medians["bare engine"]
    heads = [f"{clients} client{'s' * (clients > 1)}" + (f" × {count}" if count > 1 else "") for clients, count in LOADS]
    lines = ["| server | " + " | ".join(heads) + " | share | first answer, s | RSS, MB |", "|---" * (len(heads) + 4) + "|"]
    for name, found in medians.items():
        if name == "bare engine":
            continue
        cells = []
        for clients, count in LOADS:
            key = f"{clients}x{count}"
            if not found[key]:
                cells.append("no answer in time")
                continue
            failed = f", {found[f'{key} errors']:.0f} errors" if found[f"{key} errors"] else ""
            cells.append(
                f"{found[key]:.0f} · {found[f'{key} p50']:.0f} / {found[f'{key} p95']:.0f} / {found[f'{key} p99']:.0f}{failed}"
            )
        share = found["32x1"] / bare["single"]
        lines.append(
            f"| {name} | " + " | ".join(cells) + f" | {share:.0%} | {found['first answer, s']:.1f} | {found['RSS, MB']:.0f} |"
        )
    lines.append(
        f"\nbare engine: {bare['single']:.0f} sentences/s one a call, {bare['list']:.0f} in calls of 192 tokens by length, "
        f"{bare['alone']:.1f} ms for one sentence alone"
    )
    for name, found in medians.items():
        if name != "bare engine":
            lines.append(
                f"{name}: a single sentence beside requests of {LARGE} (p50 {found['large p50']:.0f} ms): "
                f"p50 {found['beside p50']:.0f}, p99 {found['beside p99']:.0f} ms; alone p99 {found['1x1 p99']:.0f} ms"
            )
    return "\n".join(lines)


def draw(medians: dict[str, dict[str, float]], path: Path) -> None:
    """Sentences a second by load, a group of bars for each server."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=120)
    axes = figure.add_subplot()
    servers = [name for name in medians if name != "bare engine"]
    for place, (clients, count) in enumerate(LOADS):
        offsets = [position + place * 0.16 for position in range(len(servers))]
        axes.bar(offsets, [medians[name][f"{clients}x{count}"] for name in servers], 0.15, label=f"{clients} clients × {count}")
    axes.axhline(medians["bare engine"]["single"], color="grey", linestyle="--", label="bare engine, one a call")
    names = [name.replace(" + ", " +\n").replace(", ", ",\n") for name in servers]
    axes.set_xticks([position + 0.32 for position in range(len(servers))], names, fontsize=8)
    axes.set_ylabel("sentences/s")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
