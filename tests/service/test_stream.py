"""NDJSON in and out: order, faults in their place, and where lines end."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from service.stream import split_lines

HEADERS = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[TestClient]:
    settings = Settings(model=str(tiny_bundle), max_characters=500, max_body_bytes=2000, max_queued_tokens=500)
    with TestClient(
        create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 50_000), raise_server_exceptions=False
    ) as client:
        yield client


def stream(client: TestClient, body: bytes) -> list[dict[str, Any]]:
    answer = client.post("/v1/classify/stream", content=(body[n : n + 777] for n in range(0, len(body), 777)), headers=HEADERS)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_line_for_a_line_in_order_over_any_budget(client: TestClient) -> None:
    sentences = [f"We will talk {'again ' * (n % 30)}on day {n}." for n in range(400)]
    body = "".join(json.dumps({"id": n, "sentence": sentence}) + "\n" for n, sentence in enumerate(sentences))
    lines = stream(client, body.encode())
    assert [line["id"] for line in lines] == list(range(400))
    whole = [
        result
        for start in range(0, 400, 10)
        for result in client.post("/v1/classify", json={"sentences": sentences[start : start + 10]}).json()["results"]
    ]
    model = client.get("/v1/model").json()["id"]
    assert [{key: value for key, value in line.items() if key not in ("id", "model")} for line in lines] == whole
    assert {line["model"] for line in lines} == {model}


def test_a_bad_line_is_answered_in_its_place(client: TestClient) -> None:
    body = b"\n".join(
        [
            b'{"sentence": "We will talk.", "id": "a\\u00e9"}',
            b"{",
            b"",
            b'{"sentence": "\\ud800"}',
            b'{"sentence": NaN}',
            b'{"sentence": "a", "more": 1}',
            b'{"sentence": " ", "id": 7}',
            b'{"sentence": "' + b"a" * 600 + b'"}',
            b'{"sentence": "' + b"a" * 5000 + b'"}',
            b"\xff\xfe",
            b'{"sentence": "We will talk."}\r',
            b'{"sentence": "No talks."}',
        ]
    )
    lines = stream(client, body)
    codes = [line["error"]["code"] if "error" in line else line["label"] is not None for line in lines]
    assert codes == [
        True,
        "invalid_json",
        "invalid_json",
        "invalid_request",
        "invalid_request",
        "empty_sentence",
        "sentence_too_long",
        "line_too_large",
        "invalid_json",
        True,
        True,
    ]
    assert [line["error"]["line"] for line in lines if "error" in line] == [2, 4, 5, 6, 7, 8, 9, 10]
    assert lines[0]["id"] == "aé"
    assert next(line["id"] for line in lines if line.get("error", {}).get("code") == "empty_sentence") == 7


def test_an_empty_stream_has_an_empty_answer(client: TestClient) -> None:
    assert stream(client, b"") == []
    answer = client.post("/v1/classify/stream", content=b"{}", headers={"Content-Type": "text/csv"})
    assert (answer.status_code, answer.json()["code"]) == (415, "wrong_content_type")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_are_the_same_however_the_body_is_cut(size: int) -> None:
    body = b"one\n\ntwo\r\n" + b"x" * 20 + b"\nthree\n" + b"y" * 11

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    async def collect() -> list[bytes | None]:
        return [line async for line in split_lines(chunks(), 10)]

    assert asyncio.run(collect()) == [b"one", b"", b"two\r", None, b"three", None]
