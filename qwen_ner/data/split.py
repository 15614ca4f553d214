"""Hold validation rows out of training rows.

In: examples, a number of rows, a seed. Out: the two parts in their original order. Knows nothing of files or models.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, product

from ..entities import Example, NerError
from .arrow_store import select_rows

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
        remedy = f"choose a number from 1 to {len(examples) - 1}" if len(examples) > 1 else "add rows, at least two"
        raise NerError(f"{rows} rows cannot be held out of {len(examples)}", remedy=remedy)
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

    def one_of_each(part: Iterable[int]) -> list[int]:
        """One row stands for all of its part with the same labels: the gain is the same."""
        return list({labels[row]: row for row in reversed(list(part))}.values())[::-1]

    def gain(pair: tuple[int, int]) -> int:
        into, out = (labels[row] for row in pair)
        return sum(lacks(name) - lacks(name, (name in into) - (name in out)) for name in out ^ into)

    while wanted := {name for name in every if lacks(name)}:
        outer = one_of_each(row for row in order if row not in held)
        inner = one_of_each(row for row in order if row in held)
        pairs = chain(
            product([row for row in outer if wanted & labels[row]], inner),
            product(outer, [row for row in inner if wanted & labels[row]]),
        )
        better = next((pair for pair in pairs if gain(pair) > 0), None)
        if better is None:
            break
        held.symmetric_difference_update(better)
        inside.update(labels[better[0]])
        inside.subtract(labels[better[1]])
    return sum(map(lacks, every))
