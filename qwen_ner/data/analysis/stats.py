"""Statistics of a data set: entities per label, lengths, what is over a length limit, duplicates, ambiguous surfaces.

In: `Example`s by split, and optionally the token counts of their rows. Out: counts, ready for JSON, from which rates
are derived. Knows nothing of files, tokenizers or display.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...entities import Example
from .corpus import labels_of_surfaces
from .duplicates import Duplicate, near_duplicates


@dataclass(frozen=True)
class Lengths:
    """Rows and entities by length: {length: (rows, entities)}.

    >>> lengths = Lengths.of([(30, 2), (40, 0), (40, 1), (90, 5)])
    >>> lengths.rows, lengths.mean, lengths.quantile(0.5), lengths.longest, lengths.lost(40)
    (4, 50.0, 40, 90, (1, 5))
    """

    counts: dict[int, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int]]) -> Lengths:
        """From the (length, entities) of each row."""
        counts: dict[int, tuple[int, int]] = {}
        for length, entities in rows:
            before = counts.get(length, (0, 0))
            counts[length] = before[0] + 1, before[1] + entities
        return cls(dict(sorted(counts.items())))

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.counts.values())

    @property
    def mean(self) -> float:
        """0.0 if there is no row."""
        return sum(length * rows for length, (rows, _) in self.counts.items()) / self.rows if self.counts else 0.0

    @property
    def longest(self) -> int:
        return max(self.counts, default=0)

    def quantile(self, share: float) -> int:
        """The smallest length that at least this share of the rows does not exceed; 0 if there is no row."""
        seen = 0
        for length, (rows, _) in sorted(self.counts.items()):
            seen += rows
            if seen >= share * self.rows:
                return length
        return 0

    def lost(self, limit: int) -> tuple[int, int]:
        """(rows, entities) in rows longer than `limit`."""
        over = [counts for length, counts in self.counts.items() if length > limit]
        return sum(rows for rows, _ in over), sum(entities for _, entities in over)

    def to_dict(self) -> dict[str, Any]:
        quantiles = {f"p{round(100 * share)}": self.quantile(share) for share in (0.5, 0.9, 0.99)}
        counts = [[length, *counts] for length, counts in self.counts.items()]
        return {"mean": self.mean, **quantiles, "longest": self.longest, "length_rows_entities": counts}


@dataclass(frozen=True)
class LabelCounts:
    """For one label: entities, (label, surface) pairs summed over rows, different surfaces, rows that have any."""

    entities: int
    written: int
    surfaces: int
    rows: int


@dataclass(frozen=True)
class SplitStatistics:
    """Counts of one split.

    `written` are its (label, surface) pairs, once a row, as in the target; `written_in_train` of them are in the split
    "train" too (None for that split), and `partly` occur in their text more often than they are annotated there.
    `pairs` are the different ones. `lengths` are in characters ("text") and tokens ("prompt", "answer", "row").
    """

    rows: int
    empty_rows: int
    entities: int
    written: int
    written_in_train: int | None
    pairs: int
    partly: int
    labels: dict[str, LabelCounts]
    lengths: dict[str, Lengths]

    @property
    def is_annotated(self) -> bool:
        """False if no row has an entity, as in a test set that is published without labels."""
        return self.entities > 0


@dataclass(frozen=True)
class Statistics:
    """A data set: its splits, duplicate rows, and {surface: {label: count}} of surfaces with several labels."""

    splits: dict[str, SplitStatistics]
    duplicates: tuple[Duplicate, ...]
    several_labels: dict[str, dict[str, dict[str, int]]]
    """By split."""

    @property
    def labels(self) -> list[str]:
        """Every label that occurs, sorted by name."""
        return sorted({label for split in self.splits.values() for label in split.labels})

    def duplicate_counts(self) -> dict[tuple[str, str], Counter[str]]:
        """{(split, split): {likeness: pairs}}, in the order of the splits."""
        names = list(self.splits)
        counts = {(one, other): Counter[str]() for i, one in enumerate(names) for other in names[i:]}
        for duplicate in self.duplicates:
            counts[duplicate.splits][duplicate.likeness] += 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Rows are named by their source; the only texts are surfaces."""
        splits = {
            name: asdict(split) | {"lengths": {what: of.to_dict() for what, of in split.lengths.items()}}
            for name, split in self.splits.items()
        }
        duplicates = [
            {
                "splits": list(found.splits),
                "rows": [example.source or example.id for example in found.rows],
                "likeness": found.likeness,
                "similarity": round(found.similarity, 4),
            }
            for found in self.duplicates
        ]
        return {"splits": splits, "duplicates": duplicates, "several_labels": self.several_labels}


def statistics(splits: Mapping[str, Sequence[Example]], tokens: Mapping[str, Sequence[tuple[int, int]]]) -> Statistics:
    """Count a data set by split. `tokens` has (prompt tokens, answer tokens) of each row of each split.

    >>> from qwen_ner.entities import Entity
    >>> rows = [Example("0", "三星在北京", (Entity("company", "三星", 0, 2),)), Example("1", "明天见")]
    >>> found = statistics({"train": rows}, {"train": [(60, 9), (58, 3)]}).splits["train"]
    >>> found.rows, found.empty_rows, found.labels["company"].entities, found.lengths["row"].lost(64)
    (2, 1, 1, (1, 1))
    """
    in_train = {pair for example in splits.get("train", ()) for pair in example.surfaces}
    found = {
        name: _split(examples, tokens[name], None if name == "train" or not in_train else in_train)
        for name, examples in splits.items()
    }
    several = {name: _several_labels(examples) for name, examples in splits.items()}
    return Statistics(found, tuple(near_duplicates(splits)), several)


def _split(
    examples: Sequence[Example], tokens: Sequence[tuple[int, int]], in_train: set[tuple[str, str]] | None
) -> SplitStatistics:
    pairs = Counter(pair for example in examples for pair in example.surfaces)
    entities = [len(example.entities) for example in examples]
    counted = {
        "text": [len(example.text) for example in examples],
        "prompt": [prompt for prompt, _ in tokens],
        "answer": [answer for _, answer in tokens],
        "row": [prompt + answer for prompt, answer in tokens],
    }
    return SplitStatistics(
        rows=len(examples),
        empty_rows=entities.count(0),
        entities=sum(entities),
        written=pairs.total(),
        written_in_train=None if in_train is None else sum(pairs[pair] for pair in pairs.keys() & in_train),
        pairs=len(pairs),
        partly=sum(_partly(example) for example in examples),
        labels=_labels(examples, pairs),
        lengths={what: Lengths.of(zip(of, entities, strict=True)) for what, of in counted.items()},
    )


def _labels(examples: Sequence[Example], pairs: Counter[tuple[str, str]]) -> dict[str, LabelCounts]:
    entities = Counter(entity.label for example in examples for entity in example.entities)
    rows = Counter(label for example in examples for label in {entity.label for entity in example.entities})
    written = Counter(label for label, _ in pairs.elements())
    surfaces = Counter(label for label, _ in pairs)
    return {
        label: LabelCounts(count, written[label], surfaces[label], rows[label])
        for label, count in sorted(entities.items())
    }


def _partly(example: Example) -> int:
    annotated = Counter((entity.label, entity.text) for entity in example.entities)
    return sum(example.text.count(surface) > count for (_, surface), count in annotated.items())


def _several_labels(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    labels = labels_of_surfaces(examples)
    several = {surface: dict(of.most_common()) for surface, of in labels.items() if len(of) > 1}
    return dict(sorted(several.items(), key=lambda item: (-sum(item[1].values()), item[0])))
