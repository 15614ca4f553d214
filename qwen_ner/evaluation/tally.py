"""All that is counted of rows: of two parts it adds up to that of both, so that no more rows need be held than a part.

In: gold and predicted rows as `score` takes them. Out: a `Tally`. Knows nothing of models and files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..codec import Decoded
from ..entities import Example, LabelSet
from .baselines import Lookup, ceiling
from .bootstrap import row_counts
from .errors import ErrorKind, by_sentence, confusion, count_kinds, errors_of, spurious
from .scoring import Counts, Pair, Scores, score


@dataclass(frozen=True)
class Tally:
    """What is counted of some rows. `a + b` is the tally of the rows of `a` and then those of `b`.

    `floor` is of looking up train's surfaces, where train was given; `spurious` holds the surfaces predicted in
    sentences without entities, and the number of these; `lengths` counts characters, of "gold" and "predicted" entities
    and of "sentences". Of each row in turn, in the smallest whole numbers that hold them, `counts` has
    `bootstrap.row_counts` and `wrong` the number of false positives and negatives by offsets.
    """

    scores: Scores
    ceiling: Scores
    floor: Scores | None
    kinds: dict[ErrorKind, Counts]
    confusion: dict[str, dict[str, int]]
    by_sentence: dict[str, dict[str, Counts]]
    spurious: np.ndarray
    lengths: dict[str, Counter[int]]
    counts: tuple[np.ndarray, ...]
    wrong: tuple[np.ndarray, ...]

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{one.name: _added(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)})


def tally(
    gold: Sequence[Example],
    predicted: Sequence[Decoded],
    labels: LabelSet,
    seen: Set[Pair] | None = None,
    floor: Lookup | None = None,
) -> Tally:
    """The `Tally` of these rows; `seen` and `floor` are train's. Raises what `score` raises."""
    scores = score(gold, predicted, labels, train=seen)
    errors = [errors_of(g, p, labels.names) for g, p in zip(gold, predicted, strict=True)]
    wrong = np.array([sum(error.false_positives + error.false_negatives for error in row) for row in errors], int)
    return Tally(
        scores,
        ceiling(gold, labels),
        None if floor is None else score(gold, [floor(example.text) for example in gold], labels),
        count_kinds(errors),
        confusion(gold, errors, labels.names),
        by_sentence(gold, predicted),
        np.array(spurious(gold, predicted)),
        {
            "gold": Counter(len(entity.text) for example in gold for entity in example.entities),
            "predicted": Counter(len(entity.text) for decoded in predicted for entity in decoded.entities),
            "sentences": Counter(len(example.text) for example in gold),
        },
        (_small(row_counts(gold, predicted, labels, seen)),),
        (_small(wrong),),
    )


def _small(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _added(one: Any, other: Any) -> Any:
    if isinstance(one, Mapping) and not isinstance(one, Counter):
        both = {key: _added(one[key], other[key]) if key in other else one[key] for key in one}
        return {**both, **{key: value for key, value in other.items() if key not in one}}
    return None if one is None else one + other
