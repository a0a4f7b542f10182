"""Limits on a request body, enforced while it is read, whether or not its length was announced."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem


class BodyLimit:
    """Answers 413 for a body over `max_bytes` and 408 for one that takes longer than `timeout_s` to arrive; at the addresses in
    `endless`, a body of any length, each part of it within `timeout_s` of the one before."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float, endless: frozenset[str] = frozenset()) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s
        self.endless = endless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, its body counted and timed."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        endless = scope["path"] in self.endless
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not endless and announced.isdigit() and int(announced) > self.max_bytes:
            await self._too_large({"Connection": "close"}).response()(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self.timeout_s
        size = 0
        complete = False

        async def counted() -> Message:
            nonlocal size, complete, deadline
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise Problem(
                    408,
                    "body_timeout",
                    f"The request body did not arrive within {self.timeout_s:g} s. Send it in one go.",
                    headers={"Connection": "close"},
                ) from None
            if message["type"] == "http.request":
                complete = not message.get("more_body", False)
                if endless:
                    deadline = asyncio.get_running_loop().time() + self.timeout_s
                    return message
                size += len(message.get("body", b""))
                if size > self.max_bytes:
                    raise self._too_large()
            return message

        await self.app(scope, counted, send)

    def _too_large(self, headers: dict[str, str] | None = None) -> Problem:
        detail = f"The request body is over {self.max_bytes} bytes. Send fewer sentences in each request."
        return Problem(413, "body_too_large", detail, headers=headers)
