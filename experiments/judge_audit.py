"""Does `qwen-ner audit` find wrong annotations? Judged by passages that were annotated twice: no person, no model.

    python experiments/judge_audit.py --data cluener
    python experiments/judge_audit.py --data cluener --splits train --findings proposed.jsonl

Where the two annotations of a passage (`annotators.py`) differ, at least one of them is wrong. Of the findings inside
such passages, how many are at places where the other annotation differs, and how many of all places are? And how often
is the other annotation what the finding suggests? A place is a finding's characters; the annotations are compared by
the entities that touch them, and all of these must lie strictly inside the passage. A finding with several twins counts
as their mean. The intervals are of a bootstrap over groups of passages that overlap.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from annotators import SHORTEST, Passage, groups, shared_passages

from qwen_ner.data.analysis.audit import audit
from qwen_ner.data.analysis.corpus import Corpus
from qwen_ner.data.datasets import read_dataset
from qwen_ner.entities import CLUENER, Entity, Example

LIKELY = 0.5
"""Findings of this score or more are judged apart too."""


@dataclass(frozen=True)
class Suggestion:
    """A place of a row: what is annotated there, and what should be; both the same for a place that nobody doubts."""

    row: int
    old: Entity | None
    new: Entity | None
    kind: str = ""
    score: float = 0.0


@dataclass(frozen=True)
class Twin:
    """Characters [start, end) of a row; row `other` has them `shift` further on."""

    start: int
    end: int
    other: int
    shift: int
    group: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", default="cluener", help="cluener (with QWEN_NER_DATA), sample, or a file or folder")
    parser.add_argument("--splits", nargs="+", default=["train", "dev"])
    parser.add_argument("--shortest", type=int, default=SHORTEST, help=f"characters of a passage; default: {SHORTEST}")
    parser.add_argument("--findings", type=Path, help="what `qwen-ner audit --output` wrote; default: audit them now")
    options = parser.parse_args()
    splits = [read_dataset(options.data, split, labels=CLUENER) for split in options.splits]
    examples = [example for split in splits for example in split]
    found = read_findings(options.findings, examples) if options.findings else findings(splits)
    twins = twins_of(groups(shared_passages([e.text for e in examples], options.shortest)))
    for title, judges in (("all passages", twins), ("those of another split", across(twins, splits))):
        print(f"{'judged by ' + title:32}{'places':>8}   {'other annotation differs':28}is as suggested")
        for name, places in {**bases(examples), **by_kind(found)}.items():
            print(f"{name:32}{judge(examples, judges, places)}")


def findings(splits: Sequence[Sequence[Example]]) -> list[Suggestion]:
    """The findings of `audit` in each split by itself; rows are numbered through."""
    found: list[Suggestion] = []
    first = 0
    for examples in splits:
        found += [Suggestion(first + f.row, f.annotated, f.suggested, f.kind, f.score) for f in audit(examples)]
        first += len(examples)
    return found


def across(twins: dict[int, list[Twin]], splits: Sequence[Sequence[Example]]) -> dict[int, list[Twin]]:
    """The twins in another split, which `audit` has not counted: it is judged by what it does not know."""
    split_of = [number for number, examples in enumerate(splits) for _ in examples]
    return {row: [twin for twin in of if split_of[twin.other] != split_of[row]] for row, of in twins.items()}


def read_findings(path: Path, examples: Sequence[Example]) -> list[Suggestion]:
    """The findings in a file; a row is found by its text."""
    rows = {example.text: row for row, example in enumerate(examples)}
    lines = map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1])
    return [
        Suggestion(
            rows[line["text"]],
            *(line[key] and Entity(**line[key]) for key in ("annotated", "suggested")),
            line["kind"],
            line["score"],
        )
        for line in lines
    ]


def bases(examples: Sequence[Example]) -> dict[str, list[Suggestion]]:
    """What findings are compared with: all entities, and all places without one of surfaces that have one elsewhere."""
    unannotated = [
        Suggestion(place.row, None, Entity("none", surface, place.start, place.end))
        for surface, places in Corpus(examples).unlabelled.items()
        for place in places
    ]
    entities = [Suggestion(row, entity, entity) for row, example in enumerate(examples) for entity in example.entities]
    return {"every entity": entities, "every unannotated surface": unannotated}


def by_kind(found: Sequence[Suggestion]) -> dict[str, list[Suggestion]]:
    sets = {"every finding": list(found), f"findings from {LIKELY} on": [f for f in found if f.score >= LIKELY]}
    for kind in sorted({finding.kind for finding in found}):
        sets[kind] = [finding for finding in found if finding.kind == kind]
        sets[f"{kind} from {LIKELY} on"] = [finding for finding in sets[kind] if finding.score >= LIKELY]
    return sets


def twins_of(found: Sequence[Sequence[Passage]]) -> dict[int, list[Twin]]:
    """The passages of each row, as they stand in other rows."""
    twins: dict[int, list[Twin]] = defaultdict(list)
    for group, passage in ((number, passage) for number, passages in enumerate(found) for passage in passages):
        shift = passage.other - passage.at
        twins[passage.first].append(Twin(passage.at, passage.at + passage.length, passage.second, shift, group))
        twins[passage.second].append(Twin(passage.other, passage.other + passage.length, passage.first, -shift, group))
    return twins


Key = tuple[str, int, int]


def _keys(entities: Iterable[Entity | None], shift: int = 0) -> set[Key]:
    return {(e.label, e.start - shift, e.end - shift) for e in entities if e}


def compare(examples: Sequence[Example], twins: Sequence[Twin], place: Suggestion) -> tuple[int, float, float] | None:
    """(group, share of the other annotations that differ, share of those that are as suggested); None without twins."""
    given = [entity for entity in (place.old, place.new) if entity]
    start, end = min(e.start for e in given), max(e.end for e in given)

    def touching(row: int, shift: int) -> set[Key]:
        return _keys((e for e in examples[row].entities if e.start < end + shift and start + shift < e.end), shift)

    here = touching(place.row, 0)
    wanted = (here - _keys([place.old])) | _keys([place.new])
    differ, agree, group = list[bool](), list[bool](), -1
    for twin in twins:
        there = touching(twin.other, twin.shift)
        spans = [(start, end), *((first, last) for _, first, last in here | there)]
        if all(twin.start < first and last < twin.end for first, last in spans):
            differ.append(here != there)
            agree.append(there == wanted)
            group = twin.group
    return (group, float(np.mean(differ)), float(np.mean(agree))) if differ else None


@dataclass(frozen=True)
class Judgement:
    """How many places have a twin, and the two shares with their intervals, in per cent."""

    places: int
    differs: tuple[float, float, float]
    agrees: tuple[float, float, float]

    def __str__(self) -> str:
        shares = (f"{share:5.1f} ({low:.1f} – {high:.1f})" for share, low, high in (self.differs, self.agrees))
        return f"{self.places:8,}   {next(shares):28}{next(shares)}" if self.places else "       0"


def judge(examples: Sequence[Example], twins: dict[int, list[Twin]], places: Sequence[Suggestion]) -> Judgement:
    compared = [compare(examples, twins[place.row], place) for place in places if place.row in twins]
    sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(3))
    for group, differs, agrees in filter(None, compared):
        sums[group] += (1, differs, agrees)
    if not sums:
        return Judgement(0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    counts = np.array([sums[group] for group in sorted(sums)])
    generator = np.random.default_rng(0)
    drawn = np.array(
        [generator.multinomial(len(counts), [1 / len(counts)] * len(counts)) @ counts for _ in range(2000)]
    )
    total = counts.sum(0)
    shares = [
        (100 * total[n] / total[0], *(100 * np.quantile(drawn[:, n] / drawn[:, 0], [0.025, 0.975]))) for n in (1, 2)
    ]
    return Judgement(int(total[0]), shares[0], shares[1])


if __name__ == "__main__":
    main()
