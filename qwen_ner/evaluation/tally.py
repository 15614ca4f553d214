"""All counts of an evaluation. Those of two parts of the rows add up to those of both, so only a part is in memory.

In: gold and predicted rows as `score` takes them. Out: a `Tally`. Knows nothing of models and files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..codec import Decoded
from ..entities import Example, LabelSet
from .baselines import Lookup, ceiling
from .bootstrap import row_counts
from .errors import by_sentence, confusion, count_kinds, error_count, errors_of, spurious
from .scoring import Counts, Pair, Scores, score


@dataclass(frozen=True)
class Tally:
    """What is counted of some rows. `a + b` is the tally of the rows of `a` followed by those of `b`.

    `ceiling` are the scores of writing the gold surfaces, `floor` those of looking up the surfaces of the training
    data, if there is any. `spurious` holds the number of surfaces predicted in sentences without entities, and the
    number of these sentences. `lengths` counts the characters of "gold" and "predicted" entities and of "sentences".
    `counts` and `wrong` have an entry per row, in the smallest integers that hold them: the counts of
    `bootstrap.row_counts`, and the number of false positives and negatives by offsets.
    """

    scores: Scores
    ceiling: Scores
    floor: Scores | None
    kinds: dict[str, Counts]
    confusion: dict[str, dict[str, int]]
    by_sentence: dict[str, dict[str, Counts]]
    spurious: np.ndarray
    lengths: dict[str, Counter[int]]
    counts: tuple[np.ndarray, ...]
    wrong: tuple[np.ndarray, ...]

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{one.name: _add(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)})


def tally(
    gold: Sequence[Example],
    predicted: Sequence[Decoded],
    labels: LabelSet,
    seen: Set[Pair] | None = None,
    floor: Lookup | None = None,
) -> Tally:
    """The `Tally` of these rows; `seen` and `floor` are from the training data. Raises the errors of `score`."""
    scores = score(gold, predicted, labels, train=seen)
    errors = [errors_of(g, p, labels.names) for g, p in zip(gold, predicted, strict=True)]
    lengths = {
        "gold": Counter(len(entity.text) for example in gold for entity in example.entities),
        "predicted": Counter(len(entity.text) for decoded in predicted for entity in decoded.entities),
        "sentences": Counter(len(example.text) for example in gold),
    }
    return Tally(
        scores,
        ceiling(gold, labels),
        None if floor is None else score(gold, [floor(example.text) for example in gold], labels),
        count_kinds(errors),
        confusion(gold, errors, labels.names),
        by_sentence(gold, predicted),
        np.array(spurious(gold, predicted)),
        lengths,
        (_shrink(row_counts(gold, predicted, labels, seen)),),
        (_shrink(np.array([*map(error_count, errors)], int)),),
    )


def _shrink(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _add(one: Any, other: Any) -> Any:
    """The sum of two values of one field; a dict, but for a Counter, has the same keys in both and is added by key."""
    if type(one) is dict:
        return {key: _add(value, other[key]) for key, value in one.items()}
    return None if one is None else one + other
