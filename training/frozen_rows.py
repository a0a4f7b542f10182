"""The rows of a training as they were, kept in its run: what it learnt and what it was measured on, whatever its files become."""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.errors import DataError
from training.data import Example

FILE = "rows.jsonl.gz"
FURTHER = "further test "  # and its name


def write_rows(rows: Mapping[str, Sequence[Example]], path: Path) -> None:
    """Write examples by what they served for (a side of the split, a further test), a line of JSON each, gzipped.

    The same rows give the same bytes.
    """
    lines = [
        json.dumps({"for": purpose, "id": row.id, "text": row.text, "label": row.label, "group": row.group, "slices": row.slices})
        for purpose, examples in rows.items()
        for row in examples
    ]
    path.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0))


def read_rows(path: Path) -> dict[str, list[Example]]:
    """What `write_rows` wrote; DataError where it is damaged."""
    found: dict[str, list[Example]] = {}
    try:
        for number, line in enumerate(gzip.decompress(path.read_bytes()).decode().splitlines(), start=1):
            row = json.loads(line)
            slices = {name: tuple(values) for name, values in row["slices"].items()}
            example = Example(row["id"], row["text"], row["label"], row["group"], slices, f"{path.name}:{number}")
            found.setdefault(row["for"], []).append(example)
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path.name} is damaged ({error}). Train again.") from error
    return found
