"""Long documents in windows: read in those of the length that a model was trained for, and trained on in such.

In: a text and a length in characters. Out: windows that cover it, and of the entities found in each those that belong
to it, with offsets of the document. Knows nothing of models.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from ..codec import Decoded
from ..entities import Entity

SENTENCE_END = re.compile(r"""[。！？!?；;…\n]+["'”’」』）)\]》]*|(?<!\b[A-Za-z])(?<!\b[A-Za-z]{2})\.(?=\s)""")
"""The end of a sentence, with the quotes and brackets that it closes. A full stop behind one or two letters (J., St.)
may be that of an abbreviation."""

CLOSERS = 16
"""Characters behind a window in which the end of its last sentence may go on, like …… or a closing quote."""


@dataclass(frozen=True, slots=True)
class Window:
    """Characters [start, end) of a document; the entities that begin in [first, last) belong to this window."""

    start: int
    end: int
    first: int
    last: int

    def entities(self, found: tuple[Entity, ...]) -> tuple[Entity, ...]:
        """Those of `found` that belong to this window, with offsets of the document instead of the window."""
        moved = (replace(e, start=e.start + self.start, end=e.end + self.start) for e in found)
        return tuple(e for e in moved if self.first <= e.start < self.last)


def windows(text: str, length: int, known: Iterable[Entity] | None = None) -> Iterator[Window]:
    """Windows of up to `length` characters that cover `text`, in linear time; one if the whole text fits.

    A window ends behind the last sentence that fits. If no sentence ends in it, it is cut inside one, and the next
    window begins a quarter of `length` before the cut. Each of the two owns half of what they share, so that a mention
    of up to an eighth of `length` is whole in the window that it belongs to; a longer one may be cut.

    Where the entities are `known`, as in training, windows share nothing, and none of up to `length` characters is cut:
    the window ends before it. Only where entities overlap in a chain over more than `length` one of them may be cut.

    >>> text = "三星在北京。苹果在上海！"
    >>> [text[w.start : w.end] for w in windows(text, 8)]
    ['三星在北京。', '苹果在上海！']
    >>> [(w.start, w.end, w.first, w.last) for w in windows("三星在北京苹果在上海", 8)]
    [(0, 8, 0, 7), (6, 10, 7, 10)]
    >>> [(w.start, w.end) for w in windows("三星在北京苹果在上海", 8, [Entity("address", "上海", 8, 10)])]
    [(0, 8), (8, 10)]
    """
    if length < 4:
        raise ValueError(f"length: a window needs at least 4 characters, got {length}")
    uncut = _before_entities(known or (), length)
    start = first = 0
    while len(text) - start > length:
        end = start + length
        ends = [match.end() for match in SENTENCE_END.finditer(text, start, end + CLOSERS)]
        ends = [at for at in ends if at <= end and uncut(at) == at]
        if not ends and known is not None:
            ends = [at if (at := uncut(end)) > start else end]
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


def _before_entities(known: Iterable[Entity], length: int) -> Callable[[int], int]:
    """Moves a place that is inside one of `known` to where that begins, together with those it overlaps.

    An entity of more than `length` characters does not count.
    """
    starts, ends = list[int](), list[int]()
    for start, end in sorted(entity.span for entity in known):
        if end - start > length:
            continue
        if ends and start < ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)

    def moved(at: int) -> int:
        before = bisect_left(starts, at) - 1
        return starts[before] if before >= 0 and at < ends[before] else at

    return moved


def windows_to_read(text: str, length: int, fits: Callable[[str], bool] = lambda _: True) -> list[Window]:
    """The `windows` of `text` that hold more than white space; shorter ones if one of them does not fit."""
    found = [window for window in windows(text, length) if text[window.start : window.end].strip()]
    if length >= 8 and not all(fits(text[window.start : window.end]) for window in found):
        return windows_to_read(text, length // 2, fits)
    return found


def join_windows(found: Iterable[tuple[Window, Decoded]], floor: Callable[[str], float]) -> Decoded:
    """What was decoded in the windows of one text as one result, without what scores below `floor(label)`.

    Surfaces whose entities all belong to another window are left out.
    """
    whole = [(window, decoded.scored_at_least(floor)) for window, decoded in found]
    parts = [replace(part, entities=window.entities(part.entities)) for window, part in whole]
    if len(parts) == 1:
        return parts[0]
    surfaces: dict[tuple[str, str], None] = {}
    for (_, before), part in zip(whole, parts, strict=True):
        kept = {(e.label, e.text) for e in part.entities} | set(before.ungrounded)
        surfaces |= dict.fromkeys(pair for pair in part.surfaces if pair in kept)
    logprobs = [part.logprob for part in parts if part.logprob is not None]
    return Decoded(
        tuple(entity for part in parts for entity in part.entities),
        tuple(surfaces),
        tuple(problem for part in parts for problem in part.problems),
        min(logprobs) if logprobs and len(logprobs) == len(parts) else None,
    )
