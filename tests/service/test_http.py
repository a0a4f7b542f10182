"""The contract of every address, against the real app on a real bundle."""

import gc
import gzip
import logging
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from models.bundle import open_bundle
from models.classifier import Classifier
from service.app import Opened, create_app
from service.settings import Settings

SENTENCES = [f"We are ready to talk, for the {n}th time." for n in range(15)] + ["No talks. " * (n + 1) for n in range(15)]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[TestClient]:
    settings = Settings(model=str(tiny_bundle), max_sentences=40, max_characters=500, max_body_bytes=20_000)
    with TestClient(
        create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 50_000), raise_server_exceptions=False
    ) as client:
        yield client


def classify(client: TestClient, sentences: list[str]) -> list[dict[str, Any]]:
    answer = client.post("/v1/classify", json={"sentences": sentences})
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def test_answers_in_order_with_probabilities_and_score(client: TestClient) -> None:
    results = classify(client, SENTENCES)
    assert len(results) == len(SENTENCES)
    for result in results:
        probabilities = result["probabilities"]
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert result["label"] == max(probabilities, key=probabilities.__getitem__)
        assert result["score"] == pytest.approx(probabilities["pro_dialogue"] - probabilities["pro_pressure"], abs=1e-5)


def test_company_never_moves_an_answer(client: TestClient) -> None:
    for sentence, together in zip(SENTENCES, classify(client, SENTENCES), strict=True):
        (alone,) = classify(client, [sentence])
        assert alone["label"] == together["label"]
        assert alone["probabilities"] == pytest.approx(together["probabilities"], abs=5e-3)


def test_sixteen_threads_get_the_same_answers(client: TestClient) -> None:
    expected = classify(client, SENTENCES)
    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(lambda _: classify(client, SENTENCES), range(64)):
            assert found == expected


def test_long_text_is_truncated_and_says_so(client: TestClient) -> None:
    short, long = classify(client, ["We will talk.", "We will talk. " * 35])
    assert (short["truncated"], long["truncated"]) == (False, True)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "empty_body"),
        (b"   ", 400, "empty_body"),
        (b"{", 400, "invalid_json"),
        (b'{"sentences": ["\\ud800"]}', 400, "invalid_json"),
        (b'{"sentences": ["\xff"]}', 400, "invalid_json"),
        ('{"sentences": ["a"]}'.encode("utf-16"), 400, "invalid_json"),
        (b"\xef\xbb\xbf" + b'{"sentences": ["a"]}', 400, "invalid_json"),
        (b"[" * 10_000, 400, "invalid_json"),
        (b'{"sentences": ' + b"[" * 9_000 + b"]" * 9_000 + b"}", 400, "invalid_json"),
        (b'{"sentences": [NaN]}', 422, "invalid_request"),
        (b'{"sentences": [1e999]}', 422, "invalid_request"),
        (b'{"sentences": "one"}', 422, "invalid_request"),
        (b'{"sentences": [null]}', 422, "invalid_request"),
        (b'{"sentences": ["a"], "more": 1}', 422, "invalid_request"),
        (b'{"' + b"k" * 15_000 + b'": 1}', 422, "invalid_request"),
        (b"[]", 422, "invalid_request"),
        (gzip.compress(b'{"sentences": ["a"]}'), 400, "invalid_json"),
        (b'{"sentences": []}', 422, "no_sentences"),
        (b'{"sentences": ["a", " \\u0000 "]}', 422, "empty_sentence"),
        (b'{"sentences": [' + b",".join([b'"a"'] * 41) + b"]}", 422, "too_many_sentences"),
        (b'{"sentences": ["' + b"a" * 501 + b'"]}', 422, "sentence_too_long"),
        (b'{"sentences": ["' + b"a" * 20_001 + b'"]}', 413, "body_too_large"),
    ],
)
def test_what_a_client_did_wrong_gets_a_problem(client: TestClient, body: bytes, status: int, code: str) -> None:
    answer = client.post("/v1/classify", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 1000
    assert answer.json()["instance"].startswith("urn:uuid:")


def test_an_unannounced_body_is_limited_while_it_is_read(client: TestClient) -> None:
    answer = client.post("/v1/classify", content=(b"a" * 1000 for _ in range(50)), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"sentences": ["a", ""]}', "#/sentences/1"),
        (b'{"sentences": ["a", 2, 3]}', "#/sentences/1"),
        (b'{"sentences": []}', "#/sentences"),
        (b'{"sentences": ["a"], "secret": 1}', "#"),
        (b"{}", "#/sentences"),
    ],
)
def test_a_problem_points_at_its_place_in_the_body(client: TestClient, body: bytes, pointer: str) -> None:
    answer = client.post("/v1/classify", content=body, headers=JSON)
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
    assert "secret" not in answer.text


