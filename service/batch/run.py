"""A scoring job from inputs to output: planned, scored in shards, resumable, joined where one file is asked for."""

import sqlite3
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from models.bundle import Bundle
from models.classifier import Classifier
from models.errors import BadRows, Stopped, UsageError
from service.batch.files import Store, find_sources
from service.batch.job import WINDOW_ROWS, Counts, Options, Plan, Record, Shard, claim, make_plan
from service.batch.join import Target, clear_joined, find_joined, join
from service.batch.results import SHOWN_ID, count, report_moves, result_schema, result_table
from service.batch.scorer import AnswerFile, Scorer, Window
from service.batch.tables import Chunk, Reader
from service.batch.terminal import ProgressLines, stopping
from service.batch.write import Writer, open_writer

_UNDER_WAY = 2  # windows that are with the engine while the next one is read
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Summary:
    """What the whole output holds, how many rows of it this run scored, in what time, and where two models differ."""

    counts: Counts
    scored: int
    seconds: float
    models: tuple[str, ...]
    report: str = ""

    def text(self) -> str:
        """The summary for people, some lines."""
        rate = self.scored / self.seconds if self.seconds else 0.0
        lines = [f"{self.counts.rows} rows, {self.scored} of them scored now in {self.seconds:.1f} s ({rate:.0f}/s)"]
        for name, labels, not_confident in zip(self.models, self.counts.labels, self.counts.not_confident, strict=True):
            scored = max(1, labels.total())
            shown = ", ".join(f"{label} {number}" for label, number in sorted(labels.items()))
            lines.append(f"model {name}: {shown}; not confident {not_confident} ({not_confident / scored:.1%})")
        lines += [f"not scored, {kind}: {number}" for kind, number in sorted(self.counts.errors.items())]
        return "\n".join(lines) + "\n" + (f"\n{self.report}" if self.report else "")


class Engine(Protocol):
    """Scores shards and finishes each by way of the job's `Record`."""

    def __call__(self, job: "Job", shards: Sequence[Shard]) -> Iterator[tuple[Shard, Counts]]: ...


@dataclass(frozen=True, slots=True)
class Job:
    """All that an engine needs."""

    plan: Plan
    bundles: tuple[Bundle, ...]
    record: Record
    strict: bool
    workers: int | None
    stop: threading.Event
    tick: Callable[[int], object]  # is told of rows as they are scored


def run_job(
    inputs: Sequence[str],
    target: Target,
    bundles: Sequence[Bundle],
    options: Options,
    *,
    engine: Engine | None = None,
    strict: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    quiet: bool = False,
) -> Summary:
    """Score `inputs` with `bundles`, one model or several, into `target`.

    UsageError where an input, the output or an option cannot be used, BadRows where `strict` and a row cannot be scored, Stopped
    after SIGINT or SIGTERM. In either case what is finished stays and the same call goes on from there.
    """
    started = time.monotonic()
    store = Store(target.folder)
    joined = find_joined(target, store)
    target.check(inputs, overwrite=overwrite or joined is not None)
    sources = [source for source in find_sources(inputs) if not (store.holds(source) or target.is_file(source))]
    if not sources:
        raise UsageError(f"{', '.join(inputs)} holds nothing but the output. Choose another output.")
    results = result_schema(bundles)
    terminal = sys.stderr.isatty()
    plan = make_plan(sources, options, [bundle.id for bundle in bundles], results.names, progress=terminal and not quiet)
    names = tuple(bundle.id[:SHOWN_ID] for bundle in bundles)
    if joined is not None:
        clear_joined(store)
        if joined["job"] == plan.digest():
            counts = Counts.of(joined["counts"])
            return Summary(counts, 0, time.monotonic() - started, names, _report(counts, names))
        target.check(inputs, overwrite=overwrite)
    with ExitStack() as stack, _said(target):
        record = stack.enter_context(claim(store, plan, overwrite=overwrite, joins=target.file is not None))
        done = record.done()
        counts = Counts()
        for each in done.values():
            counts.add(each)
        rest = [shard for shard in plan.shards if shard.number not in done]
        bar = stack.enter_context(
            tqdm(total=plan.rows, initial=counts.rows, unit=" rows", file=sys.stderr, disable=quiet or not terminal)
        )
        lines = ProgressLines(plan.rows, counts.rows, started) if not quiet and not terminal else None

        def tick(rows: int) -> None:
            bar.update(rows)
            if lines is not None:
                lines.tick(rows)

        stop = stack.enter_context(stopping())
        job = Job(plan, tuple(bundles), record, strict, workers, stop, tick)
        scored = 0
        for _, each in (engine or score_here)(job, rest):
            counts.add(each)
            scored += each.rows
        if stop.is_set() and counts.rows < plan.rows:
            shards = f"{len(plan.shards)} shard" + ("s" if len(plan.shards) > 1 else "")
            raise Stopped(f"stopped with {counts.rows} of {plan.rows} rows of {shards} done. The same command goes on from there.")
        report = _report(counts, names)
        join(target, store, plan, results, report, record, counts)
    return Summary(counts, scored, time.monotonic() - started, names, report)


def _report(counts: Counts, models: Sequence[str]) -> str:
    return report_moves(counts.moves, models) if len(models) == 2 else ""


