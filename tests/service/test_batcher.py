"""The queue's promises, on a real model whose engine waits to be let through."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from models.bundle import open_bundle
from models.classifier import Classifier
from models.engine_onnx import OnnxEngine
from models.schema import FloatArray
from service.batcher import Batcher, CallerGone, DeadlinePassed, Overloaded


class GatedEngine:
    """The real engine; each call waits until the gate is open."""

    def __init__(self, path: Path) -> None:
        self._engine = OnnxEngine(path)
        self.gate = threading.Event()
        self.entered = 0
        self.calls: list[Sequence[Sequence[int]]] = []

    def run(self, rows: Sequence[Sequence[int]]) -> FloatArray:
        """The real engine's logits."""
        self.entered += 1
        self.gate.wait(30)
        self.calls.append(rows)
        return self._engine.run(rows)


@pytest.fixture
def gated(tiny_bundle: Path) -> Iterator[tuple[Batcher, GatedEngine]]:
    bundle = open_bundle(tiny_bundle)
    engine = GatedEngine(bundle.path / bundle.manifest.engine.file)
    with Classifier(bundle, engine=engine) as classifier:
        batcher = Batcher(classifier, workers=1, max_queued_tokens=2000)
        yield batcher, engine
        engine.gate.set()
        batcher.close()


async def until(condition: object) -> None:
    """Let the other coroutines and the workers go on until `condition()` holds."""
    assert callable(condition)
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to hold")


def test_answers_are_those_of_the_classifier(tiny_bundle: Path) -> None:
    sentences = [f"We will talk, {'and talk ' * (n % 40)}on day {n}." for n in range(300)]
    with Classifier.open(tiny_bundle) as classifier:
        expected = classifier.classify(sentences)
        batcher = Batcher(classifier, workers=3, max_queued_tokens=1_000_000)

        async def all_at_once() -> None:
            whole, *single = await asyncio.gather(
                batcher.classify(sentences), *(batcher.classify([sentence]) for sentence in sentences)
            )
            assert whole == expected
            assert [answer for (answer,) in single] == expected

        asyncio.run(all_at_once())
        assert (batcher.queued_tokens, batcher.computed) == (0, 600)
        batcher.close()


def test_over_the_budget_a_job_is_refused_at_once_and_says_when(gated: tuple[Batcher, GatedEngine]) -> None:
    batcher, engine = gated

    async def fill() -> None:
        running = asyncio.ensure_future(batcher.classify(["This one is with the engine."]))
        await until(lambda: engine.entered == 1)
        large = asyncio.ensure_future(batcher.classify(["A large job is taken on where nothing waits."] * 400))
        await until(lambda: batcher.queued_tokens > 2000)
        with pytest.raises(Overloaded) as refused:
            await batcher.classify(["One more."])
        assert refused.value.retry_after_s >= 1
        engine.gate.set()
        assert len(await large) == 400
        await running
        assert len(await batcher.classify(["One more."])) == 1

    asyncio.run(fill())


def test_what_nobody_waits_for_is_not_computed(gated: tuple[Batcher, GatedEngine]) -> None:
    batcher, engine = gated

    async def leave() -> None:
        running = asyncio.ensure_future(batcher.classify(["This one is with the engine."]))
        await until(lambda: engine.entered == 1)
        with pytest.raises(DeadlinePassed):
            await batcher.classify(["Too late."] * 30, timeout_s=0.02)
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(batcher.classify(["Hung up."] * 30, gone=gone))
        await until(lambda: batcher.queued_tokens > 0)
        gone.set_result(None)
        with pytest.raises(CallerGone):
            await waiting
        cancelled = asyncio.ensure_future(batcher.classify(["Cancelled."] * 30))
        await until(lambda: batcher.queued_tokens > 0)
        cancelled.cancel()
        await until(lambda: batcher.queued_tokens == 0)
        engine.gate.set()
        await running
        await batcher.classify(["The next one."])
        assert batcher.computed == 2

    asyncio.run(leave())


def test_a_large_job_does_not_hold_up_a_small_one(gated: tuple[Batcher, GatedEngine]) -> None:
    batcher, engine = gated
    small_ids = batcher.classifier.encoder.encode(["Small."])[0].ids

    async def both() -> None:
        running = asyncio.ensure_future(batcher.classify(["This one is with the engine."]))
        await until(lambda: engine.entered == 1)
        large = asyncio.ensure_future(batcher.classify(["A sentence of some length, as they are in a briefing."] * 100))
        await until(lambda: batcher.queued_tokens > 1000)
        small = asyncio.ensure_future(batcher.classify(["Small."]))
        await until(lambda: len(batcher._jobs) == 2)
        engine.gate.set()
        await small
        await asyncio.gather(large, running)
        turn = next(turn for turn, call in enumerate(engine.calls) if small_ids in call)
        assert turn <= 3 < len(engine.calls) - 3, "the small one waits for no more than a call or two of the large one"

    asyncio.run(both())


def test_an_engine_that_fails_fails_its_callers_and_no_others(tiny_bundle: Path) -> None:
    class Failing:
        def __init__(self, engine: OnnxEngine) -> None:
            self._engine, self.broken = engine, True

        def run(self, rows: Sequence[Sequence[int]]) -> FloatArray:
            if self.broken:
                raise MemoryError("no room")
            return self._engine.run(rows)

    bundle = open_bundle(tiny_bundle)
    engine = Failing(OnnxEngine(bundle.path / bundle.manifest.engine.file))
    with Classifier(bundle, engine=engine) as classifier:
        batcher = Batcher(classifier, workers=2, max_queued_tokens=2000)

        async def two() -> None:
            with pytest.raises(MemoryError):
                await batcher.classify(["One."] * 100)
            engine.broken = False
            assert len(await batcher.classify(["Two."])) == 1
            assert batcher.queued_tokens == 0

        asyncio.run(two())
        batcher.close()
