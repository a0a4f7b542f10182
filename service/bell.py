"""What the processes that share a port tell each other: that one of them was told to look at the registry, or has another model."""

import time
from multiprocessing import get_context


class Bell:
    """A number in memory that the processes share: it changes whenever one of them rings. It takes no lock, which a process that is
    killed would keep."""

    def __init__(self) -> None:
        self._rung = get_context("spawn").Value("Q", 0, lock=False)

    def ring(self) -> None:
        """Let the other processes look at the registry."""
        self._rung.value = time.monotonic_ns()

    @property
    def rung(self) -> int:
        """When it was rung last; 0 where it never was."""
        return int(self._rung.value)
