"""Servers side by side under the same load on the same cores, the load generator among them; `make bench-serving`.

    python -m benchmarks.serving [--rounds 3] [--seconds 5] [--only stancewire,pipeline] [--out serving.png]

Needs wrk (`apt-get install wrk`) and LitServe for its row (`pip install litserve`). Each round starts each server in turn, waits
for its first answer and puts every load on it; figures are medians over the rounds. "share" is the rate over that of the bare
engine in the layout that serves (one-threaded workers, no HTTP), measured in every round too.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.peers import make_mlflow_model, make_model
from models.bundle import DEFAULT_BUNDLE
from models.classifier import Classifier

ROOT = Path(__file__).parent.parent.parent
LOADS = ((1, 1), (8, 1), (32, 1), (128, 1), (8, 32))  # clients, sentences a request
SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True, slots=True)
class Server:
    """How a server is started, where it answers, and the key under which it takes sentences."""

    command: Sequence[str]
    path: str = "/v1/classify"
    shape: str = "sentences"


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
        texts = _sentences()
        (folder / "sentences.txt").write_text("".join(json.dumps(text) + "\n" for text in texts), "utf-8")
        make_model(folder / "model")
        make_mlflow_model(folder / "pyfunc", folder / "model")
        servers = _servers(folder)
        chosen = [name for name in options.only.split(",") if name] or list(servers)
        found: dict[str, list[dict[str, float]]] = defaultdict(list)
        for number in range(options.rounds):
            found["bare engine"].append({"list": _engine(texts), "single": _engine_single(texts)})
            for name in chosen:
                found[name].append(_measure(servers[name], folder, options.seconds))
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
    }


def _sentences() -> list[str]:
    corpus = sorted((ROOT / "training" / "corpus").glob("*.jsonl"))
    return [json.loads(line)["text"] for path in corpus for line in path.read_text("utf-8").splitlines()][::20]


def _engine(texts: list[str]) -> float:
    with Classifier.open(DEFAULT_BUNDLE) as classifier:
        classifier.warm()
        start = time.perf_counter()
        classifier.classify(texts)
        return len(texts) / (time.perf_counter() - start)


def _engine_single(texts: list[str]) -> float:
    with Classifier.open(DEFAULT_BUNDLE) as classifier:
        classifier.warm()
        calls = [call for text in texts for call in classifier.prepare([text])]
        start = time.perf_counter()
        for _ in classifier.pool.map(classifier.run, calls):
            pass
        return len(texts) / (time.perf_counter() - start)


def _measure(server: Server, folder: Path, seconds: int) -> dict[str, float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(port) if part == "PORT" else part for part in server.command]
    start = time.perf_counter()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # `mlflow models serve` calls uvicorn by name
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PATH": path}, stdout=quiet, stderr=quiet, start_new_session=True
    )
    try:
        url = f"http://127.0.0.1:{port}{server.path}"
        body = json.dumps({server.shape: ["We are ready to talk."]}).encode()
        while not _answers(url, body):
            if process.poll() is not None or time.perf_counter() - start > 180:
                sys.exit(f"{' '.join(command)} does not answer.")
            time.sleep(0.02)
        found = {"first answer, s": time.perf_counter() - start}
        for clients, count in LOADS:
            result = _wrk(url, folder, clients, count, server.shape, seconds)
            found[f"{clients}x{count}"] = result["requests"] * count / result["seconds"]
            for part in ("p50", "p95", "p99"):
                found[f"{clients}x{count} {part}"] = result[part]
            found[f"{clients}x{count} errors"] = result["errors"]
        found["RSS, MB"] = _resident_mb(os.getpgid(process.pid))
        return found
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str, body: bytes) -> bool:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def _wrk(url: str, folder: Path, clients: int, count: int, shape: str, seconds: int) -> dict[str, float]:
    threads = "1"  # one is enough for some thousand requests a second, and takes least from the server
    command = ["wrk", "-t", threads, "-c", str(clients), "-d", f"{seconds}s", "--timeout", "30s", "-s", str(SCRIPT), url, "--"]
    arguments = [str(folder / "sentences.txt"), str(count), shape]
    output = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(next(line[7:] for line in output.splitlines() if line.startswith("RESULT ")))
    return found


def _resident_mb(group: int) -> float:
    """Of all processes of a group, in MB of 10^6 bytes."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("utf-8").rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            continue
    return total / 1e6


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
    lines.append(f"\nbare engine: {bare['single']:.0f} sentences/s one a call, {bare['list']:.0f} in calls of 192 tokens by length")
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
    axes.set_xticks([position + 0.32 for position in range(len(servers))], servers, fontsize=8)
    axes.set_ylabel("sentences/s")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
