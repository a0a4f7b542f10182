"""A few threads for calls that may hang, so that those that hang hold up their own kind alone, and not the process's end."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")
_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Busy(Exception):
    """More calls wait already than are let in."""


class Threads:
    """Up to `count` daemon threads; `waiting` calls may wait for one."""

    def __init__(self, name: str, count: int, waiting: int) -> None:
        self._name, self._count, self._limit = name, count, count + waiting
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pending = 0

    async def run(self, call: Callable[[], _T], timeout_s: float) -> _T:
        """What `call` returns or raises; Busy where too many wait, TimeoutError after `timeout_s`: one that has not begun by then
        never does, one that has goes on."""
        if self._pending >= self._limit:
            raise Busy
        if len(self._threads) < min(self._count, self._pending + 1):
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._pending += 1
        self._jobs.put((call, loop, future))
        async with asyncio.timeout(timeout_s):
            return await future

    def close(self) -> None:
        """Let the threads end when they have done what they are at."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, loop, future = job
            result, error = None, None
            if not future.cancelled():
                try:
                    result = call()
                except BaseException as raised:  # it belongs to whoever waits for it
                    error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._settle, future, result, error)

    def _settle(self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        self._pending -= 1
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
