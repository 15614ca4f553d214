"""The tokens of a tokenizer as the bytes that they stand for.

In: a byte-level BPE tokenizer. Out: the bytes of each token, and the tokens that begin with a given string. Knows
nothing of answers or texts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from ...entities import NerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_bytes(token: str) -> bytes | None:
    """The bytes that a byte-level BPE token stands for; None if it is spelled otherwise, as special tokens are.

    >>> token_bytes("Ġa"), token_bytes("<｜end｜>")
    (b' a', None)
    """
    table = _byte_of()
    return bytes(table[character] for character in token) if all(c in table for c in token) else None


@cache
def _byte_of() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: byte for byte, character in bytes_to_unicode().items()}


class Vocabulary:
    """The tokens of a byte-level BPE as bytes, sorted, so that those with a common prefix are neighbours.

    Special tokens are left out: none belongs in an answer but the end tokens, which are kept in `ends`. Raises
    `NerError` for a tokenizer of another kind.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_token_ids: Iterable[int]) -> None:
        added = set(tokenizer.get_added_vocab().values())
        self.bytes: dict[int, bytes] = {}
        for token, number in tokenizer.get_vocab().items():
            if number not in added and (spelling := token_bytes(token)) is not None:
                self.bytes[number] = spelling
        self.ends = frozenset(end_token_ids)
        pairs = sorted((spelling, number) for number, spelling in self.bytes.items() if spelling)
        self.spellings = [spelling for spelling, _ in pairs]
        self.numbers = [number for _, number in pairs]
        single = {spelling[0] for spelling in self.spellings if len(spelling) == 1}
        if len(single) < 256:
            what = "constrained decoding needs a byte-level BPE tokenizer, with a token for each of the 256 bytes"
            raise NerError(what, value=len(single), remedy="use a tokenizer like Qwen's, or constrained=False")

    def is_token(self, spelling: bytes) -> bool:
        """Whether a token stands for just these bytes."""
        first = bisect_left(self.spellings, spelling)
        return first < len(self.spellings) and self.spellings[first] == spelling

    def narrow(self, prefix: bytes, low: int, high: int) -> tuple[int, int]:
        """The range of those that begin with `prefix` in `spellings[low:high]`, which begin with `prefix[:-1]`."""
        first = bisect_left(self.spellings, prefix, low, high)
        if prefix[-1] == 0xFF:
            return first, high
        return first, bisect_left(self.spellings, prefix[:-1] + bytes([prefix[-1] + 1]), first, high)

    def spell(self, text: bytes) -> tuple[int, ...]:
        """`text` as tokens, each the longest that fits: a spelling of it, not always the tokenizer's own."""
        tokens = []
        at = 0
        while at < len(text):
            *_, (token, length) = self.tokens_at(text, at)
            tokens.append(token)
            at += length
        return tuple(tokens)

    def tokens_at(self, text: bytes, at: int) -> Iterator[tuple[int, int]]:
        """Each token that stands at `text[at]`, and its length in bytes: the shortest, one byte, first."""
        low, high = 0, len(self.spellings)
        for length in range(1, len(text) - at + 1):
            low, high = self.narrow(text[at : at + length], low, high)
            if low == high:
                return
            if len(self.spellings[low]) == length:
                yield self.numbers[low], length
