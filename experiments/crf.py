"""A linear-chain CRF over characters, the rival that is trained in seconds: `pip install python-crfsuite`.

In: examples. Out: a function from texts to what it finds. Its features are the characters around each place, pairs and
triples of them, their kinds (digit, Latin, punctuation, …), and the bracket or quote that the place is in; BIO tags.
"""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

import pycrfsuite

from qwen_ner.codec import Decoded
from qwen_ner.data.formats.tagged.schemes import BIO2, OUTSIDE, parse_tag, spans_of, tags_of
from qwen_ner.data.surfaces import MARKS
from qwen_ner.entities import Entity, Example

C1, C2 = (0.01, 0.05, 0.2), (0.001, 0.005, 0.03)
"""The weights of the L1 and L2 penalties to choose from."""

ITERATIONS = 120
"""Steps of L-BFGS at most; it stops before when the loss no longer falls."""

Finder = Callable[[Sequence[str]], list[Decoded]]


def kind(char: str) -> str:
    """What kind of character it is.

    >>> [kind(char) for char in "3aB京，"]
    ['N', 'a', 'A', 'L', 'P']
    """
    if char.isascii() and char.isalpha():
        return "a" if char.islower() else "A"
    return unicodedata.category(char)[0]


WINDOWS = [(at, at + size) for size in (1, 2) for at in range(-2, 4 - size)] + [(-1, 2)]
"""The characters, pairs and the triple that a place is seen in, relative to it."""


def features(text: str) -> list[list[str]]:
    """The features of each character of `text`."""
    chars = f"\x02\x02{text}\x03\x03"
    kinds, found = "".join(map(kind, chars)), []
    for at, mark in enumerate(opened(text), start=2):
        here = [f"{name}{a}{b}{of[at + a : at + b]}" for name, of in (("c", chars), ("k", kinds)) for a, b in WINDOWS]
        found.append(["bias", f"in{mark}", f"around{chars[at - 1]}{chars[at + 1]}", *here])
    return found


def opened(text: str) -> Iterator[str]:
    """For each character, the bracket or quote that is open there; "" for none.

    >>> list(opened("看《家》了"))
    ['', '', '《', '', '']
    """
    awaited: list[tuple[str, str]] = []
    for char in text:
        if awaited and char == awaited[-1][1]:
            awaited.pop()
        yield awaited[-1][0] if awaited else ""
        if char in MARKS:
            awaited.append((char, MARKS[char]))


def flat(entities: Sequence[Entity]) -> list[tuple[str, int, int]]:
    """The spans that tags can tell: of those that overlap the longest."""
    spans: list[tuple[str, int, int]] = []
    for entity in sorted(entities, key=lambda entity: (entity.start - entity.end, entity.start)):
        if all(entity.end <= start or end <= entity.start for _, start, end in spans):
            spans.append((entity.label, entity.start, entity.end))
    return spans


class Crf:
    """CRFs of `rows`, which are turned into features once."""

    def __init__(self, rows: Sequence[Example]) -> None:
        self.trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
        for row in rows:
            if row.text:
                tags = tags_of(len(row.text), flat(row.entities), BIO2)
                self.trainer.append(pycrfsuite.ItemSequence(features(row.text)), tags)

    def train(self, c1: float, c2: float) -> Finder:
        """What is found by the CRF that these penalties give."""
        self.trainer.set_params({"c1": c1, "c2": c2, "max_iterations": ITERATIONS})
        tagger = pycrfsuite.Tagger()
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "crf"
            self.trainer.train(str(model))
            tagger.open(str(model))  # reads it whole
        return lambda texts: [tagged(text, tagger.tag(features(text)) if text else []) for text in texts]


def tagged(text: str, names: Sequence[str]) -> Decoded:
    """The entities of tagged characters. An I- that nothing began begins one, as in conlleval."""
    tags = [parse_tag(name) or OUTSIDE for name in names]
    spans = spans_of(tags, BIO2, lambda at, fault: None)
    entities = tuple(Entity(label, text[start:end], start, end) for label, start, end in spans)
    return Decoded(entities, tuple(dict.fromkeys((e.label, e.text) for e in entities)))


def best(rows: Sequence[Example], f1: Callable[[Finder], float], quick: bool) -> tuple[Finder, dict[str, float]]:
    """The CRF of `rows` with the penalties of the highest `f1`, and these penalties."""
    crf, found = Crf(rows), []
    for c1, c2 in [(0.03, 0.03)] if quick else product(C1, C2):
        finder = crf.train(c1, c2)
        found.append((f1(finder), finder, {"c1": c1, "c2": c2}))
    _, finder, penalties = max(found, key=lambda each: each[0])
    return finder, penalties
