"""Sentences to token ids: the only caller of the tokenizer.

Truncation is set once, when the file is read, and never changed: a tokenizer that is changed while another thread uses it raises
"Already borrowed". A lock gives it one user at a time.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from models.errors import BundleError
from models.text import normalise


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one sentence, special tokens included, and whether its end was cut off."""

    ids: tuple[int, ...]
    truncated: bool


class Encoder:
    """Encodes sentences with the tokenizer of a bundle, cut to `max_tokens` ids."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        self._path, self._max_tokens = path, max_tokens
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception for every fault
            raise BundleError(f"{path} is not a tokenizer file ({error}). Train or download the bundle again.") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._lock = threading.Lock()

    def own(self) -> "Encoder":
        """An encoder like this one that shares nothing with it, for a thread of its own."""
        return Encoder(self._path, self._max_tokens)

    def encode(self, sentences: Sequence[str]) -> list[Encoded]:
        """Encode `sentences` in order, each in its normal form."""
        with self._lock:
            encodings = [self._tokenizer.encode(normalise(sentence)) for sentence in sentences]
        return [Encoded(tuple(encoding.ids), bool(encoding.overflowing)) for encoding in encodings]
