"""Long documents as windows of the length that a model was trained for, and back.

In: a text and a length in characters. Out: windows that cover it, and of the entities found in each those that it
answers for, with offsets of the document. Knows nothing of models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..entities import Entity

SENTENCE_END = re.compile(r"""[。！？!?；;…\n]+["'”’」』）)\]》]*|\.(?=\s)""")


@dataclass(frozen=True, slots=True)
class Window:
    """Characters [start, end) of a document, of which it answers for the entities that begin in [first, last)."""

    start: int
    end: int
    first: int
    last: int

    def entities(self, found: tuple[Entity, ...]) -> tuple[Entity, ...]:
        """`found` in this window, with offsets of the document, without those that another window answers for."""
        moved = (replace(e, start=e.start + self.start, end=e.end + self.start) for e in found)
        return tuple(e for e in moved if self.first <= e.start < self.last)


def windows(text: str, length: int) -> Iterator[Window]:
    """Windows of up to `length` characters that cover `text`; one, where it fits. In time linear in the text.

    A window ends behind the last sentence that fits. Where none ends in it, it is cut amid the sentence; the next one
    then begins a quarter of `length` earlier, so that a mention across the cut is whole in one of them, and both answer
    for half of what they share.

    >>> text = "三星在北京。苹果在上海！"
    >>> [text[w.start : w.end] for w in windows(text, 8)]
    ['三星在北京。', '苹果在上海！']
    >>> [(w.start, w.end, w.first, w.last) for w in windows("三星在北京苹果在上海", 8)]
    [(0, 8, 0, 7), (6, 10, 7, 10)]
    """
    if length < 4:
        raise ValueError(f"length: {length} characters are too few for a window; 4 are the least")
    start = first = 0
    while len(text) - start > length:
        end = start + length
        # A mark at the window's very end may go on behind it, as "……" or a closing quote do.
        ends = [match.end() for match in SENTENCE_END.finditer(text, start, end)]
        if ends:
            yield Window(start, ends[-1], first, ends[-1])
            start = first = ends[-1]
        else:
            shared = length // 4
            last = end - shared + shared // 2
            yield Window(start, end, first, last)
            start, first = end - shared, last
    if start < len(text) or not text:
        yield Window(start, len(text), first, len(text))
