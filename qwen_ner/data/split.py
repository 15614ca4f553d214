"""Hold validation rows out of training rows.

In: examples, a number of rows, a seed. Out: the two parts in their original order. Knows nothing of files or models.

Rows are drawn in groups that stay together: a row each, or all rows of one text or `Example.group`. A group is known
by its first row.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..entities import Example, NerError
from .analysis.duplicates import digests
from .arrow_store import select_rows
from .formats.errors import count

DRAWN_ROWS = 50_000
"""Repeat the draw, up to 100 times, while all draws together look at no more rows than this."""


def hold_out(
    examples: Sequence[Example], rows: int, seed: int, *, together: bool = False
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Split into (train, validation), with exactly `rows` examples in validation. The same seed gives the same split.

    A random draw in which rows without entities keep their share, then exchanges until every label that occurs in two
    rows or more is in both parts. If no such split is found (two rows may not have ten labels), the one that misses
    the fewest is used. With `together`, rows of one group are in one part, and rows whose texts are equal but for
    punctuation, width and case; validation may then have fewer than `rows` examples, or more if the smallest group has.

    Raises `NerError` unless 0 < rows < len(examples), or if all texts are to be together.

    >>> examples = [Example(str(n), f"第{n}句") for n in range(5)]
    >>> [[example.id for example in part] for part in hold_out(examples, 2, seed=1)]
    [['2', '3', '4'], ['0', '1']]
    """
    if not 0 < rows < len(examples):
        most = len(examples) - 1
        remedy = f"choose {'1' if most == 1 else f'a number from 1 to {most}'}"
        if most < 1:
            remedy = "add rows, at least two"
        what = f"cannot hold out this many of {count(len(examples), 'row')} for validation"
        raise NerError(what, value=rows, place="validation_rows", remedy=remedy)
    known: dict[frozenset[str], frozenset[str]] = {}  # rows with the same labels share one set
    labels = [known.setdefault(names, names) for names in map(_labels, examples)]
    members = _repeated(examples) if together else {}
    later = bytearray(len(labels))
    for first, others in members.items():
        names = labels[first].union(*(labels[row] for row in others))
        labels[first] = known.setdefault(names, names)
        for row in others:
            later[row] = 1
    groups = _Groups(labels, members, array("q", (row for row in range(len(labels)) if not later[row])))
    if len(groups.firsts) < 2:
        what, remedy = (
            "all rows have one text or group, so none can be held out",
            "add rows with others, or a dev split",
        )
        raise NerError(what, value=rows, place="validation_rows", remedy=remedy)
    held = _best(groups, rows, random.Random(seed))
    held |= {row for first in held & members.keys() for row in members[first]}
    rest = array("q", (row for row in range(len(examples)) if row not in held))
    return select_rows(examples, rest), select_rows(examples, sorted(held))


@dataclass(frozen=True, slots=True)
class _Groups:
    """`labels` of each group stand at its first row; `members` has the further rows of groups of several."""

    labels: list[frozenset[str]]
    members: dict[int, array[int]]
    firsts: array[int]

    def size(self, first: int) -> int:
        return 1 + len(self.members.get(first, ()))


def _labels(example: Example) -> frozenset[str]:
    return frozenset(entity.label for entity in example.entities)


def _repeated(examples: Sequence[Example]) -> dict[int, array[int]]:
    """{first row: the further rows of its text or group}. Takes some tens of bytes a row, and holds no text."""
    import numpy as np

    alone = first = np.arange(len(examples))
    groups, known = -1 - alone, dict[str, int]()

    def seen() -> Iterator[Example]:
        for row, example in enumerate(examples):
            if example.group:
                groups[row] = known.setdefault(example.group, len(known))
            yield example

    keys = [np.unique(key, return_inverse=True)[1] for key in (digests(seen()), groups)]
    before = None
    while before is None or (first != before).any():  # a group may hold a text of another one
        before = first
        for key in keys:
            least = np.full(len(examples), len(examples))
            np.minimum.at(least, key, first)
            first = least[key]
    members: dict[int, array[int]] = {}
    for row in np.flatnonzero(first != alone).tolist():
        members.setdefault(int(first[row]), array("q")).append(row)
    return members


