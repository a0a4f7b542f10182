"""Labels over HTTP, on the real store: stored once, on disk, out again, and what to label next."""

import contextlib
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from models.label_store import LabelStore, Seen
from service.app import create_app
from service.labels import pick
from service.settings import Settings
from tests.conftest import Serving, children
from tests.postgres import postgres, programs

HERE = ("127.0.0.1", 50_000)


@pytest.fixture
def settings(tiny_bundle: Path, tmp_path: Path) -> Settings:
    return Settings(model=str(tiny_bundle), database_url=f"sqlite:///{tmp_path}/labels.db", remember_unsure=True)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=HERE, raise_server_exceptions=False) as client:
        yield client


def give(client: TestClient, *labels: dict[str, Any]) -> Any:
    return client.post("/v1/labels", json={"labels": list(labels)})


def test_a_label_is_stored_once_and_comes_out_as_it_went_in(client: TestClient, tmp_path: Path) -> None:
    one = {
        "sentence": "We met. “대화”",
        "label": "neutral",
        "key": "k1",
        "predicted": "pro_dialogue",
        "confidence": 0.4,
        "note": "n",
    }
    other = {"sentence": "Sanctions stay.", "label": "pro_pressure", "annotator": "Ann"}
    first = give(client, one, other)
    assert first.status_code == 200
    assert [label["new"] for label in first.json()["labels"]] == [True, True]
    assert give(client, one).json()["labels"] == [{"key": "k1", "new": False}]
    with sqlite3.connect(tmp_path / "labels.db") as base:
        assert base.execute("SELECT count(*) FROM labels").fetchone() == (2,)
    answer = client.get("/v1/labels/export")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert [(row["text"], row["label"], row["annotator"]) for row in rows] == [
        ("We met. “대화”", "neutral", "local"),
        ("Sanctions stay.", "pro_pressure", "Ann"),
    ]
    assert rows[0] | {"at": ""} == {
        "id": "k1", "text": one["sentence"], "label": "neutral", "annotator": "local", "at": "",
        "predicted": "pro_dialogue", "confidence": 0.4, "note": "n",
    }  # fmt: skip


@pytest.mark.parametrize(("body", "status", "code", "pointer"), [
    ({"labels": []}, 422, "invalid_request", "#/labels"),
    ({"labels": [{"sentence": "a", "label": "hawkish"}]}, 422, "unknown_label", "#/labels/0/label"),
    ({"labels": [{"sentence": " \u200b", "label": "neutral"}]}, 422, "empty_sentence", "#/labels/0/sentence"),
    ({"labels": [{"sentence": "a", "label": "neutral", "confidence": 2}]}, 422, "invalid_request", "#/labels/0/confidence"),
    ({"labels": [{"sentence": "a", "label": "neutral", "evil": 2}]}, 422, "invalid_request", "#/labels/0"),
    ({"labels": [{"sentence": "a", "label": "neutral", "key": "k"}, {"sentence": "b", "label": "neutral", "key": "k"}]},
     409, "key_taken", "#/labels/0/key"),
    ({"labels": [{"sentence": "a", "label": "neutral", "note": "a\x00b"}]}, 422, "invalid_request", "#/labels/0"),
    ({"labels": [{"sentence": "a" * 5001, "label": "neutral"}]}, 422, "sentence_too_long", "#/labels/0/sentence"),
    ([], 422, "invalid_request", "#"),
])  # fmt: skip
def test_what_cannot_be_stored_is_refused_whole(client: TestClient, body: Any, status: int, code: str, pointer: str) -> None:
    answer = client.post("/v1/labels", json=body)
    found = answer.json()
    assert (answer.status_code, found["code"], found["errors"][0]["pointer"]) == (status, code, pointer)
    assert client.get("/v1/labels/export").text == ""


def test_bodies_that_are_no_json(client: TestClient) -> None:
    for body, kind, status in (
        (b"\xff", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b'{"labels": [NaN]}', "application/json", 422),
    ):
        assert client.post("/v1/labels", content=body, headers={"Content-Type": kind}).status_code == status


def test_the_queue_holds_what_was_unsure_and_unlabelled(client: TestClient, settings: Settings) -> None:
    sentences = [f"We will talk about point {n}." for n in range(40)] * 2
    results = client.post("/v1/classify", json={"sentences": sentences}).json()["results"]
    unsure = {sentence for sentence, result in zip(sentences, results, strict=True) if not result["confident"]}
    assert unsure, "the tiny model is sure of little"
    queue = client.get("/v1/labels/queue?limit=200").json()
    assert {item["sentence"] for item in queue["items"]} == unsure
    assert {item["times"] for item in queue["items"]} == {2}
    assert queue["labels"] == ["pro_dialogue", "pro_pressure", "neutral"]
    done = queue["items"][0]["sentence"]
    give(client, {"sentence": done, "label": "neutral"})
    assert {item["sentence"] for item in client.get("/v1/labels/queue?limit=200").json()["items"]} == unsure - {done}
    other = client.get("/v1/labels/queue?limit=200&annotator=Ann").json()["items"]
    assert {item["sentence"] for item in other} == unsure, "each annotator is asked once"
    assert client.get("/v1/labels/queue?limit=0").status_code == 422


