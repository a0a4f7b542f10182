"""What the service promises under load, kept by the real server process with the model that ships."""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Serving

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "models" / "default"
SENTENCE = "The minister said that the talks would go on for as long as both sides wished to sit at one table."
TYPE = "application/json"


def body_of(sentences: list[str]) -> bytes:
    return json.dumps({"sentences": sentences}).encode()


def request_of(body: bytes, *headers: str, path: str = "/v1/classify", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {TYPE}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    return int(status.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def ask(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await read_answer(reader)
    finally:
        writer.close()


async def metric(port: int, name: str) -> float:
    _, _, page = await ask(port, request_of(b"", path="/metrics", method="GET"))
    return next(float(line.split()[1]) for line in page.decode().splitlines() if line.startswith(name + " "))


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def test_ten_times_too_much_is_refused_with_a_time_to_come_back(serving: Serving) -> None:
    request = request_of(body_of([SENTENCE] * 16))

    async def overload(port: int, pid: int) -> tuple[Counter[int], list[int]]:
        found: Counter[int] = Counter()
        sizes: list[int] = []

        async def one() -> None:
            status, headers, body = await ask(port, request)
            found[status] += 1
            if status in (429, 503):
                assert int(headers["retry-after"]) >= 1
            if status != 200:
                assert headers["content-type"] == "application/problem+json" and json.loads(body)["code"]

        await asyncio.gather(*(one() for _ in range(20)))
        found.clear()
        tasks: list[asyncio.Task[None]] = []
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < 30:
            while len(tasks) < passed * 250:  # 4,000 sentences a second, and one thread does some 300
                tasks.append(asyncio.ensure_future(one()))
            sizes.append(resident_kib(pid))
            await asyncio.sleep(0.02)
        await asyncio.gather(*tasks)
        assert (await ask(port, request))[0] == 200, "and afterwards it answers as before"
        return found, sizes

    with serving(MODEL, engine_threads=1, max_queued_tokens=4000) as (process, port):
        found, sizes = asyncio.run(overload(port, process.pid))
    assert set(found) <= {200, 429, 503, 504}
    assert found[200] > 50 and found[429] > 10 * found[200] / 3
    third = len(sizes) // 3
    assert max(sizes[-third:]) < 1.1 * max(sizes[:third]), "memory is flat"


def test_what_is_late_is_said_and_not_computed(serving: Serving) -> None:
    large = request_of(body_of([f"{SENTENCE} ({n})" for n in range(256)]))
    small = request_of(body_of([SENTENCE]), "X-Request-Timeout-Ms: 50")

    async def run(port: int) -> None:
        ended: list[str] = []

        async def noted(name: str, request: bytes) -> int:
            status, _, _ = await ask(port, request)
            ended.append(name)
            return status

        slow = [asyncio.ensure_future(noted("large", large)) for _ in range(6)]
        while await metric(port, "stancewire_queued_tokens") < 20_000:
            await asyncio.sleep(0.01)
        statuses = Counter(await asyncio.gather(*(noted("small", small) for _ in range(1000))))
        assert set(statuses) <= {200, 504} and statuses[504] > 500
        assert ended.count("small") == 1000 and ended.count("large") < 6, "they were answered before the engine was free"
        assert [await task for task in slow] == [200] * 6
        computed = await metric(port, "stancewire_engine_sentences")
        warm = computed - 6 * 256 - statuses[200]
        assert warm <= 100, "at most those were computed in vain that were with the engine when their time was up"
        assert await metric(port, "stancewire_queued_tokens") == 0

    with serving(MODEL, engine_threads=1, max_queued_tokens=1_000_000) as (_, port):
        asyncio.run(run(port))


def test_clients_that_hang_up_leave_nothing_behind(serving: Serving) -> None:
    request = request_of(body_of([SENTENCE] * 16))

    async def run(port: int) -> None:
        async def hang_up() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            await writer.drain()
            await asyncio.sleep(random.random() / 10)
            writer.close()

        await asyncio.gather(*(hang_up() for _ in range(300)))
        while await metric(port, "stancewire_requests_in_flight") > 1:  # the request for the metrics is one
            await asyncio.sleep(0.05)
        assert await metric(port, "stancewire_queued_tokens") == 0
        assert await metric(port, "stancewire_engine_sentences") < 300 * 16
        assert (await ask(port, request))[0] == 200

    with serving(MODEL, engine_threads=1, max_queued_tokens=1_000_000) as (_, port):
        asyncio.run(run(port))


def test_half_sent_bodies_do_not_slow_the_others(serving: Serving) -> None:
    whole = request_of(body_of([SENTENCE]))

    async def run(port: int) -> None:
        half = []
        for _ in range(100):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(whole[:-20])
            half.append((reader, writer))
        answers = [asyncio.ensure_future(read_answer(reader)) for reader, _ in half]
        for _ in range(40):
            assert {status for status, _, _ in await asyncio.gather(*(ask(port, whole) for _ in range(5)))} == {200}
        assert not any(answer.done() for answer in answers), "all 200 were answered while the halves were waited for"
        late = await asyncio.gather(*answers)
        assert {(status, json.loads(body)["code"]) for status, _, body in late} == {(408, "body_timeout")}
        for _, writer in half:
            writer.close()

    with serving(MODEL, body_timeout_s=8) as (_, port):
        asyncio.run(run(port))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_under_load_loses_nothing_that_was_accepted(serving: Serving, tiny_bundle: Path, workers: int) -> None:
    request = request_of(body_of([SENTENCE] * 4))

    async def client(port: int, stopping: asyncio.Event) -> int:
        answered = 0
        while not stopping.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while True:
                writer.write(request)
                status, headers, _ = await read_answer(reader)  # IncompleteReadError: an accepted request was lost
                assert status == 200
                answered += 1
                if headers.get("connection") == "close":
                    break
            writer.close()
        return answered

    async def run(port: int, stop: object) -> int:
        await ask(port, request)  # with several processes, the socket listens before one of them is up
        stopping = asyncio.Event()
        clients = [asyncio.ensure_future(client(port, stopping)) for _ in range(8)]
        await asyncio.sleep(0.3)
        stopping.set()
        assert callable(stop)
        stop()
        return sum(await asyncio.gather(*clients))

    for _ in range(50 if workers == 1 else 5):
        with serving(tiny_bundle, workers=workers) as (process, port):
            assert asyncio.run(run(port, lambda process=process: process.send_signal(signal.SIGTERM))) > 8
            _, errors = process.communicate(timeout=30)
            assert (process.returncode, errors) == (0, "")