def _best(groups: _Groups, rows: int, generator: random.Random) -> set[int]:
    """The first rows of the groups to hold out: the draw that misses the fewest labels."""
    best: set[int] = set()
    fewest: int | None = None
    for _ in range(max(1, min(100, DRAWN_ROWS // len(groups.labels)))):
        held = _draw(groups, rows, generator)
        missing = _repair(groups, held, rows, generator)
        if fewest is None or missing < fewest:
            best, fewest = held, missing
        if not fewest:
            break
    return best


def _draw(groups: _Groups, rows: int, generator: random.Random) -> set[int]:
    """Groups of `rows` rows, or fewer, among which groups without entities keep their share of all groups."""
    labels, firsts = groups.labels, groups.firsts
    empty = array("q", (first for first in firsts if not labels[first]))
    filled = array("q", (first for first in firsts if labels[first]))
    rows_or_groups = min(rows, len(firsts) - 1)
    quota = round(rows_or_groups * len(empty) / len(firsts))
    drawn: set[int] = set()
    for part, share in ((empty, quota), (filled, rows_or_groups - quota)):
        room = share
        for first in generator.sample(part, share):
            if groups.size(first) <= room:
                drawn.add(first)
                room -= groups.size(first)
    return drawn or {min(firsts, key=groups.size)}


def _repair(groups: _Groups, held: set[int], rows: int, generator: random.Random) -> int:
    """Exchange groups between `held` and the others, in place, as long as fewer labels are missing from a part.

    No exchange makes `held` have more than `rows` rows. Returns how many labels are still missing from a part.
    """
    labels, firsts, size = groups.labels, groups.firsts, groups.size
    every = Counter(name for first in firsts for name in labels[first])
    inside = Counter(name for first in held for name in labels[first])

    def lacks(name: str, more: int = 0) -> bool:
        return every[name] > 1 and inside[name] + more in (0, every[name])

    if not any(map(lacks, every)):  # true for any large set; what follows needs several numbers a row
        return 0
    room = max(0, rows - sum(map(size, held)))
    order = generator.sample(firsts, len(firsts))
    # Rows with entities first: exchanging them keeps the share of rows without any.
    order.sort(key=lambda first: not labels[first])

    def gain(out: frozenset[str], into: frozenset[str]) -> int:
        return sum(lacks(name) - lacks(name, (name in into) - (name in out)) for name in out ^ into)

    def kind(first: int) -> tuple[frozenset[str], int]:
        return labels[first], size(first)

    rank = {first: place for place, first in enumerate(order)}
    bearers: dict[str, dict[tuple[frozenset[str], int], int]] = {}
    # One group stands for all of its part with the same labels and size: the gain is the same.
    for first in order:
        for name in labels[first]:
            bearers.setdefault(name, {}).setdefault(kind(first), first)

    improved = True
    while improved:
        improved = False
        for name in sorted(filter(lacks, every)):
            if not lacks(name):  # fixed by an exchange for another label
                continue
            from_held = not inside[name]
            part = sorted(held, key=rank.__getitem__) if from_held else [first for first in order if first not in held]
            others: dict[tuple[frozenset[str], int], int] = {}
            for first in part:
                others.setdefault(kind(first), first)
            pairs = ((b, o) if from_held else (o, b) for b in bearers[name].values() for o in others.values())
            for into, out in pairs:
                if size(into) - size(out) <= room and gain(labels[out], labels[into]) > 0:
                    held.symmetric_difference_update((into, out))
                    inside.subtract(labels[out])
                    inside.update(labels[into])
                    room += size(out) - size(into)
                    improved = True
                    break
    return sum(map(lacks, every))
