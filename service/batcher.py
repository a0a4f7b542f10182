"""One queue between HTTP and the engine, counted in tokens.

A request becomes a job, cut into pieces of about one engine call. One-threaded workers take pieces as soon as they are free, never
waiting for more to come: one piece of each job in turn, so that a large request does not hold up small ones, and several small
ones in one call. A worker turns text into ids itself, with a tokenizer of its own. What nobody waits for any more (the client
hung up, the deadline passed) leaves the queue at once and is not computed. A job that would bring the queue over its budget is
refused on the spot.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from models.classifier import CALL_TOKENS, Classifier
from models.schema import Prediction

_BYTES_PER_TOKEN = 5  # about so many of English in UTF-8; a piece is cut exactly once its ids are known
_SPECIAL_TOKENS = 2
_PATIENCE_S = 0.05


class Overloaded(Exception):
    """The queue is full; `retry_after_s` is when it will have room again at the present rate."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full for {retry_after_s} s")
        self.retry_after_s = retry_after_s


class DeadlinePassed(Exception):
    """The answer was not ready in time; nothing of it is computed any more."""


class CallerGone(Exception):
    """Nobody waits for the answer any more; nothing of it is computed any more."""


@dataclass(frozen=True, slots=True)
class _Piece:
    positions: tuple[int, ...]
    tokens: int


@dataclass(slots=True, eq=False)
class _Job:
    sentences: Sequence[str]
    pieces: deque[_Piece]
    left: int  # sentences without an answer
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[list[Prediction]]"
    results: list[Prediction | None] = field(default_factory=list)


class Batcher:
    """Classifies for many coroutines with `workers` engine threads; start it, and close it when no job is under way."""

    def __init__(self, classifier: Classifier, *, workers: int, max_queued_tokens: int) -> None:
        self.classifier = classifier
        self.max_queued_tokens = max_queued_tokens
        self._limit = classifier.bundle.manifest.max_tokens
        self._jobs: deque[_Job] = deque()
        self._waiting = 0  # tokens in the queue
        self._idle = 0  # workers with nothing to do
        self._rate = 10_000.0  # tokens a second of all workers together, a moving average
        self._computed = 0
        self._closing = False
        self._changed = threading.Condition(threading.Lock())
        self._workers = [threading.Thread(target=self._work, name=f"engine-{n}", daemon=True) for n in range(workers)]
        for worker in self._workers:
            worker.start()

    @property
    def computed(self) -> int:
        """Sentences that went through the engine so far."""
        return self._computed

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for a worker."""
        return self._waiting

    async def classify(
        self, sentences: Sequence[str], timeout_s: float | None = None, gone: "asyncio.Future[None] | None" = None
    ) -> list[Prediction]:
        """Predictions in the order of `sentences`.

        Overloaded where the queue has no room, DeadlinePassed after `timeout_s`, CallerGone once `gone` is done. A caller that is
        cancelled leaves the queue.
        """
        job = self._job(sentences)
        self._admit(job)
        try:
            waited: list[asyncio.Future[Any]] = [job.answer] if gone is None else [job.answer, gone]
            await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if job.answer.done():
                return job.answer.result()
            raise CallerGone if gone is not None and gone.done() else DeadlinePassed
        finally:
            self._abandon(job)

    async def classify_when_there_is_room(self, sentences: Sequence[str]) -> list[Prediction]:
        """The same for a caller that had rather wait than be refused."""
        while True:
            try:
                return await self.classify(sentences)
            except Overloaded:
                await asyncio.sleep(_PATIENCE_S)

    def close(self) -> None:
        """Let the workers finish what is queued, and stop them."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _job(self, sentences: Sequence[str]) -> _Job:
        """Pieces of neighbours in length, each of one engine call's tokens at most or one sentence."""
        sizes = [min(len(s.encode("utf-8")) // _BYTES_PER_TOKEN + _SPECIAL_TOKENS, self._limit) for s in sentences]
        pieces: deque[_Piece] = deque()
        positions: list[int] = []
        for position in sorted(range(len(sentences)), key=sizes.__getitem__):
            if positions and (len(positions) + 1) * sizes[position] > CALL_TOKENS:
                pieces.append(_Piece(tuple(positions), sum(sizes[p] for p in positions)))
                positions = []
            positions.append(position)
        pieces.append(_Piece(tuple(positions), sum(sizes[p] for p in positions)))
        loop = asyncio.get_running_loop()
        return _Job(sentences, pieces, len(sentences), loop, loop.create_future(), [None] * len(sentences))

    def _admit(self, job: _Job) -> None:
        tokens = sum(piece.tokens for piece in job.pieces)
        with self._changed:
            if self._waiting and self._waiting + tokens > self.max_queued_tokens:
                over = self._waiting + tokens - self.max_queued_tokens
                raise Overloaded(max(1, math.ceil(over / self._rate)))
            self._waiting += tokens
            self._jobs.append(job)
            if self._idle:
                self._changed.notify(min(self._idle, len(job.pieces)))

    def _abandon(self, job: _Job) -> None:
        """Take what is left of `job` out of the count; the worker that meets the empty job drops it."""
        if job.pieces:
            with self._changed:
                self._waiting -= sum(piece.tokens for piece in job.pieces)
                job.pieces.clear()

    def _take(self) -> list[tuple[_Job, _Piece]]:
        """The next call's pieces; none when the batcher has closed."""
        with self._changed:
            while True:
                taken: list[tuple[_Job, _Piece]] = []
                # with little in the queue, each worker takes its share rather than one taking it all
                room = min(CALL_TOKENS, max(1, self._waiting // len(self._workers)))
                while self._jobs:
                    job = self._jobs[0]
                    if not job.pieces:
                        self._jobs.popleft()
                        continue
                    piece = job.pieces[0]
                    if taken and piece.tokens > room:
                        break
                    taken.append((job, job.pieces.popleft()))
                    room -= piece.tokens
                    self._waiting -= piece.tokens
                    self._jobs.rotate(-1) if job.pieces else self._jobs.popleft()
                if taken or self._closing:
                    return taken
                self._idle += 1
                self._changed.wait()
                self._idle -= 1

    def _work(self) -> None:
        encoder = self.classifier.encoder.own()
        while taken := self._take():
            started = time.monotonic()
            sentences = [job.sentences[position] for job, piece in taken for position in piece.positions]
            try:
                answers: list[Prediction] | Exception = self.classifier.answer(encoder.encode(sentences))
            except Exception as error:  # whatever it is, it belongs to the callers and not to this thread
                answers = error
            self._deliver(taken, answers)
            tokens = sum(piece.tokens for _, piece in taken)
            rate = len(self._workers) * tokens / max(time.monotonic() - started, 1e-6)
            self._rate += 0.05 * (rate - self._rate)

    def _deliver(self, taken: list[tuple[_Job, _Piece]], answers: list[Prediction] | Exception) -> None:
        place = 0
        with self._changed:
            self._computed += sum(len(piece.positions) for _, piece in taken)
        for job, piece in taken:
            if isinstance(answers, Exception):
                _hand_over(job, answers)
                continue
            for position in piece.positions:
                job.results[position] = answers[place]
                place += 1
            with self._changed:
                job.left -= len(piece.positions)
                done = job.left == 0
            if done:
                _hand_over(job, None)


def _hand_over(job: _Job, error: Exception | None) -> None:
    def settle() -> None:
        if job.answer.done():
            return
        if error is not None:
            job.answer.set_exception(error)
        else:
            job.answer.set_result([result for result in job.results if result is not None])

    with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
        job.loop.call_soon_threadsafe(settle)
