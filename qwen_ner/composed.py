"""Unicode's composed form of a text (NFC), in which models read and write, and the way back to the text.

In: a text. Out: its NFC, with the place in the text of each character. Knows nothing of entities and tokens.
"""

from __future__ import annotations

from functools import partial
from unicodedata import combining, normalize

nfc = partial(normalize, "NFC")
"""Qwen's tokenizers make this of every text. It gives a text that has this form already back at once."""


def composed(text: str) -> tuple[str, list[int], list[int]]:
    r"""The NFC of `text`, and for each of its characters where in `text` those begin and end that it is made of.

    >>> composed("e\N{COMBINING ACUTE ACCENT}a")
    ('éa', [0, 2], [2, 3])
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
    return "".join(whole), starts, ends
