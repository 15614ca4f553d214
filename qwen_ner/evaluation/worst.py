"""The worst rows of an evaluation as a table: what was written beside what is right.

In: an `Evaluated`. Out: rows of cells. Knows nothing of who shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from ..codec import Decoded
from ..entities import Entity
from .errors import Error
from .result import Evaluated

WORST = 50
"""Rows of the table."""

WORST_COLUMNS = ("text", "gold", "predicted", "errors", "wrong", "source")


def worst_rows(evaluated: Evaluated, limit: int = WORST) -> list[list[Any]]:
    """The rows with most false positives and negatives, worst first, as cells under `WORST_COLUMNS`."""
    return [
        [
            row.gold.text,
            _entities(row.gold.entities),
            _predicted(row.predicted),
            "\n".join(_error(error) for error in row.errors),
            row.wrong,
            row.gold.source,
        ]
        for row in islice(evaluated.rows_with_errors(), limit)
    ]


def _entities(entities: Sequence[Entity]) -> str:
    return "\n".join(f"{e.label} {e.text} [{e.start}, {e.end})" for e in entities)


def _predicted(decoded: Decoded) -> str:
    """With what could not be placed, and what was wrong with the answer."""
    parts = [_entities(decoded.entities), *(f"{label} {surface} [-]" for label, surface in decoded.ungrounded)]
    return "\n".join(part for part in [*parts, *(f"({problem.kind})" for problem in decoded.problems)] if part)


def _error(error: Error) -> str:
    written = " ".join(error.written) if error.written else ""
    sides = [_entities([side]) for side in (error.gold, error.predicted) if side]
    return f"{error.kind}: {' ≠ '.join(sides) or written}"
