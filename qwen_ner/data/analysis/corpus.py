"""Counts of a corpus: how often a surface is annotated, and where it occurs without annotation.

In: `Example`s. Out: counts and places. Does not know what a fault is.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from ...entities import Entity, Example
from ..surfaces import Surfaces

PRIOR = 2.0
"""Prior count: every pair of characters starts with this many places, all of them between words."""


class Place(NamedTuple):
    """Characters [start, end) of a row."""

    row: int
    start: int
    end: int


class Corpus:
    """Annotated rows, counted.

    `labels` has for each surface how often it is annotated with which label, `unlabelled` the places where it occurs
    outside of every entity and of every longer such surface.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples
        self.labels = labels_of_surfaces(examples)
        self.covered = [_cover(example) for example in examples]

    def count(self, surface: str, label: str) -> int:
        """How often the surface is annotated with the label."""
        return self.labels[surface][label] if surface in self.labels else 0

    @cached_property
    def unlabelled(self) -> dict[str, list[Place]]:
        surfaces = Surfaces(self.labels)
        found: dict[str, list[Place]] = defaultdict(list)
        for row, example in enumerate(self.examples):
            taken = bytearray(self.covered[row])
            places = [p for p in surfaces.places(example.text) if not any(taken[p[0] : p[1]])]
            for start, end in sorted(places, key=lambda p: (p[0] - p[1], p[0])):
                if not any(taken[start:end]):
                    taken[start:end] = b"\x01" * (end - start)
                    found[example.text[start:end]].append(Place(row, start, end))
        return found

    @cached_property
    def _pairs(self) -> tuple[Counter[str], Counter[str]]:
        """How often two neighbouring characters occur, and how often an entity begins or ends between them."""
        every, apart = Counter[str](), Counter[str]()
        for example in self.examples:
            every.update(map("".join, zip(example.text, example.text[1:], strict=False)))
            apart.update(example.text[at - 1 : at + 1] for at in _edges(example) if 0 < at < len(example.text))
        return every, apart

    def split_by_label(self, row: int, at: int) -> float:
        """How likely a word ends before character `at` of a row, in (0, 1], judged by the other annotations.

        The share of the other places of the same two characters where an entity begins or ends between them: it is low
        for 登|记者, as no entity begins or ends inside of 登记. 1 next to punctuation, at an end of the text and at an
        end of an entity.
        """
        example = self.examples[row]
        pair = example.text[at - 1 : at + 1] if at > 0 else ""
        if len(pair) < 2 or not pair.isalnum() or at in _edges(example):
            return 1.0
        every, apart = self._pairs
        return (apart[pair] + PRIOR) / (every[pair] - 1 + PRIOR)

    def alone(self, place: Place) -> float:
        """How likely the place is a word of its own, separate from the characters around it."""
        return self.split_by_label(place.row, place.start) * self.split_by_label(place.row, place.end)


def labels_of_surfaces(examples: Iterable[Example]) -> dict[str, Counter[str]]:
    """How often each surface is annotated with which label."""
    labels: dict[str, Counter[str]] = {}
    for example in examples:
        for entity in example.entities:
            labels.setdefault(entity.text, Counter())[entity.label] += 1
    return labels


def _cover(example: Example) -> bytes:
    covered = bytearray(len(example.text))
    for entity in example.entities:
        covered[entity.start : entity.end] = b"\x01" * (entity.end - entity.start)
    return bytes(covered)


def _edges(example: Example) -> set[int]:
    return {at for entity in example.entities for at in entity.span}


def share_at_least(part: int, whole: int) -> float:
    """The lower end of the 95 % confidence interval of part/whole.

    Wilson's score interval (Wilson 1927, "Probable inference"); 0.0 if whole is 0.

    >>> [round(share_at_least(n, n), 2) for n in (0, 1, 4, 100)], round(share_at_least(511, 522), 2)
    ([0.0, 0.21, 0.51, 0.96], 0.96)
    """
    if not whole:
        return 0.0
    z = 1.959964
    share = part / whole
    spread = z * math.sqrt(share * (1 - share) / whole + (z / whole / 2) ** 2)
    return max(0.0, (share + z * z / whole / 2 - spread) / (1 + z * z / whole))


def overlapping(example: Example, start: int, end: int) -> list[Entity]:
    """The entities of `example` that share a character with [start, end)."""
    return [entity for entity in example.entities if entity.start < end and start < entity.end]
