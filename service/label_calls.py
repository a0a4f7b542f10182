"""The label store as the service uses it: opened at the first call that needs it, called in a few threads of its own, and given
what the model was not sure of every second."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from models.errors import StancewireError
from models.schema import Prediction
from models.text import has_surrogate
from service.errors import Problem, log_problem
from service.settings import Settings
from service.threads import Busy, Threads

if TYPE_CHECKING:
    from models.label_store import LabelStore, Seen

NEEDED = "the label store needs packages that this service lacks. Run `pip install 'stancewire[registry]'`."
_log = logging.getLogger("stancewire")
_PATIENCE_S = 10.0
_THREADS, _WAITING = 4, 64  # calls of the store at a time, and those that may wait for one of them
_FLUSH_S = 1.0
_REMEMBERED = 2000  # sentences between two flushes; more are not kept


class Labels:
    """The label store of one application, and what waits to be remembered for the queue."""

    def __init__(self, settings: Settings) -> None:
        self._url, self._remember = settings.database_url, settings.remember_unsure
        self._store: LabelStore | None = None
        self._lock = threading.Lock()
        self._threads = Threads("labels", _THREADS, _WAITING)
        self._unsure: dict[str, Seen] = {}

    async def call(self, use: "Callable[[LabelStore], Any]") -> Any:
        """What `use` makes of the store, in a thread; Problem `labels_unavailable` where the store does not work."""

        def run() -> Any:
            return use(self._open())

        try:
            return await self._threads.run(run, _PATIENCE_S)
        except (StancewireError, ImportError) as error:
            said = f"Nothing was stored: {NEEDED if isinstance(error, ImportError) else error}"
            raise Problem(503, "labels_unavailable", said, headers={"Retry-After": "30"}) from error
        except Busy as error:
            said = "Nothing was stored: the label store is behind with what it was asked before. Try again later."
            raise Problem(503, "labels_unavailable", said, headers={"Retry-After": "30"}) from error
        except TimeoutError as error:
            said = f"The label store has not answered in {_PATIENCE_S:g} seconds. Try again later, with the same keys."
            raise Problem(503, "labels_unavailable", said, headers={"Retry-After": "30"}) from error

    def _open(self) -> "LabelStore":
        from models.label_store import LabelStore

        with self._lock:
            if self._store is None:
                self._store = LabelStore(self._url)
            return self._store

    def notice(self, sentences: Sequence[str], predictions: Sequence[Prediction], model_id: str) -> None:
        """Keep what the model was not sure of, where the settings say so."""
        if not self._remember or all(prediction.confident for prediction in predictions):
            return
        try:
            from models.label_store import Seen
        except ImportError as error:
            self._remember = False
            _log.error("nothing is kept for the labelling queue: %s (%s)", NEEDED, error)
            return

        for sentence, prediction in zip(sentences, predictions, strict=True):
            if (
                not prediction.confident
                and "\x00" not in sentence
                and not has_surrogate(sentence)
                and len(self._unsure) < _REMEMBERED
            ):
                times = self._unsure[sentence].times + 1 if sentence in self._unsure else 1
                confidence = prediction.probabilities[prediction.label]
                self._unsure[sentence] = Seen(sentence, times, prediction.label, confidence, model_id)

    async def flush(self) -> None:
        """Write what was kept."""
        kept, self._unsure = list(self._unsure.values()), {}
        if kept:
            await self.call(lambda store: store.remember(kept))

    async def keep_flushing(self) -> None:
        """Write what was kept every second; what cannot be written is dropped, since answers matter more."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            try:
                await self.flush()
            except Problem as problem:
                log_problem(problem)
            except Exception:  # one bad flush must not end the next ones
                _log.exception("sentences for the labelling queue were lost")

    def close(self) -> None:
        """Close the store."""
        self._threads.close()
        if self._store is not None:
            self._store.close()
