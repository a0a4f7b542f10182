"""The addresses of the service. Bodies are read and checked by pydantic's own JSON parser; the engine has threads of its own."""

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from models.classifier import Classifier
from models.explain import fold, occlude
from models.schema import Prediction
from models.text import normalise
from service.api import ClassifyRequest, ClassifyResponse, ModelName, ModelResponse, ProblemBody, Result, WordContribution
from service.errors import MEDIA_TYPE, Problem
from service.settings import Settings
from service.telemetry import Telemetry

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Ready:
    """A warm classifier and the version under which users know its model."""

    classifier: Classifier
    version: str


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"content": {MEDIA_TYPE: {"schema": ProblemBody.model_json_schema()}}} for status in statuses}


@router.post(
    "/v1/classify",
    response_model=ClassifyResponse,
    responses=_problems(400, 408, 413, 415, 422, 503),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": ClassifyRequest.model_json_schema()}}}
    },
)
async def classify(request: Request) -> Response:
    """Classify sentences, in order."""
    ready = _ready(request)
    asked = _asked(request.headers.get("content-type", ""), await request.body(), request.app.state.settings)
    classifier = ready.classifier
    bundle = classifier.bundle
    if asked.explain:
        occlusions = [occlude(sentence, bundle.manifest.max_tokens) for sentence in asked.sentences]
        variants = [variant for each in occlusions for variant in each.variants]
        explained = fold(occlusions, await _predict(classifier, [*asked.sentences, *variants]))
        predictions = [prediction for prediction, _ in explained]
        words = [[WordContribution(start=w.start, end=w.end, contribution=w.contribution) for w in each] for _, each in explained]
    else:
        predictions = await _predict(classifier, asked.sentences)
    _count(request.app.state.telemetry, predictions)
    answer = ClassifyResponse(
        model=ModelName(name=bundle.manifest.name, version=ready.version, id=bundle.id),
        results=[
            Result(
                label=p.label,
                probabilities=p.probabilities,
                score=p.score,
                confident=p.confident,
                truncated=p.truncated,
                words=words[position] if asked.explain else None,
            )
            for position, p in enumerate(predictions)
        ],
    )
    left_out = None if asked.explain else {"results": {"__all__": {"words"}}}
    return Response(answer.model_dump_json(exclude=left_out), media_type="application/json")


@router.get("/v1/model", response_model=ModelResponse, responses=_problems(503))
async def model(request: Request) -> ModelResponse:
    """The model that answers now."""
    ready = _ready(request)
    bundle = ready.classifier.bundle
    manifest = bundle.manifest
    return ModelResponse(
        name=manifest.name,
        version=ready.version,
        id=bundle.id,
        labels=list(manifest.label_set.labels),
        base_model=manifest.base_model,
        max_tokens=manifest.max_tokens,
        temperature=manifest.temperature,
        confidence_threshold=manifest.confidence_threshold,
        metrics=manifest.metrics,
        card=bundle.card,
    )


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Live: the process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses=_problems(503))
async def readyz(request: Request) -> dict[str, str]:
    """Ready: a model is loaded and warm."""
    _ready(request)
    return {"status": "ready"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    telemetry: Telemetry = request.app.state.telemetry
    return Response(telemetry.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _ready(request: Request) -> Ready:
    ready = request.app.state.ready
    if not isinstance(ready, Ready):
        raise Problem(503, "not_ready", "No model is loaded yet. Try again in a few seconds.")
    return ready


async def _predict(classifier: Classifier, sentences: list[str]) -> list[Prediction]:
    """Predictions in order; the event loop waits for the engine's threads and does none of their work."""
    loop = asyncio.get_running_loop()
    calls = await loop.run_in_executor(classifier.pool, classifier.prepare, sentences)
    parts = await asyncio.gather(*(loop.run_in_executor(classifier.pool, classifier.run, call) for call in calls))
    found = dict(pair for part in parts for pair in part)
    return [found[position] for position in range(len(sentences))]


def _asked(content_type: str, body: bytes, settings: Settings) -> ClassifyRequest:
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "wrong_content_type", "Send JSON, with the header Content-Type: application/json.")
    if not body.strip():
        raise Problem(400, "empty_body", 'The request has no body. Send {"sentences": ["..."]}.')
    try:
        asked = ClassifyRequest.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if fault["type"] == "json_invalid":
            raise Problem(400, "invalid_json", f"The body is not JSON in UTF-8: {fault['msg']}.") from error
        # an unknown key's name is the client's and is not echoed
        place = fault["loc"][:2] if fault["type"] != "extra_forbidden" else ()
        where = ".".join(map(str, place))
        detail = f'{where or "the body"}: {fault["msg"]}. Send {{"sentences": ["..."]}}.'
        raise Problem(422, "invalid_request", detail, pointer="/".join(["#", *map(str, place)])) from error
    sentences = asked.sentences
    if not sentences:
        raise Problem(422, "no_sentences", "The list of sentences is empty. Send at least one.", pointer="#/sentences")
    if len(sentences) > settings.max_sentences:
        raise Problem(
            422,
            "too_many_sentences",
            f"The request has {len(sentences)} sentences; at most {settings.max_sentences} go into one. Send several requests.",
            pointer="#/sentences",
        )
    if asked.explain and len(sentences) > settings.max_explained:
        raise Problem(
            422,
            "too_many_explained",
            f"The request asks for {len(sentences)} explained sentences; at most {settings.max_explained} go into one. Send "
            "several requests, or leave explain out.",
            pointer="#/sentences",
        )
    for index, sentence in enumerate(sentences):
        if len(sentence) > settings.max_characters:
            raise Problem(
                422,
                "sentence_too_long",
                f"sentences[{index}] has {len(sentence)} characters; at most {settings.max_characters} are taken. Send a sentence "
                "or a short quote, not a document.",
                pointer=f"#/sentences/{index}",
            )
        if not normalise(sentence):
            raise Problem(422, "empty_sentence", f"sentences[{index}] is empty. Leave it out.", pointer=f"#/sentences/{index}")
    return asked


def _count(telemetry: Telemetry, predictions: list[Prediction]) -> None:
    for prediction in predictions:
        telemetry.sentences.labels(prediction.label).inc()
        if not prediction.confident:
            telemetry.not_confident.inc()
        if prediction.truncated:
            telemetry.truncated.inc()
