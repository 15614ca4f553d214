"""Unicode's composed form of a text (NFC), in which models read and write, and the way back to the text.

In: a text. Out: its NFC, with the place in the text of each character. Knows nothing of entities and tokens.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import partial
from typing import NamedTuple
from unicodedata import combining, normalize

nfc = partial(normalize, "NFC")
"""Qwen's tokenizers make this of every text. It gives a text that has this form already back at once."""


class Composed(NamedTuple):
    """The NFC of a text, and for each of its characters where those of the text begin and end that it is made of."""

    text: str
    starts: list[int]
    ends: list[int]

    def place_in(self, start: int, end: int) -> tuple[int, int]:
        """Where the characters [start, end) of the text are in its NFC; of those that it composes, all."""
        return bisect_right(self.ends, start), bisect_left(self.starts, end)

    def place_of(self, start: int, end: int) -> tuple[int, int]:
        """Where in the text the characters [start, end) of its NFC come from."""
        return self.starts[start], self.ends[end - 1]


def composed(text: str) -> Composed:
    r"""The NFC of `text`, with the way there and back.

    >>> found = composed("e\N{COMBINING ACUTE ACCENT}a")
    >>> found.text, found.place_of(0, 1), found.place_in(1, 2)
    ('éa', (0, 2), (0, 1))
    """
    whole, starts, ends, start = list[str](), list[int](), list[int](), 0
    for end in range(1, len(text) + 1):
        if end < len(text) and (after := text[end]) >= "\u0300":  # none before it composes with what precedes it
            if combining(normalize("NFD", after)[0]):
                continue
            if nfc(text[start : end + 1]) != nfc(text[start:end]) + nfc(after):
                continue
        part = nfc(text[start:end])
        same = part == text[start:end]
        starts += range(start, end) if same else [start] * len(part)
        ends += range(start + 1, end + 1) if same else [end] * len(part)
        whole.append(part)
        start = end
    return Composed("".join(whole), starts, ends)
