"""uvicorn's HTTP protocol, made to lose patience: a request's head must come in time and be of a size, and bytes that are no HTTP
get a problem document like every other error."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import problem_response

MAX_HEAD_BYTES = 65_536


class GuardedConfig(uvicorn.Config):
    """uvicorn's configuration with the seconds in which a head must arrive."""

    def __init__(self, app: Any, *, head_timeout_s: float, **options: Any) -> None:
        super().__init__(app, http=GuardedProtocol, ws="none", **options)
        self.head_timeout_s = head_timeout_s


class GuardedProtocol(HttpToolsProtocol):
    """Closes connections that say nothing, or only part of a head, for too long; between requests uvicorn's keep-alive holds."""

    _timer: asyncio.TimerHandle | None = None
    _begun = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected: its first head is due."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Pass bytes on, and count those of a head."""
        super().data_received(data)
        if self._timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, "head_too_large", f"The request line and headers are over {MAX_HEAD_BYTES} bytes. Send fewer.")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request has come."""
        super().on_message_begin()
        self._begun = True
        if self._timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._stop_waiting()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._refuse(400, "invalid_http", "This is not an HTTP/1.1 request.")

    def _expect_head(self) -> None:
        assert isinstance(self.config, GuardedConfig)
        self._head_bytes = 0
        self._timer = self.loop.call_later(self.config.head_timeout_s, self._lose_patience)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _lose_patience(self) -> None:
        self._timer = None
        if self._begun:
            self._refuse(408, "head_timeout", "The request line and headers did not arrive in time. Send them in one go.")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, detail: str) -> None:
        self._stop_waiting()
        answer = problem_response(status, code, detail, {"Connection": "close"})
        lines = [f"HTTP/1.1 {status} {code}".encode(), *(name + b": " + value for name, value in answer.raw_headers)]
        self.transport.write(b"\r\n".join([*lines, b"", b""]) + bytes(answer.body))
        self.transport.close()
