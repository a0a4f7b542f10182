"""Whether the packages that training needs are here."""

import os

from models.errors import UsageError


def need_training() -> None:
    """UsageError where they are not."""
    # The hub answers no one behind a closed network; a base that is already here must not wait for it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "training needs the training packages. Run `make setup-train`, or `pip install 'stancewire[train]'`."
        ) from error
