"""The shadow and the drift: they see the traffic and never touch an answer."""

import json
import time
from pathlib import Path

import httpx
import pytest

from models.bundle import open_bundle
from models.classifier import Classifier
from models.reference import MUCH, count, drift, stability
from tests.conftest import Serving
from tests.service.conftest import call
from tests.service.test_swap import SENTENCES
from tests.test_aliases import retempered


def test_the_shadow_scores_a_sample_and_reports(serving: Serving, tiny_bundle: Path, tmp_path: Path) -> None:
    first = open_bundle(tiny_bundle)
    other = retempered(first, tmp_path / "other", first.manifest.temperature, bias=(5.0, 0.0, 0.0))
    with Classifier(first) as old, Classifier(other) as new:
        pairs = [(a.label, b.label) for a, b in zip(old.classify(SENTENCES), new.classify(SENTENCES), strict=True)]
    alike = sum(a == b for a, b in pairs) / len(pairs)
    with serving(tiny_bundle, shadow=str(other.path), shadow_share=1.0) as (_, port):
        plain = call(port, "POST", "/v1/classify", {"sentences": SENTENCES})[1]
        assert plain["model"]["id"] == first.id
        for _ in range(200):
            report = call(port, "GET", "/v1/admin/shadow")[1]
            if report["sentences"] == len(SENTENCES):
                break
            time.sleep(0.05)
        assert report["sentences"] == len(SENTENCES)
        assert (report["id"], report["champion"], report["error"], report["not_scored"]) == (other.id, first.id, None, 0)
        assert report["agreement"] == pytest.approx(alike)
        assert {(move["from"], move["to"]): move["sentences"] for move in report["moves"]} == {
            pair: pairs.count(pair) for pair in pairs
        }
        assert sum(report["shift"].values()) == pytest.approx(0)
        assert "stancewire_shadow_sentences_total{" in call(port, "GET", "/metrics")[1]


def test_a_shadow_that_cannot_be_opened_is_said(serving: Serving, tiny_bundle: Path, tmp_path: Path) -> None:
    with serving(tiny_bundle, shadow=str(tmp_path / "none"), shadow_share=1.0) as (_, port):
        assert call(port, "POST", "/v1/classify", {"sentences": SENTENCES})[0] == 200
        for _ in range(100):
            if call(port, "GET", "/v1/admin/shadow")[1]["error"]:
                break
            time.sleep(0.05)
        assert "is not a bundle" in call(port, "GET", "/v1/admin/shadow")[1]["error"]
    with serving(tiny_bundle) as (_, port):
        assert call(port, "GET", "/v1/admin/shadow")[0] == 404


def test_traffic_that_moves_marks_a_retrain_as_due(serving: Serving, tiny_bundle: Path, tiny_data: Path) -> None:
    with serving(tiny_bundle, drift_window=100) as (_, port):
        assert call(port, "GET", "/v1/admin/drift")[1]["windows"] == 0
        assert "stancewire_retrain_due 0.0" in call(port, "GET", "/metrics")[1]
        call(port, "POST", "/v1/classify", {"sentences": ["Yes."] * 150})
        report = call(port, "GET", "/v1/admin/drift")[1]
        assert (report["windows"], report["sentences_in_this_window"], report["retrain_due"]) == (1, 50, True)
        assert report["index"]["length"] > MUCH
        assert "stancewire_retrain_due 1.0" in call(port, "GET", "/metrics")[1]


def test_streamed_answers_are_seen_as_well(serving: Serving, tiny_bundle: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/labels.db"
    lines = [json.dumps({"sentence": sentence}) for sentence in SENTENCES] + ['{"sentence": 5}']
    with (
        serving(tiny_bundle, shadow=str(tiny_bundle), shadow_share=1.0, remember_unsure=True, database_url=store) as (_, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        body, form = "\n".join(lines), {"Content-Type": "application/x-ndjson"}
        answer = client.post("/v1/classify/stream", content=body, headers=form)
        results = [json.loads(line) for line in answer.text.splitlines()]
        assert "error" in results.pop()
        for _ in range(200):
            if client.get("/v1/admin/shadow").json()["sentences"] == len(SENTENCES):
                break
            time.sleep(0.05)
        assert client.get("/v1/admin/shadow").json()["sentences"] == len(SENTENCES)
        assert client.get("/v1/admin/drift").json()["sentences_in_this_window"] == len(SENTENCES)
        unsure = {text for text, result in zip(SENTENCES, results, strict=True) if not result["confident"]}
        assert unsure, "or nothing is tested here"
        queued = client.get("/v1/labels/queue").json()["items"]
        assert {item["sentence"] for item in queued} == unsure


def test_the_index() -> None:
    assert stability((50, 30, 20), (500, 300, 200)) == pytest.approx(0, abs=1e-3)
    # (.5 - .25) ln(.5/.25) + (.5 - .75) ln(.5/.75), counts so large that half a row does not matter
    assert stability((250_000, 750_000), (500_000, 500_000)) == pytest.approx(0.2746531, abs=1e-5)
    assert stability((100, 0), (0, 100)) > 5


def test_the_reference_is_what_the_test_side_gave(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    assert bundle.manifest.reference is not None
    assert sum(bundle.manifest.reference.labels) == sum(bundle.manifest.reference.length) == 20
    with Classifier(bundle) as classifier:
        short = count(classifier.label_set.labels, ["Yes."] * 300, classifier.classify(["Yes."] * 300))
    assert drift(bundle.manifest.reference, short)["length"] > MUCH
