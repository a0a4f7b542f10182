"""A server process under wrk's load."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True, slots=True)
class Server:
    """How a server is started (`PORT` stands for its port), where it answers, and the key under which it takes sentences."""

    command: Sequence[str]
    path: str = "/v1/classify"
    shape: str = "sentences"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has answered once, after `first_answer_s`."""

    url: str
    shape: str
    group: int
    first_answer_s: float


@contextlib.contextmanager
def running(server: Server) -> Iterator[Running]:
    """Start `server`, wait for its first answer, and kill it and its children at the end."""
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
        yield Running(url, server.shape, os.getpgid(process.pid), time.perf_counter() - start)
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


@contextlib.contextmanager
def load(server: Running, sentences: Path, clients: int, count: int, seconds: int) -> Iterator[dict[str, float]]:
    """Put `clients` clients with `count` sentences a request on `server`; the figures are there when the block has ended."""
    threads = "1"  # one is enough for some thousand requests a second, and takes least from the server
    command = ["wrk", "-t", threads, "-c", str(clients), "-d", f"{seconds}s", "--timeout", "30s", "-s", str(_SCRIPT)]
    arguments = [server.url, "--", str(sentences), str(count), server.shape]
    found: dict[str, float] = {}
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        yield found
        output, _ = process.communicate()
    found.update(json.loads(next(line[7:] for line in output.splitlines() if line.startswith("RESULT "))))
    found["rate"] = found["requests"] * count / found["seconds"]


def measure(server: Running, sentences: Path, clients: int, count: int, seconds: int) -> dict[str, float]:
    """Rate in sentences a second, p50, p95 and p99 in milliseconds, and errors under one load."""
    with load(server, sentences, clients, count, seconds) as found:
        pass
    return found


def resident_mb(group: int) -> float:
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


def write_sentences(folder: Path) -> tuple[Path, list[str]]:
    """Every twentieth quote of the corpus, and a file of them in `folder` for `load`."""
    corpus = sorted((ROOT / "training" / "corpus").glob("*.jsonl"))
    texts = [json.loads(line)["text"] for path in corpus for line in path.read_text("utf-8").splitlines()][::20]
    target = folder / "sentences.txt"
    target.write_text("".join(json.dumps(text) + "\n" for text in texts), "utf-8")
    return target, texts
