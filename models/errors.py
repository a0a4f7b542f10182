"""Every error a user can cause, with a stable code and a sentence that names the fix.

StancewireError
├── UsageError      an option, file or value that the caller gave is wrong
├── DataError       labelled data that cannot be used; carries every problem found
├── BundleError     a bundle that is missing, damaged or of an unknown format
├── RegistryError   the model registry does not answer or lacks what was asked for
├── ExportError     an exported model that does not answer like the trained one
├── LabelStoreError a label store that cannot be reached or written
├── BadRows         rows that cannot be scored, where that is to be a failure
└── Stopped         a signal asked for a stop; what is finished stays
"""

from collections.abc import Sequence


class StancewireError(Exception):
    """Root of the tree: `code` is stable for programs, `str(error)` is for people."""

    code = "error"


class UsageError(StancewireError):
    """A wrong option, file or value."""

    code = "usage"


class DataError(StancewireError):
    """Labelled data that cannot be used; `problems` has one line for each fault."""

    code = "data"

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        self.problems = tuple(problems)
        shown = [f"  {line}" for line in self.problems[:20]]
        if len(self.problems) > 20:
            shown.append(f"  … and {len(self.problems) - 20} more")
        super().__init__("\n".join([message, *shown]))


class BundleError(StancewireError):
    """A bundle that is missing, damaged or of an unknown format."""

    code = "bundle"


class RegistryError(StancewireError):
    """The model registry does not answer or lacks what was asked for."""

    code = "registry"


class ExportError(StancewireError):
    """An exported model whose answers differ too much from the trained one's."""

    code = "export"


class LabelStoreError(StancewireError):
    """A label store that cannot be reached or written."""

    code = "label_store"


class BadRows(StancewireError):
    """Rows that cannot be scored, where the caller has asked for a failure then."""

    code = "bad_rows"


class Stopped(StancewireError):
    """A signal asked for a stop: what is finished stays, and the job can go on."""

    code = "stopped"
