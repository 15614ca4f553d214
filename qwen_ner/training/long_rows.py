"""Rows that are too long to train on, split into windows that fit.

In: examples, the tokens that each takes, a limit, and a way to count the tokens of others. Out: the same examples, the
long ones split where sentences end, with their entities. Knows nothing of tokenizers and models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from ..data.arrow_store import StoredExamples
from ..data.formats.errors import count
from ..entities import Example
from ..inference.windows import Window, windows

SHORTEST = 32
"""Characters of a window below which nothing is split: little would be left of the context of a mention."""

SHARE = 0.75
"""The part of the limit that a window is made for: some have more entities than most, or more tokens a character."""


@dataclass(frozen=True)
class SplitRows:
    """Rows to train on. `documents` of the rows before, with `entities`, are `windows` now, which have `kept` of these.

    An entity is lost where it is longer than a window, or one of a chain of overlapping ones that is.
    """

    examples: Sequence[Example]
    documents: int = 0
    windows: int = 0
    entities: int = 0
    kept: int = 0

    def __str__(self) -> str:
        """What was split, on one line; empty if nothing was."""
        if not self.documents:
            return ""
        into = f"{count(self.documents, 'row')} split into {count(self.windows, 'window')}"
        return f"{into}, with {self.kept:,} of {self.entities:,} entities"


def split_long(
    examples: Sequence[Example], lengths: Iterable[int], limit: int, measure: Callable[[list[Example]], list[int]]
) -> SplitRows:
    """Split the examples whose `lengths` in tokens are over `limit` into windows that are not.

    `measure` counts the tokens of examples. A window ends where a sentence ends, if one does, and inside of no entity
    that fits into a window. What would have to be shorter than `SHORTEST` to fit is left over the limit.
    """
    lengths = list(lengths)
    long = {row: examples[row] for row, length in enumerate(lengths) if length > limit}
    if not long:
        return SplitRows(examples)
    (beside,) = measure([Example("", "。")])
    characters = sum(len(example.text) for example in long.values())
    tokens = sum(lengths[row] - beside for row in long)
    size = int(SHARE * characters * (limit - beside) / max(1, tokens))
    parts = [(row, 0, example) for row, example in long.items()]
    needs = [lengths[row] for row in long]
    while size >= SHORTEST and any(need > limit for need in needs):
        parts = [
            (row, start + window.start, cut_out(part, window))
            for (row, start, part), need in zip(parts, needs, strict=True)
            for window in windows(part.text, size if need > limit else max(size, len(part.text)), part.entities)
        ]
        needs, size = measure([part for _, _, part in parts]), int(SHARE * size)
    own: dict[int, list[Example]] = defaultdict(list)
    for row, start, part in parts:
        if part.text.strip() and len(part.text) < len(long[row].text):
            place = f"{part.source} [{start}, {start + len(part.text)})"
            own[row].append(replace(part, id=f"{part.id}@{start}", source=place))
    if not own:
        return SplitRows(examples)
    kept = sum(len(part.entities) for made in own.values() for part in made)
    made = StoredExamples.of(chain.from_iterable(own.get(row, [e]) for row, e in enumerate(examples)))
    return SplitRows(made, len(own), sum(map(len, own.values())), sum(len(long[row].entities) for row in own), kept)


def cut_out(example: Example, window: Window) -> Example:
    """The `window` of an example, with the entities that are whole in it, and the id and source of the example."""
    if window.end - window.start == len(example.text):
        return example
    inside = (e for e in example.entities if window.start <= e.start and e.end <= window.end)
    moved = tuple(replace(e, start=e.start - window.start, end=e.end - window.start) for e in inside)
    return replace(example, text=example.text[window.start : window.end], entities=moved)
