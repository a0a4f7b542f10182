"""Another model takes the place of the one that answers, under load: nothing fails, and nothing is left behind."""

import asyncio
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from models.bundle import open_bundle
from models.classifier import Classifier
from models.registry import Source, resolve
from service.api import ClassifyRequest
from service.slot import Slot
from service.telemetry import Telemetry
from tests.conftest import Serving
from tests.service.conftest import Registry, call

CLIENTS, SWAPS = 64, 100
SENTENCES = [f"We will talk about point {n}." for n in range(8)]


def resident_mb(process_id: int) -> float:
    pages = int(Path(f"/proc/{process_id}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def ask(port: int) -> tuple[int, dict[str, Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"sentences": SENTENCES}).encode()
    head = f"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head += "Connection: close\r\n\r\n"
    writer.write(head.encode() + body)
    raw = await reader.read()
    writer.close()
    first, _, rest = raw.partition(b"\r\n\r\n")
    return int(first.split()[1]), json.loads(rest)


def test_a_hundred_swaps_under_load(serving: Serving, registry: Registry) -> None:
    expected = {}
    for bundle in registry.bundles[:2]:
        with Classifier(bundle) as classifier:
            expected[bundle.id] = [prediction.probabilities for prediction in classifier.classify(SENTENCES)]

    async def load(port: int) -> dict[str, int]:
        stop = asyncio.Event()
        seen = dict.fromkeys(expected, 0)

        async def client() -> None:
            while not stop.is_set():
                status, answer = await ask(port)
                assert status == 200, answer
                found = answer["model"]["id"]
                for result, right in zip(answer["results"], expected[found], strict=True):
                    assert result["probabilities"] == pytest.approx(right, abs=2e-3), "the answer is that model's"
                seen[found] += 1

        clients = [asyncio.ensure_future(client()) for _ in range(CLIENTS)]
        try:
            for swap in range(1, SWAPS + 1):
                await asyncio.to_thread(registry.point, swap % 2)
                status, answer = await asyncio.to_thread(call, port, "POST", "/v1/admin/reload")
                assert (status, answer["swapped"], answer["id"]) == (200, True, registry.bundles[swap % 2].id)
        finally:
            stop.set()
            await asyncio.gather(*clients)
        return seen

    with serving("models:/swap@champion", follow_s=0) as (process, port):
        for _ in range(50):
            call(port, "POST", "/v1/classify", {"sentences": SENTENCES})
        registry.point(1)
        assert call(port, "POST", "/v1/admin/reload")[1]["swapped"]
        registry.point(0)
        assert call(port, "POST", "/v1/admin/reload")[1]["swapped"]
        before = resident_mb(process.pid)
        seen = asyncio.run(load(port))
        assert min(seen.values()) > SWAPS / 4, "both models answered"
        assert call(port, "GET", "/v1/model")[1]["following"]["swaps"] == SWAPS + 2
        assert "stancewire_swaps_total 102.0" in call(port, "GET", "/metrics")[1]
        assert call(port, "GET", "/metrics")[1].count("stancewire_model_info{") == 1
        for _ in range(100):  # the last one has drained by then
            if resident_mb(process.pid) < before * 1.15 + 30:
                break
            time.sleep(0.1)
        assert resident_mb(process.pid) < before * 1.15 + 30


def test_the_alias_is_followed_without_being_told(serving: Serving, registry: Registry) -> None:
    with serving("models:/swap@champion", follow_s=0.1) as (_, port):
        assert call(port, "GET", "/v1/model")[1]["id"] == registry.bundles[0].id
        registry.point(1)
        for _ in range(300):
            if call(port, "GET", "/v1/model")[1]["id"] == registry.bundles[1].id:
                break
            time.sleep(0.1)
        found = call(port, "GET", "/v1/model")[1]
        assert (found["id"], found["following"]["swaps"], found["following"]["error"]) == (registry.bundles[1].id, 1, None)


def test_what_is_wrong_with_a_candidate_is_said_and_the_old_one_answers(serving: Serving, registry: Registry) -> None:
    with serving("models:/swap@champion", follow_s=0) as (_, port):

        def refused(words: str) -> None:
            status, answer = call(port, "POST", "/v1/admin/reload")
            assert (status, answer["code"]) == (502, "swap_failed"), answer
            assert words in answer["detail"]
            found = call(port, "GET", "/v1/model")[1]
            assert found["id"] == registry.bundles[0].id
            assert words in found["following"]["error"]
            assert call(port, "POST", "/v1/classify", {"sentences": SENTENCES})[0] == 200

        registry.point(2)
        refused("has the labels a, b, c")
        registry.point(1)
        artifacts = (registry.folder / "mlruns").rglob("artifacts/bundle/model.onnx")
        [stored] = [path for path in artifacts if open_bundle(path.parent).id == registry.bundles[1].id]
        content = stored.read_bytes()
        stored.write_bytes(content[:-10] + b"0123456789")
        refused("is damaged")
        stored.unlink()
        refused("model.onnx")
        database = registry.folder / "mlflow.db"
        database.rename(registry.folder / "away.db")
        refused("there is no registry")
        (registry.folder / "away.db").rename(database)
        stored.write_bytes(content)
        assert call(port, "POST", "/v1/admin/reload")[1]["id"] == registry.bundles[1].id
        assert call(port, "GET", "/v1/model")[1]["following"]["error"] is None
        metrics = call(port, "GET", "/metrics")[1]
        assert "stancewire_swap_failures_total 4.0" in metrics and "stancewire_swaps_total 1.0" in metrics


def test_a_refused_candidate_is_tried_once_until_somebody_asks(serving: Serving, registry: Registry) -> None:
    with serving("models:/swap@champion", follow_s=0.1) as (_, port):

        def failures() -> str:
            [line] = [
                line for line in call(port, "GET", "/metrics")[1].splitlines() if line.startswith("stancewire_swap_failures_total ")
            ]
            return str(line.split()[1])

        registry.point(2)
        for _ in range(300):
            if failures() != "0.0":
                break
            time.sleep(0.1)
        asked = call(port, "GET", "/v1/model")[1]["following"]["asked"]
        for _ in range(100):  # it goes on asking the registry, and does not fetch what it means
            if call(port, "GET", "/v1/model")[1]["following"]["asked"] > asked:
                break
            time.sleep(0.1)
        found = call(port, "GET", "/v1/model")[1]["following"]
        assert found["asked"] > asked and "has the labels a, b, c" in found["error"]
        assert failures() == "1.0"
        assert call(port, "POST", "/v1/admin/reload")[0] == 502
        assert failures() == "2.0"
        registry.point(1)
        for _ in range(300):
            if call(port, "GET", "/v1/model")[1]["id"] == registry.bundles[1].id:
                break
            time.sleep(0.1)
        assert call(port, "GET", "/v1/model")[1]["following"]["error"] is None


def test_a_slow_candidate_holds_nobody_up(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fetching is made to last; everything else is as ever."""
    fetched = threading.Event()

    def slowly(model: str) -> Source:
        fetched.wait(60)
        return resolve(model)

    async def swap() -> tuple[list[str], str]:
        slot = Slot("models:/swap@champion", Telemetry(), workers=1, max_queued_tokens=65536)
        await slot.fill(lambda: (Classifier(registry.bundles[0]), "1"))
        registry.point(1)
        monkeypatch.setattr("service.slot.resolve", slowly)
        asking = asyncio.ensure_future(slot.ask())
        meanwhile = []
        for _ in range(200):
            with slot.lease() as answers:
                asked = ClassifyRequest(sentences=SENTENCES)
                await answers.request(asked, 30, asyncio.get_running_loop().create_future())
                meanwhile.append(answers.bundle.id)
        assert not asking.done()
        fetched.set()
        assert await asking
        with slot.lease() as answers:
            last = answers.bundle.id
        await slot.close()
        return meanwhile, last

    meanwhile, last = asyncio.run(swap())
    assert set(meanwhile) == {registry.bundles[0].id} and last == registry.bundles[1].id


def test_a_model_that_cannot_change_is_not_followed(serving: Serving, tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as (_, port):
        assert call(port, "GET", "/v1/model")[1]["following"] is None
        expected = {"swapped": False, "version": "1", "id": open_bundle(tiny_bundle).id}
        assert call(port, "POST", "/v1/admin/reload") == (200, expected)
