"""Several answers to one text, drawn or the beams of a search, and their vote.

In: how many answers there are to be and how they are written; what was decoded of each. Out: a `Draw` for each drawn
answer, and one `Decoded` whose scores are shares of the answers. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import NoReturn, TypeVar

from ..codec import Decoded
from ..entities import LabelSet, NerError, in_order
from ..grounding import ground_written
from .backends.base import Draw

T = TypeVar("T")

MAJORITY = 0.5
"""The share of the answers that a surface must be in, unless a `min_score` says otherwise."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are written: `samples` of them for each text, drawn at `temperature` from the nucleus of `top_p`.

    Temperature 0 is greedy. What is drawn depends on the text alone: the seed of its answers is its hash, so that the
    same command gives the same answer, in any order and batch. With several `beams` nothing is drawn: the answers are
    greedy's and the likeliest others that a beam search finds. Raises `NerError` for values that make no sense, alone
    or together.

    >>> str(Sampling(5, 0.7, 0.9))
    '5 answers a text, temperature 0.7, top_p 0.9'
    """

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    beams: int = 1

    def __post_init__(self) -> None:
        draw = "give a temperature above 0, such as 0.7"
        cold, search = not self.temperature, "leave samples, temperature and top_p out, or beams"
        drawn = not cold or self.samples > 1 or self.top_p < 1
        for wrong, place, what, remedy in (
            (self.samples < 1, "samples", "no answer to draw", "give 1 or more"),
            (self.beams < 1, "beams", "no answer to search for", "give 1 or more"),
            (self.beams > 1 and drawn, "beams", "beams are searched, not drawn", search),
            (not 0 <= self.temperature < math.inf, "temperature", "out of range", "give 0, which is greedy, or more"),
            (not 0 < self.top_p <= 1, "top_p", "out of range", "give a number above 0 and up to 1, such as 0.9"),
            (cold and self.samples > 1, "samples", "greedy answers are all the same", draw),
            (cold and self.top_p < 1, "top_p", "has no effect on greedy answers", draw),
        ):
            if wrong:
                raise NerError(what, value=getattr(self, place), place=place, remedy=remedy)

    def __str__(self) -> str:
        if self.beams > 1:
            return f"{self.beams} beams a text"
        number = f"{self.samples} answer{'s' if self.samples > 1 else ''} a text"
        cut = f", top_p {self.top_p:g}" if self.top_p < 1 else ""
        return f"{number}, temperature {self.temperature:g}{cut}" if self.temperature else "greedy"

    def check(self, thresholds: str = "none", constrained: bool = True, joining: bool = False) -> None:
        """Raise `NerError` for what does not go with such answers.

        `thresholds` "auto" needs greedy answers; beams need the grammar (`constrained`) and are not served (`joining`).
        """
        if thresholds == "auto" and self != GREEDY:
            what = "the calibrated thresholds are fitted to the probabilities of greedy answers, not to others"
            remedy = "leave thresholds out and set min_score, or leave temperature and beams out"
            raise NerError(what, value=thresholds, place="thresholds", remedy=remedy)
        if self.beams > 1 and (joining or not constrained):
            what = "a server does not search for beams" if joining else "a search for beams needs the grammar"
            remedy = "leave beams out, or use predict, with constrained at True"
            raise NerError(what, value=self.beams, place="beams", remedy=remedy)

    def floor(self, min_score: float | None) -> float:
        """`min_score`; its default is 0, and `MAJORITY` if there are several answers."""
        return (MAJORITY if max(self.samples, self.beams) > 1 else 0.0) if min_score is None else min_score

    def draws(self, text: str) -> list[Draw]:
        """A `Draw` for each answer to `text`; with another number of samples the first ones are the same."""
        seed = int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).digest(), "big")
        return [Draw(self.temperature, self.top_p, seed + n) for n in range(self.samples)]


GREEDY = Sampling()


def refuse_unscored(min_score: float, thresholds: str) -> NoReturn:
    """Raise `NerError`: entities without scores cannot be left out by these."""
    value, place = (min_score, "min_score") if min_score else (thresholds, "thresholds")
    remedy = "leave it out, or give the engine the grammar, as the guide on vLLM says"
    raise NerError("the engine gives no probabilities", value=value, place=place, remedy=remedy)


def vote(
    text: str,
    answers: Sequence[Decoded],
    labels: LabelSet,
    floor: float = MAJORITY,
    probabilities: Sequence[float] | None = None,
    *,
    located: bool = False,
) -> Decoded:
    """One result of several `answers` to `text`: the surfaces that a share of at least `floor` of them have.

    The share is the score: a multiple of 1 / answers, or the sum of the answers' `probabilities` if they have some. An
    answer that has nothing, or cannot be read, counts as one without the surface. Offsets are those of an answer that
    writes just these surfaces; where answers are `located`, which say what places they mean, each place has its own
    share. Problems are those of all answers.

    >>> from qwen_ner.codec import Codec
    >>> from qwen_ner.entities import CLUENER
    >>> written = ('{"company":["三星"],"address":["北京"]}', '{"company":["三星"]}', '{"company":["三')
    >>> found = vote("三星在北京", [Codec(CLUENER).decode("三星在北京", one) for one in written], CLUENER)
    >>> [(entity.text, round(entity.score, 2)) for entity in found.entities], [one.kind for one in found.problems]
    ([('三星', 0.67)], ['not_json'])
    """
    weights, total = (probabilities, 1) if probabilities else ([1] * len(answers), len(answers))
    problems = tuple(problem for answer in answers for problem in answer.problems)
    shares = _shares([answer.surfaces for answer in answers], weights, total, floor)
    if not located:
        entities = ground_written(text, (pair for pair in shares if pair[0] in labels))
        return Decoded(entities, tuple(shares), problems).scored(shares)
    places = _shares([[replace(e, score=None) for e in answer.entities] for answer in answers], weights, total, floor)
    entities = tuple(replace(e, score=places[e]) for e in in_order(places))
    grounded = {(e.label, e.text) for answer in answers for e in answer.entities} - {(e.label, e.text) for e in places}
    return Decoded(entities, tuple(pair for pair in shares if pair not in grounded), problems)


def _shares(answers: Sequence[Iterable[T]], weights: Sequence[float], total: int, floor: float) -> dict[T, float]:
    """What a share of at least `floor` of the `answers` have, each of which has its weight of the `total`."""
    votes: defaultdict[T, float] = defaultdict(float)
    for answer, weight in zip(answers, weights, strict=True):
        for one in answer:
            votes[one] += weight
    return {one: min(1.0, weight / total) for one, weight in votes.items() if weight / total >= floor}
