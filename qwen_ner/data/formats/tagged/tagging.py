"""Tagged tokens to an `Example` and back: the text that tokens make, and the entities that tags can hold.

In: tokens with a tag each, a scheme. Out: an `Example`, with what is wrong reported by token; tags for an example, with
what they cannot hold reported. Knows nothing of files.

How tokens become a text (`join`): if most tokens of a data set are single characters, they are put one after the
other, so that a text tagged by character comes back to the letter; only two longer tokens that meet (`New` `York`) get
a space, unless a Chinese or Japanese character stands on either side. In a data set of words every two tokens get that
space. Nothing is detokenised: `call .` keeps its space.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import chain
from typing import Any

from ....entities import Entity, Example, LabelSet, NerError
from ..errors import NESTED, Faults, Note, quote
from ..mentions import is_label
from ..rows import identity_of
from .schemes import IO, OUTSIDE, Scheme, Span, Tag, scheme_of, spans_of, tags_of

OUT_OF_ORDER = "tags out of order, read as conlleval does"
BARE = "tags without a prefix, read as IO: neighbours of one label are one entity"
MISPLACED = "characters whose index in the word does not follow that before, read without it"
INDEXED = "characters with their index in the word (科0 技1), read without it"

_CHINESE = re.compile(r"[\u3000-\u312f\u31a0-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
"""Ideographs, kana, bopomofo, their punctuation, full-width forms: what is written without spaces."""


@dataclass(frozen=True)
class Tagging:
    """How tagged tokens are written. `words` as for `join`; `indexed` are characters with their index in the word."""

    scheme: Scheme
    words: bool
    indexed: bool

    @classmethod
    def of(cls, sample: Iterable[Sequence[str]], names: Iterable[Iterable[str]]) -> Tagging:
        """As the tokens of a sample of sentences, and the tags of all, tell."""
        tokens = list(sample)
        indexed = are_indexed(tokens)
        return cls(scheme_of(names), not indexed and are_words(list(chain.from_iterable(tokens))), indexed)

    @property
    def unit(self) -> str:
        return "word" if self.words else "character"


@dataclass(frozen=True)
class TagReader:
    """Reads the tags of one data set; `labels=None` accepts any label.

    `warn` gets what is read otherwise than it is written.

    Tags that are out of order are faults with their remedy, unless `repair` is True; either way they are read as
    conlleval does: an I- after nothing begins an entity, and an entity that is not closed ends.
    """

    tagging: Tagging
    labels: LabelSet | None
    faults: Faults
    repair: bool
    warn: Note

    @cached_property
    def _tag(self) -> Callable[[str], Tag | None]:
        return cache(self.tagging.scheme.parse)

    def sentence(
        self, place: str, tokens: Sequence[Any], names: Sequence[str], identity: object = None
    ) -> Example | None:
        """The example that tokens and the names of their tags make; its id is its number unless it has one."""
        report = self.faults.row(place)
        row = {} if identity is None else {"id": identity}
        own = identity_of(row, str(self.faults.rows), report)
        self.faults.check_id(own, self.faults.rows, report)
        if len(tokens) != len(names) or not all(isinstance(token, str) and token for token in tokens):
            report(f"{len(tokens)} tokens have {len(names)} tags, or one is empty; give each token a text and a tag")
            return None
        return self.example(own, place, tokens, [names], lambda token: f"{place}: token {token + 1}")

    def example(
        self,
        identity: str,
        source: str,
        tokens: Sequence[str],
        levels: Iterable[Sequence[str]],
        place: Callable[[int], str],
    ) -> Example | None:
        """The example that tagged tokens make, None if the data set has a fault. `place` names that of a token.

        Entities may have several `levels` of tags, one for each token.
        """
        scheme = self.tagging.scheme

        def report(at: int, fault: str) -> None:
            self.faults.found.append(f"{place(at)}: {fault}")

        def mend(what: str, rule: str, at: int, fault: str) -> None:
            if self.repair:
                self.warn(what, f"{place(at)}: {fault}")
            else:
                report(at, f"{fault}; {rule}: correct it, or read it with --repair")

        if scheme == IO:
            self.warn(BARE, source)
        if self.tagging.indexed:
            self.warn(INDEXED, source)
            whole, tokens = tokens, without_indexes(tokens)
            for at in (at for at, token in enumerate(tokens) if token == whole[at]):
                fault = f"the index of {quote(whole[at])} does not follow that of the token before"
                mend(MISPLACED, "others do (科0 技1)", at, fault)
                tokens[at] = whole[at].rstrip("0123456789") or whole[at]
        text, starts = join(tokens, self.tagging.words)
        if not text.strip():
            report(0, f"the text {quote(text)} is empty; delete the sentence")
        entities: dict[Span, Entity] = {}
        out_of_order = partial(mend, OUT_OF_ORDER, f"{scheme.name} does not allow that")
        for names in levels:
            tags = list(map(self._tag, names))
            for at in (at for at, tag in enumerate(tags) if tag is None):
                prefixes = ", ".join(f"{prefix}-…" for prefix in sorted(scheme.roles))
                begins = at == 0 and self.faults.rows == 1 and self.faults.unit == "line"
                header = ", or delete the line if it is a header" if begins else ""
                report(at, f"{quote(names[at])} is not a tag of {scheme.name}; correct it to O, {prefixes}{header}")
            for label, first, end in spans_of([tag or OUTSIDE for tag in tags], scheme, out_of_order):
                if is_label(label, self.labels, partial(report, first)):
                    start, stop = starts[first], starts[end - 1] + len(tokens[end - 1])
                    entities[label, start, stop] = Entity(label, text[start:stop], start, stop)
        return None if self.faults.found else Example(identity, text, tuple(entities.values()), source)


Sentence = tuple[str, Sequence[str], Sequence[str]]
"""Place, tokens, names of tags."""


def read_sentences(
    sentences: Sequence[Sentence], path: str, labels: LabelSet | None, repair: bool, warn: Note
) -> Iterator[Example]:
    """The examples of sentences in memory; ids count them from 1. `repair` and `warn` as for `TagReader`.

    Raises `DataError` with each fault, or `NerError` if there is no sentence, at the end.
    """
    faults = Faults(path)
    tagging = Tagging.of((tokens for _, tokens, _ in sentences), (names for _, _, names in sentences))
    reader = TagReader(tagging, labels, faults, repair, warn)
    yield from filter(None, (reader.sentence(*sentence) for sentence in sentences))
    faults.finish("no sentence", "write some")


def are_indexed(sentences: Iterable[Sequence[str]]) -> bool:
    """Whether tokens end with their place in the word, as Weibo NER writes characters: most of them.

    >>> are_indexed([["科0", "技1", "全0"]]), are_indexed([["A4", "B2"]]), are_indexed([["第0"]])
    (True, False, False)
    """
    pairs = [pair for tokens in sentences for pair in zip(tokens, without_indexes(tokens), strict=True)]
    fitting = [token for token, shorter in pairs if token != shorter]
    return 2 * len(fitting) > len(pairs) and any(not token.endswith("0") for token in fitting)


def without_indexes(tokens: Sequence[str]) -> list[str]:
    """The tokens without the index behind each, which is 0 or one more than that of the token before.

    >>> without_indexes(["2", "科0", "技1", "20", "01", "2"])
    ['2', '科', '技', '2', '0', '2']
    """
    found, at = [], -1
    for token in tokens:
        at = next((index for index in (at + 1, 0) if token.endswith(str(index)) and token != str(index)), -1)
        found.append(token if at < 0 else token.removesuffix(str(at)))
    return found


def are_words(tokens: Sequence[str]) -> bool:
    """Whether most of these tokens are longer than one character."""
    return 2 * sum(len(token) > 1 for token in tokens) > len(tokens)


def join(tokens: Sequence[str], words: bool) -> tuple[str, Sequence[int]]:
    """The text of these tokens, and where each begins in it, by the rule of the module.

    >>> join(list("用WCG 2011"), words=False)[0], join(["在", "New", "York", "2", "天"], words=False)[0]
    ('用WCG 2011', '在New York2天')
    >>> join(["EU", "rejects", "a", "call", "."], words=True), join(["在", "2011", "年"], words=True)[0]
    (('EU rejects a call .', [0, 3, 11, 13, 18]), '在2011年')
    """
    text = "".join(tokens)
    if len(text) == len(tokens) and not words:
        return text, range(len(text))
    pieces: list[str] = []
    starts: list[int] = []
    length, before = 0, ""
    for token in tokens:
        if before and (words or (len(before) > 1 and len(token) > 1)) and _space_between(before[-1], token[0]):
            pieces.append(" ")
            length += 1
        starts.append(length)
        pieces.append(token)
        length += len(token)
        before = token
    return "".join(pieces), starts


def _space_between(left: str, right: str) -> bool:
    return not (left.isspace() or right.isspace() or _CHINESE.match(left) or _CHINESE.match(right))


def tags_for(example: Example, scheme: Scheme, lose: Note) -> list[str]:
    """A tag for each character of the text. `lose` gets what they cannot hold, as for `flat`.

    Raises `NerError` for a text or label that could not be read back.
    """
    place = example.source or example.id
    if not example.text.strip():
        raise NerError("the text is empty", value=example.text, place=place, remedy="delete the row")
    for label in {entity.label for entity in example.entities}:
        if label != label.strip() or re.search(r"[\t\n\r]", label):
            remedy = "remove tabs, line breaks and outer spaces"
            raise NerError("a tag cannot hold this label", value=label, place=place, remedy=remedy)
    spans: list[Span] = [(e.label, e.start, e.end) for e in flat(example, lose)]
    return tags_of(len(example.text), spans, scheme)


def flat(example: Example, lose: Note) -> list[Entity]:
    """The entities of an example without those inside or across a longer one, in text order; `lose` gets those.

    >>> inner, outer = Entity("address", "北京", 0, 2), Entity("organization", "北京大学", 0, 4)
    >>> flat(Example("0", "北京大学", (inner, outer), "a.jsonl:1"), print)
    nested or overlapping entities a.jsonl:1: address "北京" [0, 2)
    [Entity(label='organization', text='北京大学', start=0, end=4, score=None)]
    """
    kept: list[Entity] = []
    taken = bytearray(len(example.text))
    for entity in sorted(example.entities, key=lambda e: e.start - e.end):
        if any(taken[entity.start : entity.end]):
            place = f"{entity.label} {quote(entity.text)} [{entity.start}, {entity.end})"
            lose(NESTED, f"{example.source}: {place}")
        else:
            taken[entity.start : entity.end] = b"\x01" * len(entity.text)
            kept.append(entity)
    return sorted(kept, key=lambda e: e.start)
