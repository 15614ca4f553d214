"""Hold validation rows out of training rows.

In: examples, a number of rows, a seed. Out: the two parts, each in the order it came. Knows nothing of files or models.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from ..entities import Example, NerError

DRAWS = 20
"""Draws tried for one that leaves every label in both parts. On thousands of rows the first has them."""


def hold_out(examples: Sequence[Example], rows: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Split into (train, validation), with exactly `rows` examples in validation. The same seed gives the same split.

    A random draw in which rows without entities keep their share, then exchanges until every label that occurs in two
    rows or more is in both parts. Where no such split is found (two rows may not hold ten labels) the one that misses
    fewest is taken. Raises `NerError` unless 0 < rows < len(examples).

    >>> examples = [Example(str(n), f"第{n}句") for n in range(5)]
    >>> [[example.id for example in part] for part in hold_out(examples, 2, seed=1)]
    [['2', '3', '4'], ['0', '1']]
    """
    if not 0 < rows < len(examples):
        raise NerError(
            f"{rows} rows cannot be held out of {len(examples)}; choose a number from 1 to {len(examples) - 1}"
        )
    labels = [frozenset(entity.label for entity in example.entities) for example in examples]
    generator = random.Random(seed)
    best: set[int] = set()
    fewest: int | None = None
    for _ in range(DRAWS):
        held = _draw(labels, rows, generator)
        missing = len(_repair(labels, held, generator))
        if fewest is None or missing < fewest:
            best, fewest = held, missing
        if not fewest:
            break
    parts: tuple[list[Example], list[Example]] = ([], [])
    for row, example in enumerate(examples):
        parts[row in best].append(example)
    return parts


def _draw(labels: list[frozenset[str]], rows: int, generator: random.Random) -> set[int]:
    """`rows` row numbers, of which rows without entities are as many as their share of all rows."""
    empty = [row for row, names in enumerate(labels) if not names]
    filled = [row for row, names in enumerate(labels) if names]
    quota = max(round(rows * len(empty) / len(labels)), rows - len(filled))
    return {*generator.sample(empty, quota), *generator.sample(filled, rows - quota)}


def _repair(labels: list[frozenset[str]], held: set[int], generator: random.Random) -> set[tuple[str, bool]]:
    """Exchange rows between `held` and the others, in place, while that leaves fewer labels missing from a part.

    Returns what is missing still, as (label, whether from the held part).
    """
    every = Counter(name for names in labels for name in names)
    inside = Counter(name for row in held for name in labels[row])
    order = generator.sample(range(len(labels)), len(labels))
    # Rows with entities first: exchanging those leaves the share of rows without any as it is.
    order.sort(key=lambda row: not labels[row])

    def lacks(name: str, more: int = 0) -> bool:
        return every[name] > 1 and inside[name] + more in (0, every[name])

    def gain(out: frozenset[str], into: frozenset[str]) -> int:
        return sum(lacks(name) - lacks(name, (name in into) - (name in out)) for name in out ^ into)

    improved = True
    while improved:
        improved = False
        missing = {(name, not inside[name]) for name in every if lacks(name)}
        for name, from_held in sorted(missing):
            # One row stands for all of its part with the same labels: exchanging any of them gains the same.
            bearers = {labels[row]: row for row in reversed(order) if name in labels[row]}
            others = {labels[row]: row for row in reversed(order) if (row in held) == from_held}
            pairs = ((b, o) if from_held else (o, b) for b in bearers.values() for o in others.values())
            for into, out in pairs if lacks(name) else ():
                if gain(labels[out], labels[into]) > 0:
                    held.symmetric_difference_update((into, out))
                    inside.subtract(labels[out])
                    inside.update(labels[into])
                    improved = True
                    break
    return missing
