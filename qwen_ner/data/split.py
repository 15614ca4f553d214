"""Hold validation rows out of training rows.

In: examples, a number of rows, a seed. Out: the two parts in their original order. Knows nothing of files or models.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Sequence

from ..entities import Example, NerError
from .arrow_store import select_rows
from .formats.errors import count

DRAWN_ROWS = 50_000
"""Repeat the draw, up to 100 times, while all draws together look at no more rows than this."""


def hold_out(examples: Sequence[Example], rows: int, seed: int) -> tuple[Sequence[Example], Sequence[Example]]:
    """Split into (train, validation), with exactly `rows` examples in validation. The same seed gives the same split.

    A random draw in which rows without entities keep their share, then exchanges until every label that occurs in two
    rows or more is in both parts. If no such split is found (two rows may not have ten labels), the one that misses
    the fewest is used. Raises `NerError` unless 0 < rows < len(examples).

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
    generator = random.Random(seed)
    best: set[int] = set()
    fewest: int | None = None
    for _ in range(max(1, min(100, DRAWN_ROWS // len(examples)))):
        held = _draw(labels, rows, generator)
        missing = _repair(labels, held, generator)
        if fewest is None or missing < fewest:
            best, fewest = held, missing
        if not fewest:
            break
    rest = array("q", (row for row in range(len(examples)) if row not in best))
    return select_rows(examples, rest), select_rows(examples, sorted(best))


def _labels(example: Example) -> frozenset[str]:
    return frozenset(entity.label for entity in example.entities)


def _draw(labels: list[frozenset[str]], rows: int, generator: random.Random) -> set[int]:
    """`rows` row numbers, among which rows without entities keep their share of all rows."""
    empty = array("q", (row for row, names in enumerate(labels) if not names))
    filled = array("q", (row for row, names in enumerate(labels) if names))
    quota = round(rows * len(empty) / len(labels))
    return {*generator.sample(empty, quota), *generator.sample(filled, rows - quota)}


def _repair(labels: list[frozenset[str]], held: set[int], generator: random.Random) -> int:
    """Exchange rows between `held` and the others, in place, as long as fewer labels are missing from a part.

    Returns how many labels are still missing from a part.
    """
    every = Counter(name for names in labels for name in names)
    inside = Counter(name for row in held for name in labels[row])

    def lacks(name: str, more: int = 0) -> bool:
        return every[name] > 1 and inside[name] + more in (0, every[name])

    if not any(map(lacks, every)):  # true for any large set; what follows needs several numbers a row
        return 0
    order = generator.sample(range(len(labels)), len(labels))
    # Rows with entities first: exchanging them keeps the share of rows without any.
    order.sort(key=lambda row: not labels[row])

    def gain(out: frozenset[str], into: frozenset[str]) -> int:
        return sum(lacks(name) - lacks(name, (name in into) - (name in out)) for name in out ^ into)

    rank = {row: place for place, row in enumerate(order)}
    bearers: dict[str, dict[frozenset[str], int]] = {}
    # One row stands for all of its part with the same labels: the gain is the same.
    for row in order:
        for name in labels[row]:
            bearers.setdefault(name, {}).setdefault(labels[row], row)

    improved = True
    while improved:
        improved = False
        for name in sorted(filter(lacks, every)):
            if not lacks(name):  # fixed by an exchange for another label
                continue
            from_held = not inside[name]
            part = sorted(held, key=rank.__getitem__) if from_held else [row for row in order if row not in held]
            others: dict[frozenset[str], int] = {}
            for row in part:
                others.setdefault(labels[row], row)
            pairs = ((b, o) if from_held else (o, b) for b in bearers[name].values() for o in others.values())
            for into, out in pairs:
                if gain(labels[out], labels[into]) > 0:
                    held.symmetric_difference_update((into, out))
                    inside.subtract(labels[out])
                    inside.update(labels[into])
                    improved = True
                    break
    return sum(map(lacks, every))