def test_the_queue_s_order() -> None:
    def seen(sentence: str, times: int, confidence: float) -> Seen:
        return Seen(sentence, times, "neutral", confidence, "m")

    candidates = [
        seen("talks go on today", 9, 0.5),
        seen("talks go on today too", 8, 0.5),
        seen("sanctions remain", 1, 0.4),
        seen("sure thing", 9, 0.9),
    ]
    assert [each.sentence for each in pick(candidates, 3)] == ["talks go on today", "sanctions remain", "sure thing"]
    assert len(pick(candidates, 99)) == 4


def test_a_store_that_does_not_work_is_said_and_classifying_goes_on(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, it is only text " * 50, "utf-8")
    broken = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/text.db"})
    with TestClient(create_app(broken), base_url="http://127.0.0.1", client=HERE, raise_server_exceptions=False) as client:
        answer = give(client, {"sentence": "a", "label": "neutral"})
        assert (answer.status_code, answer.json()["code"]) == (503, "labels_unavailable")
        assert "STANCEWIRE_DATABASE_URL" in answer.json()["detail"]
        assert client.post("/v1/classify", json={"sentences": ["We will talk about this point."]}).status_code == 200


def test_the_store_keeps_every_label_and_reads_the_latest(tmp_path: Path) -> None:
    from models.label_store import Label

    store = LabelStore(f"sqlite:///{tmp_path}/labels.db")
    store.add([Label("We met.", "neutral", "Ann"), Label("We  met.", "pro_dialogue", "Ann"), Label("We met.", "neutral", "Bo")])
    assert [(label.annotator, label.label) for label in store.current()] == [("Ann", "pro_dialogue"), ("Bo", "neutral")]
    assert store.count() == 3
    store.close()


def test_without_the_packages_of_the_store_the_rest_goes_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "models.label_store", None)  # an import of it fails now
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=HERE, raise_server_exceptions=False) as client:
        for answer in (give(client, {"sentence": "We met.", "label": "neutral"}), client.get("/v1/labels/export")):
            assert (answer.status_code, answer.json()["code"]) == (503, "labels_unavailable")
            assert "stancewire[registry]" in answer.json()["detail"]
        for _ in range(2):
            assert client.post("/v1/classify", json={"sentences": ["We met.", "They left."]}).status_code == 200


@contextlib.contextmanager
def frozen(main: int) -> Iterator[None]:
    """A process and its children stand still while the block runs."""
    os.kill(main, signal.SIGSTOP)
    processes = [main, *children(main)]
    try:
        for each in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGSTOP)
        yield
    finally:
        for each in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)


@pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed: apt-get install postgresql")
def test_a_database_that_hangs_holds_up_its_own_callers_alone(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, serving: Serving
) -> None:
    label = {"sentence": "We met.", "label": "neutral", "key": "k"}
    with (
        postgres(tmp_path_factory.mktemp("postgres")) as url,
        serving(tiny_bundle, database_url=url, remember_unsure=True) as (process, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        assert client.post("/v1/labels", json={"labels": [label]}).json()["labels"] == [{"key": "k", "new": True}]
        with sa.create_engine(url).connect() as connection:
            backend = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
            main = int(Path(f"/proc/{backend}/status").read_text("utf-8").partition("PPid:")[2].split()[0])
        with frozen(main):
            with ThreadPoolExecutor(100) as pool:
                address, body = f"{client.base_url}/v1/labels", {"labels": [label]}
                given = [pool.submit(httpx.post, address, json=body, timeout=60) for _ in range(100)]
                for _ in range(50):
                    assert client.post("/v1/classify", json={"sentences": ["We met."]}).status_code == 200
                answers = [each.result() for each in given]
            assert {answer.status_code for answer in answers} == {503}
            assert all(answer.headers["retry-after"] == "30" for answer in answers)
            said = {answer.json()["detail"].partition(":")[0] for answer in answers}
            late = "The label store has not answered in 10 seconds. Try again later, with the same keys."
            assert said == {"Nothing was stored", late}
        for _ in range(100):
            if (answer := client.post("/v1/labels", json={"labels": [label]})).status_code == 200:
                break
            time.sleep(0.1)
        assert answer.json()["labels"] == [{"key": "k", "new": False}]
        with frozen(main):
            with pytest.raises(httpx.TimeoutException):
                client.post("/v1/labels", json={"labels": [label]}, timeout=1)
            process.terminate()
            assert process.wait(60) == 0, "a call that hangs does not hold up the end"
