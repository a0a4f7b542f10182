"""What each layer over the engine costs: `python -m benchmarks.serving.layers [--rounds 3] [--seconds 3]`.

One server after the other under 32 clients with one sentence a request: uvicorn with a bare ASGI handler that answers a constant,
FastAPI with a pydantic body and the same constant, Stancewire with an engine that answers at once, and Stancewire as it serves.
"""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.process import Server, measure, running, write_sentences
from models.bundle import DEFAULT_BUNDLE, open_bundle
from models.classifier import Classifier
from models.schema import FloatArray
from service.app import Opened, create_app
from service.protocol import GuardedConfig
from service.settings import Settings

Message = MutableMapping[str, Any]
KINDS = ("bare ASGI", "FastAPI", "stancewire, no engine", "stancewire")
_ANSWER = b'{"results": [{"label": "neutral", "score": 0.0}]}'


async def bare(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    """Read the body and answer a constant."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": _ANSWER})


class Body(BaseModel):
    """What a plain FastAPI service would take."""

    sentences: list[str]


class Instant:
    """An engine that computes nothing."""

    def run(self, rows: Sequence[Sequence[int]]) -> FloatArray:
        """Zeros."""
        return np.zeros((len(rows), 3))


def serve(kind: str, port: int) -> None:
    """Serve one of the layers."""
    if kind == "bare ASGI":
        uvicorn.run(bare, port=port, log_level="warning", access_log=False)
    elif kind == "FastAPI":
        app = FastAPI()

        @app.post("/v1/classify")
        async def classify(body: Body) -> dict[str, Any]:
            return {"results": [{"label": "neutral", "score": 0.0}]}

        uvicorn.run(app, port=port, log_level="warning", access_log=False)
    else:
        engine = Instant() if kind == "stancewire, no engine" else None
        settings = Settings(port=port)
        with Classifier(open_bundle(DEFAULT_BUNDLE), engine=engine) as classifier:
            app = create_app(settings, Opened(classifier, "benchmark"))
            uvicorn.Server(
                GuardedConfig(app, port=port, head_timeout_s=settings.body_timeout_s, log_level="warning", access_log=False)
            ).run()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        sentences, _ = write_sentences(Path(scratch))
        for _ in range(options.rounds):
            for kind in KINDS:
                with running(Server([sys.executable, "-m", "benchmarks.serving.layers", kind, "PORT"])) as process:
                    found[kind].append(measure(process, sentences, 32, 1, options.seconds))
    print("| layer | requests/s, 32 clients | p50, ms | p99, ms |\n|---|---|---|---|")
    for kind, runs in found.items():
        rate, p50, p99 = (statistics.median(run[key] for run in runs) for key in ("rate", "p50", "p99"))
        print(f"| {kind} | {rate:.0f} | {p50:.1f} | {p99:.1f} |")


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] in KINDS:
        serve(sys.argv[1], int(sys.argv[2]))
    else:
        main()
