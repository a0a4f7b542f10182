"""Labels over HTTP: corrections in, the queue of what to label next, everything out again.

The queue takes what the model was not
sure of: less sure and more frequent first, each pick unlike those before it, and nothing twice to one annotator.
"""

import json
import logging
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from models.text import normalise, words
from service.auth import needs
from service.errors import Problem, problems
from service.label_calls import NEEDED, Labels
from service.request import read_json
from service.settings import Settings
from service.slot import known_labels
from service.stream import MEDIA_TYPE as NDJSON

if TYPE_CHECKING:
    from models.label_store import Seen

router = APIRouter()
_log = logging.getLogger("stancewire")
_EXPORT_ROWS = 500
_EXAMPLE = '{"labels": [{"sentence": "...", "label": "..."}]}'
_CANDIDATES = 40  # for each item of the queue


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class GivenLabel(_Shape):
    """One label: `key` makes it safe to send twice; `predicted`, `confidence` and `model_id` are what the model had answered."""

    sentence: str = Field(min_length=1)
    label: str
    key: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    annotator: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        None, description="who gave it, where that is not who calls"
    )
    model_id: Annotated[str, Field(max_length=64)] | None = None
    predicted: Annotated[str, Field(max_length=100)] | None = None
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    note: Annotated[str, Field(max_length=2000)] | None = None


class LabelsRequest(_Shape):
    """Labels to store, all or none of them."""

    labels: list[GivenLabel] = Field(min_length=1, max_length=1000)


class StoredLabel(_Shape):
    """A label's key, and whether it is new: a key that was sent before is stored once."""

    key: str
    new: bool


class LabelsResponse(_Shape):
    """One entry for each label, in their order."""

    labels: list[StoredLabel]


class QueueItem(_Shape):
    """A sentence to label, how often the service has seen it, and what the model says."""

    sentence: str
    times: int
    predicted: str
    confidence: float
    model_id: str


class QueueResponse(_Shape):
    """What to label next, the most useful first."""

    items: list[QueueItem]
    labels: list[str] = Field(description="the labels to choose from")


def _labels(request: Request) -> Labels:
    labels: Labels = request.app.state.labels
    return labels


@router.post(
    "/v1/labels",
    response_model=LabelsResponse,
    responses=problems(400, 401, 403, 409, 413, 415, 422, 429, 503),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": LabelsRequest.model_json_schema()}}}
    },
)
@needs("label")
async def give(request: Request) -> LabelsResponse:
    """Store labels; they are on the disk when the answer comes. A key sent twice is stored once, so a call may be repeated."""
    try:
        from models.label_store import KeyTaken, Label
    except ImportError as error:
        raise Problem(503, "labels_unavailable", f"Nothing was stored: {NEEDED}") from error
    asked = read_json(LabelsRequest, request.headers.get("content-type", ""), await request.body(), _EXAMPLE)
    known = known_labels(request)
    settings: Settings = request.app.state.settings
    caller: str = request.state.caller
    made = []
    for place, given in enumerate(asked.labels):
        if given.label not in known:
            detail = f"labels[{place}].label is not one of {', '.join(known)}. Send one of these."
            raise Problem(422, "unknown_label", detail, pointer=f"#/labels/{place}/label")
        if len(given.sentence) > settings.max_characters:
            detail = f"labels[{place}].sentence has over {settings.max_characters} characters. Send a sentence or a short quote."
            raise Problem(422, "sentence_too_long", detail, pointer=f"#/labels/{place}/sentence")
        if not normalise(given.sentence):
            detail = f"labels[{place}].sentence is empty. Leave it out."
            raise Problem(422, "empty_sentence", detail, pointer=f"#/labels/{place}/sentence")
        if "\x00" in "".join(value for value in given.model_dump().values() if isinstance(value, str)):
            detail = f"labels[{place}] holds a NUL character, which not every database can store. Leave it out."
            raise Problem(422, "invalid_request", detail, pointer=f"#/labels/{place}")
        values = given.model_dump(exclude_none=True) | {"annotator": given.annotator or caller}
        made.append(Label(**values))
    try:
        fresh: list[bool] = await _labels(request).call(lambda store: store.add(made))
    except KeyTaken as error:
        place = next(place for place, label in enumerate(made) if label.key == error.key)
        detail = f"the key of labels[{place}] stands for another label already. Give every label a key of its own."
        raise Problem(409, "key_taken", detail, pointer=f"#/labels/{place}/key") from error
    return LabelsResponse(labels=[StoredLabel(key=label.key, new=new) for label, new in zip(made, fresh, strict=True)])


@router.get("/v1/labels/queue", response_model=QueueResponse, responses=problems(401, 403, 422, 429, 503))
@needs("label")
async def queue(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200, description="items at most")] = 20,
    annotator: Annotated[str | None, Query(max_length=100, description="who will label, where that is not who calls")] = None,
) -> QueueResponse:
    """What to label next: sentences that the model was not sure of, often seen, unlike each other, none twice for an annotator."""
    who = (annotator or request.state.caller).replace("\x00", "")
    await _labels(request).flush()
    found = await _labels(request).call(lambda store: pick(store.unsure(who, limit * _CANDIDATES), limit))
    items = [QueueItem(**{name: getattr(item, name) for name in QueueItem.model_fields}) for item in found]
    return QueueResponse(items=items, labels=list(known_labels(request)))


@router.get("/v1/labels/export", responses=problems(401, 403, 429, 503))
@needs("label")
async def export(request: Request) -> StreamingResponse:
    """Every label that was ever given, a line of JSON each, in the columns that `stancewire train --data` takes."""
    labels: Any = await _labels(request).call(lambda store: store.read())
    first = await _labels(request).call(lambda _: list(islice(labels, _EXPORT_ROWS)))

    async def lines() -> AsyncIterator[bytes]:
        page = first
        while page:
            yield "".join(export_lines(page)).encode()
            page = await _labels(request).call(lambda _: list(islice(labels, _EXPORT_ROWS)))

    return StreamingResponse(lines(), media_type=NDJSON)


def export_lines(labels: Sequence[Any]) -> Iterator[str]:
    """Labels as lines of JSON: `id` and `text` in place of key and sentence, the rest by its name, nothing that is not there."""
    for label in labels:
        content = {name: getattr(label, name) for name in label.__slots__ if getattr(label, name) is not None}
        row = {"id": content.pop("key"), "text": content.pop("sentence"), **content}
        yield json.dumps(row, ensure_ascii=False) + "\n"


def pick(candidates: "Sequence[Seen]", limit: int) -> "list[Seen]":
    """The best of `candidates` in turn, each worth (1 - confidence) · log(1 + times) · (1 - its overlap in words with those picked)
    (uncertainty, density and diversity as in Settles, 2009)."""
    rest = [(each, (1 - each.confidence) * math.log1p(each.times), frozenset(words(each.sentence))) for each in candidates]
    overlap = [0.0] * len(rest)
    chosen: list[Seen] = []
    while rest and len(chosen) < limit:
        best = max(range(len(rest)), key=lambda place: rest[place][1] * (1 - overlap[place]))
        each, _, taken = rest.pop(best)
        overlap.pop(best)
        chosen.append(each)
        for place, (_, _, its) in enumerate(rest):
            overlap[place] = max(overlap[place], len(its & taken) / max(1, len(its | taken)))
    return chosen
