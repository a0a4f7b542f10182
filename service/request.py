"""What a client asked: its body, its deadline and whether it is still there, each fault a Problem that names the fix."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from models.text import normalise
from service.api import ClassifyRequest, StreamLine
from service.errors import Problem
from service.settings import Settings

DEADLINE_HEADER = "X-Request-Timeout-Ms"
_SENTENCES = '{"sentences": ["..."]}'
_Shape = TypeVar("_Shape", bound=BaseModel)


def read_deadline(request: Request, settings: Settings) -> float:
    """Seconds that the client gives this request, by its header or the settings, at most the settings'."""
    given = request.headers.get(DEADLINE_HEADER)
    if given is None:
        return settings.request_timeout_s
    if not (given.isascii() and given.isdigit()) or len(given) > 9 or int(given) == 0:
        raise Problem(422, "invalid_deadline", f"{DEADLINE_HEADER} is not a whole number of milliseconds above 0.")
    return min(int(given) / 1000, settings.request_timeout_s)


def read_sentences(content_type: str, body: bytes, settings: Settings) -> ClassifyRequest:
    """The request in `body`, every sentence of it one that can be classified."""
    asked = read_json(ClassifyRequest, content_type, body, _SENTENCES)
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
        _check(sentence, f"sentences[{index}]", f"#/sentences/{index}", settings)
    return asked


def read_line(line: bytes) -> StreamLine:
    """One line of a stream."""
    return parse(StreamLine, line, '{"sentence": "..."}')


def check_line(asked: StreamLine, settings: Settings) -> None:
    """Problem where the sentence of a line cannot be classified."""
    _check(asked.sentence, "sentence", "#/sentence", settings)


def read_json(shape: type[_Shape], content_type: str, body: bytes, example: str) -> _Shape:
    """A request's body as `shape`, of which `example` is one."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "wrong_content_type", "Send JSON, with the header Content-Type: application/json.")
    if not body.strip():
        raise Problem(400, "empty_body", f"The request has no body. Send {example}.")
    return parse(shape, body, example)


def parse(shape: type[_Shape], body: bytes, example: str) -> _Shape:
    """JSON as `shape`; the Problem shows `example`."""
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if fault["type"] == "json_invalid":
            raise Problem(400, "invalid_json", f"This is not JSON in UTF-8: {fault['msg']}.") from error
        # an unknown key's name is the client's and is not echoed
        place = fault["loc"] if fault["type"] != "extra_forbidden" else fault["loc"][:-1]
        where = ".".join(map(str, place))
        detail = f"{where or 'the body'}: {fault['msg']}. Send {example}."
        raise Problem(422, "invalid_request", detail, pointer="/".join(["#", *map(str, place)])) from error


def _check(sentence: str, name: str, pointer: str, settings: Settings) -> None:
    if len(sentence) > settings.max_characters:
        raise Problem(
            422,
            "sentence_too_long",
            f"{name} has {len(sentence)} characters; at most {settings.max_characters} are taken. Send a sentence or a short "
            "quote, not a document.",
            pointer=pointer,
        )
    if not normalise(sentence):
        raise Problem(422, "empty_sentence", f"{name} is empty. Leave it out.", pointer=pointer)


@contextlib.asynccontextmanager
async def hang_up(request: Request) -> AsyncIterator["asyncio.Future[None]"]:
    """A future that is done once the client of `request`, whose body has been read, has hung up."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watcher = asyncio.ensure_future(watch())
    try:
        yield watcher
    finally:
        watcher.cancel()
