"""Bodies that no honest client sends, against the real server: every answer is a problem document, and none is a 500."""

import asyncio
import gzip
import json
import random
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok

from tests.conftest import Serving
from tests.faults.test_load import ask, metric, request_of, resident_kib

NASTY = [
    b"",
    b"\x00",
    b"\xef\xbb\xbf{}",
    b"[" * 10_000,
    b'{"a":' * 10_000,
    b'{"sentences": ["\\ud800"]}',
    b'{"sentences": ["\xed\xa0\x80"]}',
    b'{"sentences": [NaN]}',
    b'{"sentences": [1e999]}',
    b'{"sentences": [-1e-999, Infinity]}',
    b'{"sentences": ["\\u0000"]}',
    b'{"sentences": ["a\x00b"]}',
    b'{"' + b"k" * 900_000 + b'": 1}',
    b'{"sentences": ["' + b"a" * 900_000 + b'"]}',
    b'{"sentences": [' + b"1," * 300_000 + b"1]}",
    b'{"sentences": ["a"], "sentences": ["b", 3]}',
    '{"sentences": ["a"]}'.encode("utf-16"),
    '{"sentences": ["a"]}'.encode("utf-32"),
    gzip.compress(b'{"sentences": ["' + b"a" * 10_000_000 + b'"]}'),
    b'{"sentences": ["' + "\u202e\u200f\ufeff".encode() * 100 + b'"]}',
    b'{"sentences": [["a"]]}',
    b'{"sentences": {"0": "a"}}',
    b'{"sentences": ["a"], "explain": 1}',
    b"null",
    b'"',
    b"9" * 100_000,
]


def test_nasty_bodies_get_problems(serving: Serving, tiny_bundle: Path) -> None:
    draw = random.Random(0)
    bodies = NASTY + [draw.randbytes(draw.randint(1, 2000)) for _ in range(200)]

    async def run(port: int) -> None:
        for body in bodies:
            for request in (
                request_of(body),
                request_of(body, "Content-Encoding: gzip"),
                request_of(body, "X-Request-Timeout-Ms: 1e9"),
            ):
                status, headers, answer = await ask(port, request)
                assert 400 <= status < 500, (status, body[:60])
                assert headers["content-type"] == "application/problem+json"
                assert json.loads(answer)["code"] and len(answer) < 2000
        assert await metric(port, "stancewire_engine_sentences") == 0

    with serving(tiny_bundle) as (_, port):
        asyncio.run(run(port))


@schemathesis.serializer("application/x-ndjson")
def one_line(context: schemathesis.SerializationContext, value: Any) -> bytes:
    """A stream of one line."""
    return json.dumps(value).encode()


def test_what_the_openapi_page_allows_and_forbids(serving: Serving, tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as (_, port):
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
        assert {operation.path for operation in operations} >= {"/v1/classify", "/v1/classify/stream", "/v1/model", "/readyz"}
        for operation in operations:
            for mode in schemathesis.GenerationMode if operation.body else [schemathesis.GenerationMode.POSITIVE]:

                @given(case=operation.as_strategy(generation_mode=mode))
                @settings(
                    max_examples=100,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    phases=[Phase.explicit, Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                def check(case: schemathesis.Case[Any]) -> None:
                    answer = case.call(base_url=f"http://127.0.0.1:{port}")
                    assert answer.status_code < 500, answer.content
                    if answer.status_code >= 400:
                        assert answer.headers["content-type"] == ["application/problem+json"]

                check()


def test_an_endless_stream_takes_no_more_memory(serving: Serving, tiny_bundle: Path) -> None:
    line = b'{"id": 1, "sentence": "We will talk for as long as it takes."}\n'

    async def run(port: int, pid: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = [
            "POST /v1/classify/stream HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Type: application/x-ndjson",
            "Transfer-Encoding: chunked",
        ]
        writer.write("\r\n".join([*head, "", ""]).encode())
        block = line * 1000
        sizes: list[int] = []

        async def send() -> None:
            for _ in range(20):
                writer.write(b"%x\r\n" % len(block) + block + b"\r\n")
                await writer.drain()
                sizes.append(resident_kib(pid))
            writer.write(b"0\r\n\r\n")

        sender = asyncio.ensure_future(send())
        received = 0
        while received < 20_000:
            part = await reader.read(1 << 16)
            assert part
            received += part.count(b'"label"')
        await sender
        writer.close()
        assert max(sizes) < 1.2 * sizes[2]

    with serving(tiny_bundle) as (process, port):
        asyncio.run(run(port, process.pid))
