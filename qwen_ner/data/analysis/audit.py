"""Likely annotation faults, the likeliest first.

In: annotated `Example`s, and optionally what models predicted for them. Out: `Finding`s to send back to the annotators.
The corpus is judged by itself: a place is suspicious if most comparable places are annotated differently. Knows nothing
of files and models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...entities import Entity, Example
from ..surfaces import MARKS, balanced
from .corpus import Corpus, overlapping, share_at_least
from .disagreement import Predictions, disagreements
from .findings import Finding, strongest

ENOUGH = 3
"""Places that must support a suggestion."""

AFFIX = 4
"""Characters of the longest affix: 有限公司."""

OWN = 4
"""With more other places than this, a string is judged by them and not by its affix."""


def audit(examples: Sequence[Example], predictions: Sequence[Predictions] = ()) -> list[Finding]:
    """The likely faults of `examples`, the likeliest first.

    - `omitted`: a surface that is mostly annotated is not annotated there.
    - `label`: a surface has another label than it mostly has.
    - `boundary`: an entity ends before or after 市, 公司, 》 and the like where others do not.
    - `predicted`: models are sure of something else. `predictions` holds, for each model, what it found in each of
      `examples`; None if it was not asked. A model that was trained on these rows has learnt their
      faults: predict each part of them with a model that was trained on the others.

    The score of the first three is the share of comparable places that are annotated as suggested, at the lower end of
    its confidence interval (`corpus.share_at_least`), times how likely the place is a word of its own
    (`Corpus.parted`). Comparable are the places of the same surface outside of other entities; for `boundary` those of
    the same string or, if they are too few, of entities of the label with the same affix inside or next to them. A
    place gets one finding, the one with the highest score.

    >>> rows = [Example(str(n), "在北京", (Entity("address", "北京", 1, 3),)) for n in range(9)]
    >>> for finding in audit([*rows, Example("9", "去北京")]):
    ...     print(finding)
    9  0.60  omitted: nothing → address 北京 [1, 3)  (北京: address in 9 of 10 places)
    """
    corpus = Corpus(examples)
    found = [*_find_omitted(corpus), *_labels(corpus), *_boundaries(corpus), *_half_pairs(corpus)]
    return strongest([*found, *disagreements(examples, predictions)])


def _find_omitted(corpus: Corpus) -> Iterator[Finding]:
    for surface, places in corpus.unlabelled.items():
        label, count = _most(corpus.labels[surface])
        every = sum(corpus.labels[surface].values()) + len(places)
        if count < ENOUGH:
            continue
        evidence = f"{surface}: {label} in {count} of {every} places"
        for place in places:
            score = share_at_least(count, every) * corpus.alone(place)
            new = Entity(label, surface, place.start, place.end)
            yield Finding(place.row, corpus.examples[place.row], "omitted", score, None, new, evidence)


def _labels(corpus: Corpus) -> Iterator[Finding]:
    for row, example in enumerate(corpus.examples):
        for entity in example.entities:
            labels = corpus.labels[entity.text]
            label, count = _most(labels)
            if count < ENOUGH or labels[entity.label] == count:
                continue
            every = sum(labels.values())
            evidence = f"{entity.text}: {label} in {count} of {every} places, {entity.label} in {labels[entity.label]}"
            new = Entity(label, entity.text, entity.start, entity.end)
            yield Finding(row, example, "label", share_at_least(count, every), entity, new, evidence)


@dataclass(frozen=True, slots=True)
class _Edge:
    """An entity and what it would be with (`inside` False) or without (`inside` True) an affix."""

    row: int
    entity: Entity
    other: Entity
    affix: tuple[str, str, str]
    whole: str
    inside: bool
    parted: float = 1.0


def _boundaries(corpus: Corpus) -> Iterator[Finding]:
    edges = list(_edges(corpus))
    strings = Counter((edge.affix, edge.whole, edge.inside) for edge in edges)
    # Count strings, not places: many 收藏家 with 藏家 inside say nothing about 收 before other words.
    affixes = Counter((affix, inside) for affix, _, inside in strings)
    for edge in edges:
        same, other = (strings[edge.affix, edge.whole, inside] for inside in (edge.inside, not edge.inside))
        label, before, behind = edge.affix
        what, of = edge.whole, "places"
        if same + other <= OWN:
            same, other = (affixes[edge.affix, inside] for inside in (edge.inside, not edge.inside))
            what, of = f"{label} {before}…{behind}", "strings"
        # A name may end like an affix: 胡文和, while 胡文 hardly ever occurs. Brackets are not part of a name.
        is_name = edge.inside and (before + behind).isalnum()
        if is_name and corpus.count(edge.other.text, label) <= corpus.count(edge.whole, label):
            continue
        if other < ENOUGH:
            continue
        side = "outside" if edge.inside else "inside"
        evidence = f"{what}: {before}{behind} {side} in {other} of {same + other} {of}"
        score = share_at_least(other, same + other) * edge.parted
        yield Finding(edge.row, corpus.examples[edge.row], "boundary", score, edge.entity, edge.other, evidence)


def _edges(corpus: Corpus) -> Iterator[_Edge]:
    """Entities next to something that might belong to them, and those that elsewhere are annotated without a part."""
    for row, example in enumerate(corpus.examples):
        text, covered = example.text, corpus.covered[row]
        for entity in example.entities:
            start, end = entity.span
            for size in range(1, AFFIX + 1):
                for begin, stop, outer in ((start - size, end, start - size), (start, end + size, end + size)):
                    affix = text[begin:start] + text[end:stop]
                    if begin < 0 or stop > len(text) or any(covered[begin:start]) or any(covered[end:stop]):
                        continue
                    if affix.isalnum() and (parted := corpus.split_by_label(row, outer)) >= 0.5:
                        yield _edge(row, text, entity, begin, stop, parted)
                for begin, stop in ((start + size, end), (start, end - size)):
                    affix = text[start:begin] + text[stop:end]
                    if begin < stop and affix.isalnum() and corpus.count(text[begin:stop], entity.label):
                        yield _edge(row, text, entity, begin, stop)
            if start > 0 and end < len(text) and MARKS.get(text[start - 1]) == text[end]:
                yield _edge(row, text, entity, start - 1, end + 1)
            if end - start > 2 and MARKS.get(text[start]) == text[end - 1]:
                yield _edge(row, text, entity, start + 1, end - 1)


def _edge(row: int, text: str, entity: Entity, begin: int, stop: int, parted: float = 1.0) -> _Edge:
    start, end = entity.span
    low, high = min(begin, start), max(stop, end)
    affix = (entity.label, text[low : max(begin, start)], text[min(stop, end) : high])
    inside = (begin, stop) != (low, high)
    return _Edge(
        row, entity, Entity(entity.label, text[begin:stop], begin, stop), affix, text[low:high], inside, parted
    )


def _half_pairs(corpus: Corpus) -> Iterator[Finding]:
    """Entities with one half of a pair of brackets or quotes, if the text has the other half.

    If the text lacks it, as in a sentence that was cut off, there is nothing to correct.
    """
    whole, half = Counter[str](), Counter[str]()
    for surface, labels in corpus.labels.items():
        for char in set(surface) & _HALVES:
            (whole if balanced(surface) else half)[char] += sum(labels.values())
    for row, example in enumerate(corpus.examples):
        for entity in example.entities:
            marks = set(entity.text) & _HALVES
            if not marks or balanced(entity.text):
                continue
            new = _balance(example, entity)
            if new is not None:
                mark = max(marks, key=lambda char: (whole[char], char))
                every = whole[mark] + half[mark]
                evidence = f"{mark}: in whole pairs in {whole[mark]} of {every} places"
                yield Finding(row, example, "boundary", share_at_least(whole[mark], every), entity, new, evidence)


def _balance(example: Example, entity: Entity) -> Entity | None:
    """The entity with one more character, or else one less, so that its brackets are paired."""
    text, (start, end) = example.text, entity.span
    for begin, stop in ((start - 1, end), (start, end + 1), (start + 1, end), (start, end - 1)):
        if not 0 <= begin < stop <= len(text) or overlapping(example, begin, stop) != [entity]:
            continue
        outside = text[:begin] + text[stop:]
        if balanced(text[begin:stop]) and (stop - begin > end - start or balanced(outside)):
            return Entity(entity.label, text[begin:stop], begin, stop)
    return None


_HALVES = (set(MARKS) | set(MARKS.values())) - {"'"}


def _most(labels: Counter[str]) -> tuple[str, int]:
    """The most frequent label and its count; ties go to the first name."""
    return min(labels.items(), key=lambda item: (-item[1], item[0]))
