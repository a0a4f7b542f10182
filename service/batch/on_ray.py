"""The same job on Ray Data: a pool of actors, each with an engine of one thread, that take the shards of the plan.

An actor that dies is started again by Ray and its shard scored once more: a shard appears whole or not at all, so nothing is lost
or there twice. Texts are computed once a shard, not once a job.
"""

import json
import logging
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from models.bundle import open_bundle
from models.classifier import Classifier
from models.cores import usable_cores
from models.errors import BadRows, StancewireError, UsageError
from service.batch.job import Counts, Record, Shard
from service.batch.run import Engine, Job, score_shards
from service.batch.scorer import AnswerFile, Scorer
from service.batch.tables import Reader

_KNOCK_S = 10


def ray_engine(address: str | None, actors: int | None) -> Engine:
    """An engine on the Ray cluster at `address`, or on one that is started here and stopped at the end."""
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise UsageError("--engine ray needs Ray. Run `pip install 'stancewire[ray]'`.") from error

    def score(job: Job, shards: Sequence[Shard]) -> Iterator[tuple[Shard, Counts]]:
        if not shards:
            return
        _knock(address)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        on_term = signal.getsignal(signal.SIGTERM)
        try:
            if address is None:  # one core more than there is, for the reading of the list of shards
                ray.init(num_cpus=usable_cores() + 1, include_dashboard=False, **quiet)
            else:
                ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster answers at {address} ({error}). Check --address.") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_term)  # Ray takes it for itself
        try:
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            context.print_on_execution_start = False
            pool = min(actors or max(1, int(ray.cluster_resources().get("CPU", 1)) - 1), len(shards))
            bundles = [{file.name: file.read_bytes() for file in bundle.path.iterdir()} for bundle in job.bundles]
            numbered = {shard.number: shard for shard in shards}
            listed = ray.data.from_items([{"shard": number} for number in numbered], override_num_blocks=len(shards))
            scored = listed.map_batches(
                _Actor,
                fn_constructor_kwargs={"job": ray.put((job.plan, job.record.store, job.strict)), "bundles": ray.put(bundles)},
                batch_size=1,
                num_cpus=1,
                compute=ray.data.ActorPoolStrategy(size=pool),
            )
            for row in scored.iter_rows():
                if row["bad"]:
                    raise BadRows(row["bad"])
                if row["error"]:
                    raise UsageError(row["error"])
                counts = Counts.of(json.loads(row["counts"]))
                job.tick(counts.rows)
                yield numbered[row["shard"]], counts
                if job.stop.is_set():
                    return
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(
                f"Ray failed ({reason}). Check that its machines have this release of Stancewire and reach the folders; what is "
                "finished stays, and the same command goes on from there."
            ) from error
        finally:
            ray.shutdown()

    return score


def _knock(address: str | None) -> None:
    """UsageError where nothing listens at `address`: Ray itself would try for minutes."""
    host, _, port = (address or "auto").rpartition("://")[2].rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except (OSError, ValueError) as error:
        raise UsageError(f"no Ray cluster answers at {address} ({error}). Check --address, such as ray://HOST:10001.") from error


class _Actor:
    def __init__(self, job: Any, bundles: Any) -> None:
        import ray

        plan, store, strict = ray.get(job)
        self._stack = ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="stancewire-ray-")))
        opened = []
        for number, files in enumerate(ray.get(bundles)):
            (folder / str(number)).mkdir()
            for name, content in files.items():
                (folder / str(number) / name).write_bytes(content)
            opened.append(open_bundle(folder / str(number)))
        self._classifiers = [self._stack.enter_context(Classifier(bundle, workers=1)) for bundle in opened]
        self._reader = Reader(plan.options.text_column)
        self._job = Job(plan, tuple(opened), Record(store, plan), strict, 1, threading.Event(), lambda rows: None)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        numbers = [int(number) for number in batch["shard"]]
        answers = AnswerFile(None, [len(c.label_set.labels) for c in self._classifiers])
        counts, bad, errors = [], "", ""
        try:
            scorer = Scorer(self._classifiers, answers, self._job.plan.options.max_characters)
            shards = [self._job.plan.shards[number] for number in numbers]
            counts = [json.dumps(found.content()) for _, found in score_shards(self._job, shards, scorer, answers, self._reader)]
        except BadRows as error:
            bad = str(error)
        except (StancewireError, OSError) as error:
            errors = str(error)
        finally:
            answers.close()
        filler = [""] * (len(numbers) - len(counts))
        return {
            "shard": numbers,
            "counts": counts + filler,
            "bad": [bad] * len(numbers),
            "error": [errors] * len(numbers),
        }
