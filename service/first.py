"""The model that a process begins with."""

import logging
from collections.abc import Callable, Iterator

from models.bundle import open_bundle
from models.classifier import Classifier
from models.registry import Source, recent, resolve
from service.bell import Bell
from service.slot import open_warm, require_labels

_log = logging.getLogger("stancewire")


def first_model(model: str, source: Source, bell: Bell, workers: int) -> tuple[Classifier, str]:
    """What one of several processes begins with, opened and warm, and its version; what the last way raises where none works.

    `source` is what the service was started with. A process that starts after a reload or a swap asks anew what `model` is; where
    that cannot be used it takes what the others swapped in last, and `source` where that is gone too. The files are read again in
    each case, since they may have been written to meanwhile.
    """
    raised: Exception | None = None
    for way in _ways(model, source, bell):
        try:
            found = way()
            if found is None:
                continue
            require_labels(found, source.bundle)
            return open_warm(found, workers), found.version
        except Exception as error:  # whatever is wrong with one of them, the next may do
            _log.error("this process cannot begin with %s as it is now: %s", model, error)
            raised = error
    assert raised is not None
    raise raised


def _ways(model: str, source: Source, bell: Bell) -> Iterator[Callable[[], Source | None]]:
    swapped = bell.swapped
    if bell.rung:
        yield lambda: resolve(model)
        if swapped is not None:
            yield lambda: recent(*swapped)
    if model.startswith("models:"):
        yield lambda: Source(open_bundle(source.bundle.path), source.version)
    elif not bell.rung:
        yield lambda: resolve(model)
