"""Text as the model reads it: one normal form, the same in training, serving and batch work."""

import re
import unicodedata

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060\ufeff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SPACE = re.compile(r"\s+")
_MARKS = 30
_WORD = re.compile(r"\w+")


def has_surrogate(text: str) -> bool:
    """Whether `text` holds a lone surrogate, which no encoding can carry."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def _tame(text: str) -> str:
    """`text` with a joiner after every 30 combining marks in a row (the stream-safe format of UAX 15): NFC sorts a run of marks in
    time that grows with its square."""
    if text.isascii():
        return text
    kept: list[str] = []
    run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run > _MARKS:
            kept.append("\u034f")
            run = 1
        kept.append(character)
    return "".join(kept)


def normalise(text: str) -> str:
    """NFC, no control or zero-width characters, single spaces, no space at either end."""
    return _SPACE.sub(" ", _CONTROL.sub(" ", unicodedata.normalize("NFC", _tame(text)))).strip()


def fault_of(text: object, max_characters: int) -> str | None:
    """Why `text` cannot be classified: `empty`, `not_text` (a lone surrogate is none), `too_long`; None where it can."""
    if text is None:
        return "empty"
    if not isinstance(text, str) or has_surrogate(text):
        return "not_text"
    if len(text) > max_characters:
        return "too_long"
    return None if normalise(text) else "empty"


def words(text: str) -> list[str]:
    """Case-folded words without punctuation, for comparing texts."""
    return _WORD.findall(unicodedata.normalize("NFKC", _tame(text)).casefold())
