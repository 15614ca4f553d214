"""The rows of an evaluation with the most errors as a table of gold and predicted entities.

In: an `EvaluationResult`. Out: rows of cells. Knows nothing of where the table is displayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from ..codec import Decoded
from ..entities import Entity
from .errors import Error, error_count
from .result import EvaluationResult

WORST = 50
"""Maximum number of rows in the table."""

WORST_COLUMNS = ("text", "gold", "predicted", "errors", "wrong", "source")


def worst_rows(evaluated: EvaluationResult) -> list[list[Any]]:
    """The rows with the most false positives and negatives, in falling order, as cells under `WORST_COLUMNS`."""
    rows = []
    for gold, predicted, errors in islice(evaluated.rows_with_errors(), WORST):
        kinds = "\n".join(map(_error, errors))
        entities = _entities(gold.entities)
        rows.append([gold.text, entities, _predictions_of(predicted), kinds, error_count(errors), gold.source])
    return rows


def _entities(entities: Sequence[Entity]) -> str:
    return "\n".join(f"{e.label} {e.text} [{e.start}, {e.end})" for e in entities)


def _predictions_of(decoded: Decoded) -> str:
    """Entities, surfaces without a place in the text, and problems of the completion."""
    ungrounded = [f"{label} {surface} [-]" for label, surface in decoded.ungrounded]
    problems = [f"({problem.kind})" for problem in decoded.problems]
    return "\n".join([*filter(None, [_entities(decoded.entities)]), *ungrounded, *problems])


def _error(error: Error) -> str:
    written = " ".join(error.written) if error.written else ""
    sides = [_entities([side]) for side in (error.gold, error.predicted) if side]
    return f"{error.kind}: {' ≠ '.join(sides) or written}"
