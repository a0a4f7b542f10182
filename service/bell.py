"""What the processes that share a port tell each other: that one was told to look at the registry, or has another model, and
which."""

import time
from multiprocessing import get_context


class Bell:
    """Memory that the processes share: a number that changes whenever one of them rings, and the model that was swapped in last. It
    takes no lock, which a process that is killed would keep; a name that is half written is one that no bundle has."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._rung = context.Value("Q", 0, lock=False)
        self._model = context.Array("c", 128, lock=False)

    def ring(self, swapped: tuple[str, str] | None = None) -> None:
        """Let the other processes look at the registry; `swapped` are the id and version of the bundle that answers here now."""
        if swapped is not None:
            self._model.value = " ".join(swapped).encode()
        self._rung.value = time.monotonic_ns()

    @property
    def swapped(self) -> tuple[str, str] | None:
        """The id and the version of the bundle that was swapped in last."""
        bundle_id, space, version = self._model.value.decode().partition(" ")
        return (bundle_id, version) if space else None

    @property
    def rung(self) -> int:
        """When it was rung last; 0 where it never was."""
        return int(self._rung.value)
