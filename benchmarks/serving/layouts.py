"""Processes times engine threads, on one core and up: `python -m benchmarks.serving.layouts [--rounds 3] [--seconds 4]`.

Server and load generator are kept to the first cores of the machine; every layout in turn, medians over the rounds.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.serving.process import Server, measure, resident_mb, running, write_sentences

LOADS = ((1, 1), (32, 1), (4, 32))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    every = sorted(os.sched_getaffinity(0))
    found: dict[tuple[int, int, int], list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        sentences, _ = write_sentences(Path(scratch))
        for _ in range(options.rounds):
            for cores in (count for count in (1, 2, 4) if count <= len(every)):
                os.sched_setaffinity(0, every[:cores])  # what is started from here inherits it
                for workers, threads in sorted({(1, 1), (1, cores), (1, 2 * cores), (cores, 1)}):
                    os.environ["STANCEWIRE_ENGINE_THREADS"] = str(threads)
                    command = [sys.executable, "-m", "stancewire", "serve", "--port", "PORT", "--workers", str(workers)]
                    with running(Server(command)) as process:
                        run = {
                            f"{clients}x{count} {part}": result[part]
                            for clients, count in LOADS
                            for result in [measure(process, sentences, clients, count, options.seconds)]
                            for part in ("rate", "p99")
                        }
                        found[cores, workers, threads].append(run | {"rss": resident_mb(process.group)})
    heads = [f"{clients} client{'s' * (clients > 1)}" + (f" × {count}" if count > 1 else "") for clients, count in LOADS]
    print(
        "| cores | processes × engine threads | " + " | ".join(f"{head}: sentences/s · p99, ms" for head in heads) + " | RSS, MB |"
    )
    print("|---" * (len(heads) + 3) + "|")
    for (cores, workers, threads), runs in sorted(found.items()):
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        cells = [f"{middle[f'{clients}x{count} rate']:.0f} · {middle[f'{clients}x{count} p99']:.0f}" for clients, count in LOADS]
        print(f"| {cores} | {workers} × {threads} | " + " | ".join(cells) + f" | {middle['rss']:.0f} |")


if __name__ == "__main__":
    main()
