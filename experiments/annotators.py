"""How far do the annotators of a data set agree with themselves? No model can be scored as better than that.

    python experiments/annotators.py --data cluener
    python experiments/annotators.py --data sample --shortest 6

Sentences cut out of running text recur: the same passage stands in two rows, and was annotated twice. Of each two rows
that share `--shortest` characters the longest shared passage is compared: its entities that lie strictly inside, since
at its ends an entity may be cut. Passages that overlap have one vote together, the mean of their pairs. One annotation
is taken for gold, the other for a prediction; f1 does not depend on which.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, combinations
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from common import finish, machine

from qwen_ner.codec import Decoded
from qwen_ner.data.datasets import read_dataset
from qwen_ner.entities import CLUENER, Entity, Example
from qwen_ner.evaluation.bootstrap import Interval, intervals, rates, row_counts

SHORTEST = 8
"""Characters that two rows must share; shorter passages are phrases that recur by chance."""


@dataclass(frozen=True, order=True)
class Passage:
    """`length` characters that the rows `first` and `second` share, at `at` in the one and `other` in the other."""

    length: int
    first: int
    second: int
    at: int
    other: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", default="cluener", help="cluener (with QWEN_NER_DATA), sample, or a file or folder")
    parser.add_argument("--splits", nargs="+", default=["train", "dev"])
    parser.add_argument("--shortest", type=int, default=SHORTEST, help=f"characters of a passage; default: {SHORTEST}")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    examples = [e for split in options.splits for e in read_dataset(options.data, split, labels=CLUENER)]
    found = groups(shared_passages([e.text for e in examples], options.shortest))
    report = agreement(examples, found)
    print(
        f"{len(examples):,} rows of {options.data}: {sum(map(len, found)):,} pairs share {options.shortest} characters "
        f"or more, in {len(found):,} groups"
    )
    for name, (value, interval) in report.items():
        print(f"{name:14}{100 * value:6.1f}   {interval}")
    settings = {"data": options.data, "splits": options.splits, "shortest": options.shortest}
    counts = {"rows": len(examples), "pairs": sum(map(len, found)), "groups": len(found)}
    table = {
        name: {"value": round(100 * value, 4), "low": round(100 * i.low, 4), "high": round(100 * i.high, 4)}
        for name, (value, i) in report.items()
    }
    finish({"machine": machine(), "settings": settings, **counts, "table": table, "claims": []}, options.json)


def shared_passages(texts: Sequence[str], shortest: int) -> list[Passage]:
    """The longest passage that each two of `texts` share, if it has `shortest` characters."""
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row, text in enumerate(texts):
        for at in range(len(text) - shortest + 1):
            places[text[at : at + shortest]].append((row, at))
    longest: dict[tuple[int, int], Passage] = {}
    for found in places.values():
        for (first, at), (second, other) in combinations(found, 2):
            if first == second:
                continue
            one, two = texts[first], texts[second]
            if at and other and one[at - 1] == two[other - 1]:
                continue  # counted where it begins
            length = shortest
            while one[at + length : at + length + 1] == two[other + length : other + length + 1] != "":
                length += 1
            passage = Passage(length, first, second, at, other)
            longest[first, second] = max(passage, longest.get((first, second), passage))
    return list(longest.values())


def groups(passages: Sequence[Passage]) -> list[list[Passage]]:
    """`passages` by what they are pieces of: those that overlap in a row belong together."""
    parents = list(range(len(passages)))

    def group_of(number: int) -> int:
        while parents[number] != number:
            number = parents[number]
        return number

    rows: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for number, passage in enumerate(passages):
        for row, at in ((passage.first, passage.at), (passage.second, passage.other)):
            rows[row].append((at, at + passage.length, number))
    for places in rows.values():
        reach, last = 0, 0
        for start, end, number in sorted(places):
            if start < reach:
                parents[group_of(number)] = group_of(last)
            if end > reach:
                reach, last = end, number
    found: dict[int, list[Passage]] = defaultdict(list)
    for number, passage in enumerate(passages):
        found[group_of(number)].append(passage)
    return list(found.values())


def inside(example: Example, at: int, length: int) -> tuple[Entity, ...]:
    """The entities strictly inside a passage, by their places in it."""
    return tuple(
        Entity(e.label, e.text, e.start - at, e.end - at)
        for e in example.entities
        if at < e.start and e.end < at + length
    )


def agreement(examples: Sequence[Example], found: Sequence[Sequence[Passage]]) -> dict[str, tuple[float, Interval]]:
    """f1, span_f1 and the f1 of each label between two annotations of the same passage, with their intervals."""
    gold, second = [], []
    for passage in chain.from_iterable(found):
        text = examples[passage.first].text[passage.at : passage.at + passage.length]
        one = inside(examples[passage.first], passage.at, passage.length)
        two = inside(examples[passage.second], passage.other, passage.length)
        gold.append(Example(str(len(gold)), text, one))
        second.append(Decoded(two, Example("", text, two).surfaces))
    sizes = [len(group) for group in found]
    starts = [0, *accumulate(sizes)][:-1]
    counts = np.add.reduceat(row_counts(gold, second, CLUENER), starts) / np.reshape(sizes, (-1, 1, 1))
    values, between = rates(counts.sum(0), CLUENER.names), intervals(counts, CLUENER.names)
    names = ("f1", "span_f1", *(f"f1_{label}" for label in CLUENER.names))
    return {name: (float(values[name]), between[name]) for name in names}


if __name__ == "__main__":
    main()