def test_a_fault_is_logged_under_the_instance_and_tells_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("internals")

    monkeypatch.setattr("service.telemetry.Telemetry.count", fail)
    with caplog.at_level(logging.ERROR, "stancewire"):
        answer = client.post("/v1/classify", json={"sentences": ["a"]})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "internals" not in answer.text
    assert answer.json()["instance"] in caplog.text


def test_wrong_types_and_addresses(client: TestClient) -> None:
    assert client.post("/v1/classify", content=b"x", headers={"Content-Type": "text/plain"}).json()["code"] == "wrong_content_type"
    assert client.get("/nowhere").json()["code"] == "not_found"
    assert client.post("/v1/classify/", json={"sentences": ["a"]}).json()["code"] == "not_found"
    refused = client.get("/v1/classify")
    assert (refused.json()["code"], refused.headers["allow"]) == ("method_not_allowed", "POST")


def test_control_characters_are_read_as_spaces(client: TestClient) -> None:
    odd, plain = classify(client, ["We\u0000 will\u200b talk.", "We will talk."])
    assert odd == plain


def test_model_health_metrics_and_docs(client: TestClient, tiny_bundle: Path) -> None:
    model = client.get("/v1/model").json()
    assert model["labels"] == ["pro_dialogue", "pro_pressure", "neutral"]
    assert model["card"] == (tiny_bundle / "MODEL_CARD.md").read_text("utf-8")
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    classify(client, ["We will talk."])
    page = client.get("/metrics").text
    assert 'stancewire_requests_total{method="POST",route="/v1/classify",status="200"}' in page
    assert model["id"] in page
    assert client.get("/docs").status_code == 200
    schema = client.get("/openapi.json").json()
    assert schema["paths"]["/v1/classify"]["post"]["requestBody"]["required"]


def test_before_start_up_nothing_is_ready(tiny_bundle: Path) -> None:
    app = create_app(Settings(model=str(tiny_bundle)))
    client = TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50_000))  # without `with`, the lifespan does not run
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    answer = client.post("/v1/classify", json={"sentences": ["a"]})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")


def test_an_explained_answer_names_each_word(client: TestClient) -> None:
    sentences = ["We reject talks — “for now”.", "Talks!"]
    answer = client.post("/v1/classify", json={"sentences": sentences, "explain": True})
    assert answer.status_code == 200, answer.text
    plain = classify(client, sentences)
    for sentence, result, bare in zip(sentences, answer.json()["results"], plain, strict=True):
        words = result.pop("words")
        assert result == bare
        assert "words" not in bare
        assert all(-1 <= word["contribution"] <= 1 for word in words)
        assert [sentence[word["start"] : word["end"]] for word in words] == sentence.strip("”.!").replace(" — “", " ").split()


def test_explaining_too_much_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/classify", json={"sentences": ["One more."] * 17, "explain": True})
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_explained")
    answer = client.post("/v1/classify", json={"sentences": ["One more."], "explain": "yes"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_an_application_does_not_keep_the_model_that_it_was_given(tiny_bundle: Path) -> None:
    classifier = Classifier(open_bundle(tiny_bundle), workers=1)
    kept = weakref.ref(classifier)
    app = create_app(Settings(model=str(tiny_bundle)), Opened(classifier, "1"))
    del classifier
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50_000)) as client:
        assert client.get("/v1/model").json()["version"] == "1"
    gc.collect()
    assert kept() is None
