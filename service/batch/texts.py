"""The texts of an archive, for those who want nothing else of it."""

from collections.abc import Sequence

from models.errors import UsageError
from models.text import fault_of
from service.batch.files import find_sources
from service.batch.tables import read_rows

MAX_CHARACTERS = 5000


def usable_texts(inputs: Sequence[str], text_column: str) -> list[str]:
    """Every text that can be classified, in order; UsageError where there is none."""
    found = [
        row[text_column]
        for source in find_sources(inputs)
        for _, row, fault in read_rows(source, text_column)
        if fault is None and fault_of(row.get(text_column), MAX_CHARACTERS) is None
    ]
    if not found:
        raise UsageError(f"there is no text in the column {text_column!r}. Name the column that holds the text.")
    return found
