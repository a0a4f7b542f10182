"""What a job has to do with its terminal: signals, and progress where there is none."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_LINE_S = 10.0


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        os.write(2, b"\nstopping when the shard at hand is written; once more stops at once\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ProgressLines:
    """Progress where there is no terminal: a line now and then."""

    def __init__(self, total: int, done: int, started: float) -> None:
        self._total, self._done, self._before, self._started, self._said = total, done, done, started, started

    def tick(self, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if now - self._said >= _LINE_S:
            self._said = now
            rate = (self._done - self._before) / (now - self._started)
            left = (self._total - self._done) / rate if rate else 0
            sys.stderr.write(f"{self._done} of {self._total} rows, {rate:.0f}/s, {left:.0f} s left\n")
            sys.stderr.flush()
