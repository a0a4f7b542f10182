"""The addresses of the service. Bodies are read and checked by pydantic's own JSON parser; the engine has threads of its own."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from models.bundle import Bundle
from models.registry import follows
from models.schema import Prediction
from service.api import (
    ClassifyRequest,
    ClassifyResponse,
    FollowingBody,
    ModelResponse,
    ReloadResponse,
    StreamLine,
    StreamResult,
)
from service.auth import needs, public
from service.drift import Drift
from service.errors import Problem, problems
from service.label_calls import Labels
from service.request import hang_up, read_deadline, read_sentences
from service.settings import Settings
from service.shadow import Shadow
from service.slot import Slot, slot_of
from service.stream import MEDIA_TYPE as NDJSON
from service.stream import StreamAnswer, answer_stream, check_stream
from service.telemetry import Telemetry

router = APIRouter()


@router.post(
    "/v1/classify",
    response_model=ClassifyResponse,
    responses=problems(400, 401, 403, 408, 413, 415, 422, 429, 503, 504),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": ClassifyRequest.model_json_schema()}}}
    },
)
@needs("classify")
async def classify(request: Request) -> Response:
    """Classify sentences, in order. The header `X-Request-Timeout-Ms` says how long the client waits: 504 after that."""
    slot = slot_of(request)
    settings: Settings = request.app.state.settings
    started = time.monotonic()
    timeout_s = read_deadline(request, settings)
    asked = read_sentences(request.headers.get("content-type", ""), await request.body(), settings)
    async with hang_up(request) as gone:
        with slot.lease() as answers:
            predictions, body = await answers.request(asked, timeout_s - (time.monotonic() - started), gone)
            _notice(request.app, answers.bundle, asked.sentences, predictions)
    return Response(body, media_type="application/json")


@router.post(
    "/v1/classify/stream",
    responses=problems(401, 403, 415, 429, 503) | {200: {"content": {NDJSON: {"schema": StreamResult.model_json_schema()}}}},
    response_class=Response,
    openapi_extra={"requestBody": {"required": True, "content": {NDJSON: {"schema": StreamLine.model_json_schema()}}}},
)
@needs("classify")
async def classify_stream(request: Request) -> Response:
    """Classify a stream of any length, a sentence a line; a line that cannot be classified is answered by `{"error": …}`."""
    slot = slot_of(request)
    check_stream(request.headers.get("content-type", ""))
    return StreamAnswer(answer_stream(request, slot, request.app.state.settings, partial(_notice, request.app)))


@router.get("/v1/model", response_model=ModelResponse, responses=problems(401, 403, 429, 503))
@needs("classify")
async def model(request: Request) -> ModelResponse:
    """The model that answers now."""
    slot = slot_of(request)
    answers = slot.answers
    assert answers is not None
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
        following=None if not follows(slot.following.model) else FollowingBody(**asdict(slot.following)),
    )


@router.post("/v1/admin/reload", response_model=ReloadResponse, responses=problems(401, 403, 429, 502, 503))
@needs("admin")
async def reload(request: Request) -> ReloadResponse:
    """Look now which model the registry means, and take it over; 502 says why that could not be, and then nothing changed.
    With several processes this is the answer of the one that was reached; the others look within half a second."""
    slot = slot_of(request)
    try:
        swapped = await slot.ask(again=True)
    finally:
        slot.ring()
    answers = slot.answers
    assert answers is not None
    return ReloadResponse(swapped=swapped, version=answers.version, id=answers.bundle.id)


@router.get("/healthz")
@public
async def healthz() -> dict[str, str]:
    """Live: the process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses=problems(503))
@public
async def readyz(request: Request) -> dict[str, str]:
    """Ready: a model is loaded and warm, and the service is not about to stop."""
    slot_of(request)
    if request.app.state.draining:
        raise Problem(503, "draining", "The service is about to stop. Use another instance.", headers={"Retry-After": "5"})
    return {"status": "ready"}


@router.get("/metrics")
@public
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    telemetry: Telemetry = request.app.state.telemetry
    slot: Slot | None = request.app.state.slot
    if slot is not None and slot.answers is not None:
        batcher = slot.answers.batcher
        telemetry.queued_tokens.set(batcher.queued_tokens)
        telemetry.computed.set(batcher.computed)
    return Response(telemetry.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/admin/shadow", responses=problems(401, 403, 404, 429, 503))
@needs("admin")
async def read_shadow(request: Request) -> dict[str, Any]:
    """How far the shadow agrees with the model that answers, and where they differ."""
    found: Shadow | None = request.app.state.shadow
    if found is None:
        raise Problem(404, "no_shadow", "This service has no shadow. Start it with --shadow models:/NAME@challenger.")
    return found.report()


@router.get("/v1/admin/drift", responses=problems(401, 403, 429, 503))
@needs("admin")
async def read_drift(request: Request) -> dict[str, Any]:
    """How far the last window of traffic has moved from what the model was measured on, and whether a retrain is due."""
    found: Drift = request.app.state.drift
    return found.report()


def _notice(app: FastAPI, bundle: Bundle, sentences: Sequence[str], predictions: Sequence[Prediction]) -> None:
    """Let those who watch the traffic see what was answered."""
    labels: Labels = app.state.labels
    labels.notice(sentences, predictions, bundle.id)
    drift: Drift = app.state.drift
    drift.notice(bundle, sentences, predictions)
    shadow: Shadow | None = app.state.shadow
    if shadow is not None:
        shadow.notice(sentences, predictions, bundle.id)
