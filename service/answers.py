"""A warm model behind its queue, and its answers as bytes: what is the same in every answer is made once."""

import asyncio
import json

from pydantic import TypeAdapter

from models.explain import fold, occlude
from models.schema import Prediction
from service.api import ClassifyRequest, ExplainedResult, ModelName, StreamLine, WordContribution
from service.batcher import Batcher
from service.errors import Problem
from service.telemetry import Telemetry

_PLAIN = TypeAdapter(list[Prediction])  # a Prediction's fields are those of a Result, in its order
_ONE = TypeAdapter(Prediction)
_EXPLAINED = TypeAdapter(list[ExplainedResult])


class Answers:
    """Answers requests with the model of `batcher`, which users know by `version`."""

    def __init__(self, batcher: Batcher, version: str, telemetry: Telemetry) -> None:
        self.batcher = batcher
        self.bundle = batcher.classifier.bundle
        self.version = version
        self._telemetry = telemetry
        name = ModelName(name=self.bundle.manifest.name, version=version, id=self.bundle.id)
        self._head = b'{"model":' + name.model_dump_json().encode() + b',"results":'
        self._tail = b',"model":' + json.dumps(self.bundle.id).encode() + b"}\n"

    async def request(
        self, asked: ClassifyRequest, timeout_s: float, gone: "asyncio.Future[None]"
    ) -> tuple[list[Prediction], bytes]:
        """The predictions for `asked` and the body of the answer; the errors are those of `Batcher.classify`."""
        if not asked.explain:
            predictions = await self.batcher.classify(asked.sentences, timeout_s, gone)
            results = _PLAIN.dump_json(predictions)
        else:
            occlusions = [occlude(sentence, self.bundle.manifest.max_tokens) for sentence in asked.sentences]
            variants = [variant for each in occlusions for variant in each.variants]
            explained = fold(occlusions, await self.batcher.classify([*asked.sentences, *variants], timeout_s, gone))
            predictions = [prediction for prediction, _ in explained]
            results = _EXPLAINED.dump_json(
                [
                    ExplainedResult(
                        label=p.label,
                        probabilities=p.probabilities,
                        score=p.score,
                        confident=p.confident,
                        truncated=p.truncated,
                        words=[WordContribution(start=w.start, end=w.end, contribution=w.contribution) for w in words],
                    )
                    for p, words in explained
                ]
            )
        self._telemetry.count(predictions)
        return predictions, self._head + results + b"}"

    async def line(self, asked: StreamLine) -> tuple[list[Prediction], bytes]:
        """The prediction for `asked` and the line that answers it, when the queue has had room for it."""
        predictions = await self.batcher.classify_when_there_is_room([asked.sentence])
        self._telemetry.count(predictions)
        start = b"{" if asked.id is None else b'{"id":' + json.dumps(asked.id).encode() + b","
        return predictions, start + _ONE.dump_json(predictions[0])[1:-1] + self._tail


def error_line(problem: Problem, number: int, asked: StreamLine | None = None) -> bytes:
    """The line that stands for a line that cannot be classified, under its id where it has one; `number` counts the lines as sent,
    from 1."""
    name = {} if asked is None or asked.id is None else {"id": asked.id}
    fault = {"code": problem.code, "detail": problem.detail, "line": number}
    return json.dumps(name | {"error": fault}, ensure_ascii=False).encode() + b"\n"
