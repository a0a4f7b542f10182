"""Several processes on one port: all of them have the model that they should, whenever they began."""

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from models.bundle import open_bundle
from models.classifier import Classifier
from service.bell import Bell
from service.slot import Slot, followed
from service.telemetry import Telemetry
from tests.conftest import Serving, children
from tests.service.conftest import Registry, call
from tests.test_aliases import retempered

SENTENCE = "We will talk about it."


def ids(port: int, calls: int) -> set[str]:
    """The models that answer on as many new connections."""
    return {call(port, "GET", "/v1/model")[1]["id"] for _ in range(calls)}


def test_a_reload_reaches_every_process_and_those_that_start_later(serving: Serving, registry: Registry) -> None:
    with serving("models:/swap@champion", follow_s=0, workers=2) as (process, port):
        assert ids(port, 30) == {registry.bundles[0].id}
        registry.point(1)
        assert call(port, "POST", "/v1/admin/reload")[1]["swapped"]
        for _ in range(50):
            if ids(port, 30) == {registry.bundles[1].id}:
                break
            time.sleep(0.1)
        assert ids(port, 30) == {registry.bundles[1].id}, "the other process looks within half a second"
        killed = children(process.pid)
        assert len(killed) == 2
        for each in killed:
            os.kill(each, signal.SIGKILL)
        assert ids(port, 30) == {registry.bundles[1].id}, "they do not begin with the model of the service's start"
        assert not killed & children(process.pid)
        for number in (2, 3):  # of other labels, and one that no engine opens
            registry.point(number)
            assert call(port, "POST", "/v1/admin/reload")[0] == 502
            for each in children(process.pid):
                os.kill(each, signal.SIGKILL)
            assert ids(port, 30) == {registry.bundles[1].id}
        database = registry.folder / "mlflow.db"
        database.rename(registry.folder / "away.db")
        for each in children(process.pid):
            os.kill(each, signal.SIGKILL)
        assert ids(port, 30) == {registry.bundles[1].id}, "without a registry they begin with what the others had last"


def test_a_process_that_starts_later_takes_a_folder_as_it_is_then(serving: Serving, tiny_bundle: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    first = open_bundle(Path(shutil.copytree(tiny_bundle, served)))
    with serving(served, workers=2) as (process, port):
        assert ids(port, 30) == {first.id}
        later = retempered(first, served, first.manifest.temperature * 3)
        for each in children(process.pid):
            os.kill(each, signal.SIGKILL)
        assert ids(port, 30) == {later.id}
        [result] = call(port, "POST", "/v1/classify", {"sentences": [SENTENCE]})[1]["results"]
        with Classifier(later) as classifier:
            [expected] = classifier.classify([SENTENCE])
        assert result["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6), (
            "the network and the rest are of one bundle"
        )
        labels = first.manifest.label_set.model_copy(update={"labels": ("a", "b", "c"), "positive": None, "negative": None})
        retempered(first, served, 1.0, label_set=labels)
        os.kill(children(process.pid).pop(), signal.SIGKILL)
        assert process.wait(60) == 3, "what cannot go on does not end as if all were well"


def test_a_process_that_was_called_asks_until_it_is_answered(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.slot._RETRY_S", 0.1)
    database, away = registry.folder / "mlflow.db", registry.folder / "away.db"

    async def swap() -> tuple[str, str | None]:
        bell = Bell()
        slot = Slot("models:/swap@champion", Telemetry(), workers=1, max_queued_tokens=65536, bell=bell)
        await slot.fill(lambda: (Classifier(registry.bundles[0]), "1"))
        registry.point(1)
        database.rename(away)
        async with followed(slot, 0):
            bell.ring()
            while slot.following.error is None:
                await asyncio.sleep(0.05)
            missed = slot.following.error
            away.rename(database)
            for _ in range(400):
                if slot.following.swaps:
                    break
                await asyncio.sleep(0.05)
            assert slot.answers is not None
            found = slot.answers.bundle.id
        await slot.close()
        return found, missed

    found, missed = asyncio.run(swap())
    assert missed is not None and "there is no registry" in missed
    assert found == registry.bundles[1].id
