"""NDJSON in, NDJSON out: a line for a line, in order, for streams of any length.

At most WINDOW lines are under way: while they are, nothing more is read, so that memory stays bounded and a slow reader slows its
own writer. A line that cannot be classified is answered by an error object in its place, and the stream goes on.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from models.bundle import Bundle
from models.schema import Prediction
from service.answers import error_line
from service.errors import Problem
from service.request import check_line, read_line
from service.settings import Settings
from service.slot import Slot

MEDIA_TYPE = "application/x-ndjson"
WINDOW = 64
Notice = Callable[[Bundle, Sequence[str], Sequence[Prediction]], None]
_TYPES = frozenset({MEDIA_TYPE, "application/ndjson", "application/jsonl", "application/x-jsonlines"})


class StreamAnswer(Response):
    """Sends lines as they come. Starlette's StreamingResponse would read the request's body too, in search of a hang-up."""

    media_type = MEDIA_TYPE

    def __init__(self, lines: AsyncGenerator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, line by line."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(self._lines) as lines:
            async for line in lines:
                await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def check_stream(content_type: str) -> None:
    """Problem where the body is announced as something else than NDJSON."""
    if content_type.partition(";")[0].strip().lower() not in _TYPES:
        raise Problem(415, "wrong_content_type", f"Send one JSON object a line, with the header Content-Type: {MEDIA_TYPE}.")


async def answer_stream(request: Request, slot: Slot, settings: Settings, notice: Notice) -> AsyncGenerator[bytes]:
    """The lines of the answer, as they become ready; `notice` is told of every sentence that was classified."""
    under_way: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(WINDOW)

    async def read() -> None:
        number = 0
        try:
            async for line in split_lines(request.stream(), settings.max_body_bytes):
                number += 1
                if line is None or line.strip():
                    await under_way.put(asyncio.ensure_future(_answer(line, number, slot, settings, notice)))
        except Problem as problem:  # the next part of the body did not come in time
            await under_way.put(asyncio.ensure_future(_say(problem, number + 1)))
        finally:
            await under_way.put(None)

    reader = asyncio.ensure_future(read())
    try:
        while (task := await under_way.get()) is not None:
            yield await task
        await reader
    except ClientDisconnect:
        return
    finally:
        reader.cancel()
        with contextlib.suppress(asyncio.QueueEmpty):
            while True:
                if (task := under_way.get_nowait()) is not None:
                    task.cancel()


async def split_lines(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes | None]:
    """Lines of a body that comes in chunks, without their ends; None for a line over `limit` bytes, which is skipped."""
    kept = bytearray()
    skipping = False
    async for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            whole = bytes(kept) + part
            yield None if skipping or len(whole) > limit else whole
            kept.clear()
            skipping = False
        if not skipping:
            kept += rest
            if len(kept) > limit:
                kept.clear()
                skipping = True
    if kept or skipping:
        yield None if skipping else bytes(kept)


async def _answer(line: bytes | None, number: int, slot: Slot, settings: Settings, notice: Notice) -> bytes:
    asked = None
    try:
        if line is None:
            raise Problem(413, "line_too_large", f"The line is over {settings.max_body_bytes} bytes. Send one sentence a line.")
        asked = read_line(line)
        check_line(asked, settings)
        with slot.lease() as answers:
            predictions, answer = await answers.line(asked)
            notice(answers.bundle, [asked.sentence], predictions)
            return answer
    except Problem as problem:
        return error_line(problem, number, asked)


async def _say(problem: Problem, number: int) -> bytes:
    return error_line(problem, number)
