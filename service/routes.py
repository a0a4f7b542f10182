"""The addresses of the service. Bodies are read and checked by pydantic's own JSON parser; the engine has threads of its own."""

import time
from typing import Any

from fastapi import APIRouter, Request, Response

from service.answers import Answers
from service.api import ClassifyRequest, ClassifyResponse, ModelResponse, ProblemBody, StreamLine, StreamResult
from service.errors import MEDIA_TYPE, Problem
from service.request import hang_up, read_deadline, read_sentences
from service.settings import Settings
from service.stream import MEDIA_TYPE as NDJSON
from service.stream import StreamAnswer, answer_stream, check_stream
from service.telemetry import Telemetry

router = APIRouter()


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"content": {MEDIA_TYPE: {"schema": ProblemBody.model_json_schema()}}} for status in statuses}


@router.post(
    "/v1/classify",
    response_model=ClassifyResponse,
    responses=_problems(400, 408, 413, 415, 422, 429, 503, 504),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": ClassifyRequest.model_json_schema()}}}
    },
)
async def classify(request: Request) -> Response:
    """Classify sentences, in order. The header `X-Request-Timeout-Ms` says how long the client waits: 504 after that."""
    answers = _answers(request)
    settings: Settings = request.app.state.settings
    started = time.monotonic()
    timeout_s = read_deadline(request, settings)
    asked = read_sentences(request.headers.get("content-type", ""), await request.body(), settings)
    async with hang_up(request) as gone:
        body = await answers.request(asked, timeout_s - (time.monotonic() - started), gone)
    return Response(body, media_type="application/json")


@router.post(
    "/v1/classify/stream",
    responses=_problems(415, 503) | {200: {"content": {NDJSON: {"schema": StreamResult.model_json_schema()}}}},
    response_class=Response,
    openapi_extra={"requestBody": {"required": True, "content": {NDJSON: {"schema": StreamLine.model_json_schema()}}}},
)
async def classify_stream(request: Request) -> Response:
    """Classify a stream of any length, a sentence a line; a line that cannot be classified is answered by `{"error": …}`."""
    answers = _answers(request)
    check_stream(request.headers.get("content-type", ""))
    return StreamAnswer(answer_stream(request, answers, request.app.state.settings))


@router.get("/v1/model", response_model=ModelResponse, responses=_problems(503))
async def model(request: Request) -> ModelResponse:
    """The model that answers now."""
    answers = _answers(request)
    bundle = answers.bundle
    manifest = bundle.manifest
    return ModelResponse(
        name=manifest.name,
        version=answers.version,
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
    """Ready: a model is loaded and warm, and the service is not about to stop."""
    _answers(request)
    if request.app.state.draining:
        raise Problem(503, "draining", "The service is about to stop. Use another instance.", headers={"Retry-After": "5"})
    return {"status": "ready"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    telemetry: Telemetry = request.app.state.telemetry
    if isinstance(request.app.state.answers, Answers):
        batcher = request.app.state.answers.batcher
        telemetry.queued_tokens.set(batcher.queued_tokens)
        telemetry.computed.set(batcher.computed)
    return Response(telemetry.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _answers(request: Request) -> Answers:
    answers = request.app.state.answers
    if not isinstance(answers, Answers):
        raise Problem(503, "not_ready", "No model is loaded yet. Try again in a few seconds.", headers={"Retry-After": "5"})
    return answers
