"""Rows of CSV, TSV and JSONL, each with its place, and each line that is none with what is wrong with it."""

import csv
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from models.errors import UsageError

_MAX_DEPTH = 200
_BLOCK_BYTES = 1 << 20
_LINE_BYTES = _CELL_CHARACTERS = 1 << 24  # a cell may be far too long to classify and still be one


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a row stands: its number in the file from 0, its line from 1, and its first byte once the file is decompressed."""

    row: int
    line: int
    byte: int


class Lines:
    """Lines of a stream, decoded, with the byte at which each begins; those that are put back come again."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name = stream, name
        self._back: deque[tuple[str, bool, int]] = deque()
        self.byte = 0
        self.number = 0
        self.taken: list[tuple[str, bool, int]] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._back:
            line = self._back.popleft()
        else:
            raw = self._stream.readline(_LINE_BYTES)
            if not raw:
                raise StopIteration
            if len(raw) == _LINE_BYTES:
                raise UsageError(f"{self._name}:{self.number + 1}: a line of {_LINE_BYTES} bytes is no row. Split the file.")
            try:
                line = (raw.decode("utf-8-sig" if self.byte == 0 else "utf-8"), False, len(raw))
            except UnicodeDecodeError:
                line = (raw.decode("utf-8", "backslashreplace"), True, len(raw))
        self.taken.append(line)
        self.byte += line[2]
        self.number += 1
        return line[0]

    def put_back(self, lines: Sequence[tuple[str, bool, int]]) -> None:
        self._back.extendleft(reversed(lines))
        self.byte -= sum(line[2] for line in lines)
        self.number -= len(lines)

    def seek(self, mark: Mark) -> bool:
        """Go on from `mark`; False where that lies behind in a stream that only goes forward."""
        if mark.byte < self.byte and not self._stream.seekable():
            return False
        if self._stream.seekable() and mark.byte != self.byte:
            self._stream.seek(mark.byte)
            self._back.clear()
            self.byte = mark.byte
        while self.byte < mark.byte and self._back:
            self.byte += self._back.popleft()[2]
        while self.byte < mark.byte and (block := self._stream.read(min(_BLOCK_BYTES, mark.byte - self.byte))):
            self.byte += len(block)
        self.number = mark.line - 1
        return True


class Rows(ABC):
    """Rows of a text table, each with its fault; `line` and `byte` are where the last one began."""

    def __init__(self, lines: Lines, text_column: str) -> None:
        self._lines, self._text = lines, text_column
        self.line, self.byte = 1, 0

    def seek(self, mark: Mark) -> bool:
        """Go on from `mark`; False where that lies behind in a stream that only goes forward."""
        return self._lines.seek(mark)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], str | None]]:
        return self

    def __next__(self) -> tuple[dict[str, Any], str | None]:
        while True:
            self._lines.taken = []
            self.line, self.byte = self._lines.number + 1, self._lines.byte
            found = self._next()
            if found is not None:
                return found

    @abstractmethod
    def _next(self) -> tuple[dict[str, Any], str | None] | None:
        """The row that begins here with its fault, None where a line is to be passed over."""

    def _bad(self, fault: str) -> tuple[dict[str, Any], str]:
        return {self._text: "".join(line[0] for line in self._lines.taken).rstrip("\r\n")}, fault


class JsonlRows(Rows):
    """One JSON object a line; blank lines are none."""

    def _next(self) -> tuple[dict[str, Any], str | None] | None:
        line = next(self._lines)
        if self._lines.taken[0][1]:
            return self._bad("not_utf8")
        if not line.strip():
            return None
        try:
            row = json.loads(line, parse_constant=_refuse)
            if line.count("[") + line.count("{") > _MAX_DEPTH:
                _refuse_deep(row, _MAX_DEPTH)
        except (ValueError, RecursionError):
            return self._bad("not_json")
        return (row, None) if isinstance(row, dict) else self._bad("not_object")


class CsvRows(Rows):
    """Rows under `columns`, the first line; UsageError where that is none."""

    def __init__(self, lines: Lines, text_column: str, delimiter: str, name: str) -> None:
        super().__init__(lines, text_column)
        csv.field_size_limit(_CELL_CHARACTERS)
        self._reader = csv.reader(lines, delimiter=delimiter, strict=True)
        self.columns: list[str] = []
        try:
            while not self.columns:
                self.columns = next(self._reader)
        except StopIteration:
            raise UsageError(f"{name} is empty. Give a file whose first line names the columns.") from None
        except csv.Error as error:
            raise UsageError(f"{name}: the first line cannot be read ({error}). It must name the columns.") from error
        if any(bad for _, bad, _ in lines.taken):
            raise UsageError(f"{name}: the first line is not UTF-8. Save the file as UTF-8.")
        if len(set(self.columns)) < len(self.columns):
            raise UsageError(f"{name}: two columns have the same name. Rename one of them.")

    def _next(self) -> tuple[dict[str, Any], str | None] | None:
        try:
            cells = next(self._reader)
        except csv.Error:  # most often a quote that nothing closes: one line is lost to it, and the next ones are read anew
            taken = self._lines.taken
            self._lines.put_back(taken[1:])
            del taken[1:]
            return self._bad("not_csv")
        if not cells:
            return None
        if len(cells) != len(self.columns):
            return self._bad("wrong_cells")
        bad = any(line[1] for line in self._lines.taken)
        return dict(zip(self.columns, cells, strict=True)), "not_utf8" if bad else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _refuse_deep(value: Any, left: int) -> None:
    """ValueError where lists and objects stand in each other more than `left` deep: no writer would get to the ground of that."""
    if isinstance(value, dict | list):
        if not left:
            raise ValueError("nested too deep")
        for each in value.values() if isinstance(value, dict) else value:
            _refuse_deep(each, left - 1)