def score_here(job: Job, shards: Sequence[Shard]) -> Iterator[tuple[Shard, Counts]]:
    """The engine of one machine: all its cores, each text of the job once."""
    with ExitStack() as stack:
        classifiers = [stack.enter_context(Classifier(bundle, workers=job.workers)) for bundle in job.bundles]
        path = None if job.record.store.remote else job.record.store.local("_job/answers.sqlite")
        if path is None:  # at a URL, what is known of texts lasts for this run
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "answers.sqlite"
        answers = AnswerFile(path, [len(c.label_set.labels) for c in classifiers])
        stack.callback(answers.close)
        reader = stack.enter_context(Reader(job.plan.options.text_column))
        yield from score_shards(job, shards, Scorer(classifiers, answers, job.plan.options.max_characters), answers, reader)


def score_shards(
    job: Job, shards: Sequence[Shard], scorer: Scorer, answers: AnswerFile, reader: Reader
) -> Iterator[tuple[Shard, Counts]]:
    """Score and finish `shards` in order; between two of them the job may be stopped."""
    windows: deque[tuple[Shard, Chunk, Window, bool]] = deque()
    output = _Output(job)

    def wanted(shard: Shard) -> bool:
        return not job.stop.is_set() or shard.number == output.at_hand

    with _ahead(_chunks(job.plan, shards, reader)) as chunks:
        try:
            for shard, chunk, last in chunks:
                if not wanted(shard):
                    break
                windows.append((shard, chunk, scorer.submit(chunk.texts(job.plan.options.text_column), chunk.faults), last))
                if len(windows) > _UNDER_WAY:
                    yield from output.take(windows.popleft(), scorer, answers)
            while windows and wanted(windows[0][0]):
                yield from output.take(windows.popleft(), scorer, answers)
        finally:
            for _, _, window, _ in windows:
                scorer.drop(window)
            output.abandon()


class _Output:
    """The file of the shard at hand."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._schema = result_schema(job.bundles)
        self._staged: Path | None = None
        self._writer: Writer | None = None
        self._counts = Counts()
        self.at_hand: int | None = None  # the number of the shard that is half-written

    def take(
        self, window: tuple[Shard, Chunk, Window, bool], scorer: Scorer, answers: AnswerFile
    ) -> Iterator[tuple[Shard, Counts]]:
        """Write a window; gives the shard where that was its last."""
        shard, chunk, submitted, last = window
        plan = self._job.plan
        self.at_hand = shard.number
        predictions = scorer.finish(submitted)
        bad = next((place for place, fault in enumerate(submitted.faults) if fault is not None), None)
        if self._job.strict and bad is not None:
            where = f"{plan.sources[shard.source].shown}:{chunk.lines[bad]}: {submitted.faults[bad]}"
            raise BadRows(f"{where}. Mend the row, or leave --strict out; what is finished stays.")
        try:
            if self._writer is None:
                self._staged = self._job.record.stage(shard.name(plan.options.ending))
                self._writer = open_writer(self._staged, plan.options.ending, plan.schema, self._schema)
            self._writer.write(chunk, result_table(self._schema, self._job.bundles, predictions, submitted.faults))
        except (ValueError, TypeError, OverflowError) as error:  # so Arrow and the codecs say what does not fit
            where = f"{plan.sources[shard.source].shown}:{chunk.lines[0] if len(chunk) else 1}"
            raise UsageError(
                f"{where} and the rows after it do not fit into {plan.options.ending} ({error}). Write another kind of file."
            ) from error
        slices = {name: chunk.texts(name) for name in plan.options.slices} if len(predictions) == 2 else {}
        self._counts.add(count(predictions, submitted.faults, slices))
        self._job.tick(len(chunk))
        if last:
            yield self._finish(shard, answers)

    def _finish(self, shard: Shard, answers: AnswerFile) -> tuple[Shard, Counts]:
        assert self._writer is not None and self._staged is not None
        self._writer.close()
        answers.commit()
        self._job.record.finish(shard, self._staged, self._counts)
        found, self._counts = self._counts, Counts()
        self._writer = self._staged = self.at_hand = None
        return shard, found

    def abandon(self) -> None:
        """Remove what is half-written."""
        if self._writer is not None:
            with suppress(OSError):  # what made it fail before
                self._writer.close()
        if self._staged is not None:
            self._staged.unlink(missing_ok=True)


def _chunks(plan: Plan, shards: Sequence[Shard], reader: Reader) -> Iterator[tuple[Shard, Chunk, bool]]:
    """The windows of `shards`, and whether each is its shard's last."""
    for shard in shards:
        if not shard.rows:
            yield shard, _empty(plan), True
        left = shard.rows
        source = plan.sources[shard.source]
        for chunk in reader.chunks(source, shard.start, shard.rows, WINDOW_ROWS) if left else ():
            left -= len(chunk)
            yield shard, chunk, left == 0


def _empty(plan: Plan) -> Chunk:
    parquet = plan.schema is not None and plan.sources[0].ending.kind == ".parquet"
    return Chunk((), table=plan.schema.empty_table() if parquet else None)


@contextmanager
def _ahead(items: Iterator[_T]) -> Iterator[Iterator[_T]]:
    """`items`, each made in another thread while the one before is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:

        def prefetched() -> Iterator[_T]:
            nothing: Any = object()
            coming = pool.submit(next, items, nothing)
            while (item := coming.result()) is not nothing:
                coming = pool.submit(next, items, nothing)
                yield item

        yield prefetched()


@contextmanager
def _said(target: Target) -> Iterator[None]:
    """What the operating system says of the output, as a UsageError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot write to {target.shown} ({reason}). Make room there, or choose another output; what is "
            "finished stays, and the same command goes on from there."
        ) from error
