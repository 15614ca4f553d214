"""Active learning: of many texts, those whose annotation would teach a model most.

In: an `Extractor`, and `TextRow`s as they are read. Out: the chosen texts with what the model finds in them, as tasks
for annotators to correct. Knows nothing of how texts are read or models loaded.
"""

from __future__ import annotations

import heapq
import logging
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from tqdm.auto import tqdm

from ..data.analysis.duplicates import digest, grams
from ..data.datasets import TextRow
from ..data.formats import doccano, label_studio
from ..data.formats.errors import count as counted
from ..data.formats.foreign import sheets, tables
from ..data.formats.rows import write_rows
from ..data.notes import Notes
from ..entities import Example, NerError
from ..files import beside, json_line
from .batch_predict import ROWS, predicted
from .extractor import Extractor

log = logging.getLogger(__name__)

POOL = 10
"""Texts that are held for each one to choose: the least certain so far, among which those are chosen that differ."""

COVERED = 0.5
"""The share of a text's character 3-grams in those chosen before it, above which the text is put off."""

LEFT_OUT = "texts left out, which could not be read"


@dataclass(frozen=True, slots=True)
class Candidate(Example):
    """A text, what the model finds in it, and ln P(its answer | the text)."""

    logprob: float = 0.0

    @property
    def probability(self) -> float:
        return math.exp(min(0.0, self.logprob))


@dataclass
class Selection:
    """The chosen texts, least certain first, and what became of all that were read.

    `repeated` counts texts that came before, `excluded` those that were to be excluded, `left_out` those that could not
    be read.
    """

    chosen: list[Candidate] = field(default_factory=list)
    read: int = 0
    repeated: int = 0
    excluded: int = 0
    left_out: Notes = field(default_factory=Notes)


def select(
    extractor: Extractor,
    rows: Iterable[TextRow],
    count: int,
    *,
    exclude: Iterable[str] = (),
    batch_tokens: int | None = None,
) -> Selection:
    """The `count` texts of `rows` that the model is least certain of and that differ from each other.

    The lower the probability of its answer, the less certain the model is of a text: least confidence, one of the best
    strategies in Settles and Craven, "An Analysis of Active Learning Strategies for Sequence Labeling Tasks" (2008). It
    is the probability of all that the model writes, so also that nothing else is to be found; a text without entities
    has that of `{}`, or of its unmarked copy. A document that is read in windows has that of its least certain window.

    From the least certain on, a text is put off if more than `COVERED` of its character 3-grams are in texts chosen
    before. This is a threshold in place of the weights of maximal marginal relevance (Kim et al., "MMR-based Active
    Machine Learning for Bio Named Entity Recognition", 2006). Those put off fill up what is missing in the end. Texts
    that are equal but for punctuation, width and case are taken once, and not at all if they are among `exclude`.

    Each text is read once. `POOL` · `count` candidates are held, and 8 bytes of a hash for each different text.
    Raises `NerError` if the model's backend gives no probabilities.
    """
    result = Selection()
    fresh = _fresh(rows, set(map(digest, exclude)), result)

    def candidates() -> Iterator[Candidate]:
        while chunk := list(islice(fresh, ROWS)):
            for row, found in zip(chunk, predicted(extractor, chunk, {"batch_tokens": batch_tokens}), strict=True):
                if isinstance(found, str):
                    result.left_out.note(LEFT_OUT, found)
                    continue
                if found.logprob is None:
                    remedy = "leave --engine out, or give the server the grammar, as the guide on vLLM says"
                    raise NerError("the engine gives no probabilities", place="--engine", remedy=remedy)
                yield Candidate(row.id, row.text or "", found.entities, row.source, logprob=found.logprob)

    ranked = heapq.nsmallest(POOL * count, candidates(), key=lambda one: one.logprob)
    result.chosen = [ranked[at] for at in spread([one.text for one in ranked], count)]
    return result


def _fresh(rows: Iterable[TextRow], excluded: set[bytes], result: Selection) -> Iterator[TextRow]:
    """The rows whose text did not come before, and those that cannot be read; `result` counts the others."""
    seen = set[bytes]()
    for row in tqdm(rows, desc="Reading", unit="text"):
        result.read += 1
        if row.text is not None:
            own = digest(row.text)
            if own in excluded or own in seen:
                result.excluded += own in excluded
                result.repeated += own not in excluded
                continue
            seen.add(own)
        yield row


def for_excel(row: TextRow) -> TextRow:
    """The row, with a fault instead of its text if no cell can hold it: found before the model reads, not after."""
    what = sheets.unfit(row.text or "")
    return replace(row, text=None, fault=f"{row.source}: {what}; write a .csv") if what else row


def spread(texts: Sequence[str], count: int) -> list[int]:
    """The numbers of `count` of `texts`, ascending: the first that add something to those before, then the first.

    >>> spread(["我在北京买了三星手机", "我在北京买了三星电视", "玩了一晚上魔兽争霸"], 2)
    [0, 2]
    """
    covered, chosen, put_off = set[str](), list[int](), list[int]()
    for at, text in enumerate(texts):
        if len(chosen) == count:
            break
        own = grams(text, 3)
        if len(own & covered) > COVERED * len(own):
            put_off.append(at)
        else:
            chosen.append(at)
            covered |= own
    return sorted([*chosen, *put_off[: count - len(chosen)]])


def write(path: Path | None, chosen: Sequence[Candidate], model: str) -> None:
    """Write the chosen texts with their entities as pre-annotations by `model`.

    To a .json as Label Studio's tasks, whose score is the probability of the answer; to a .csv or .xlsx as a table;
    otherwise as doccano's rows, to standard output if there is no path. The id is that of the row. If that is only the
    number of its line, or one that several have, it is file and line instead (`reviews.txt:12`), so that these rows can
    be added to a training set.
    """
    taken = Counter(one.id for one in chosen)
    if shared := sum(number for number in taken.values() if number > 1):
        log.warning("%s share an id with another; file and line of each are its id instead.", counted(shared, "text"))
    unique = [
        replace(one, id=one.source) if taken[one.id] > 1 or one.source.endswith(f":{one.id}") else one for one in chosen
    ]
    if path is None:
        sys.stdout.writelines(json_line(doccano.as_row(one)) for one in unique)
        return
    with beside(path) as part:
        if path.suffix == ".json":
            tasks = (label_studio.as_task(one, model, float(f"{one.probability:.4g}")) for one in unique)
            label_studio.write_tasks(part, tasks)
        elif (variant := path.suffix[1:]) in tables.VARIANTS:
            lost = Notes()
            unscored = [replace(one, entities=tuple(replace(e, score=None) for e in one.entities)) for one in unique]
            tables.write(part, unscored, lost.note, variant=variant)
            if lost.counts:
                log.warning("Not in %s:\n%s", path, lost)
        else:
            write_rows(part, (doccano.as_row(one) for one in unique))
