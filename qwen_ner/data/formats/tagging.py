"""Tagged tokens to an `Example` and back: the text that tokens make, and the entities that tags can say.

In: tokens with a tag each, a scheme. Out: an `Example`, what is wrong reported by token; tags for an example, what they
cannot say reported. Knows nothing of files.

How tokens become a text (`join`): where most tokens of a data set are single characters, one behind the other, so that
a text tagged by character comes back to the letter. Only two longer tokens that meet there (`New` `York`) get a space,
unless a Chinese or Japanese character stands at the seam. In a data set of words every two get that space. Nothing is
detokenised: `call .` keeps its space.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ...entities import Entity, Example, LabelSet, NerError
from .errors import Note, quote
from .mentions import is_label
from .schemes import OUTSIDE, Scheme, Span, Tag, parse_tag, spans_of, tags_of

NESTED = "nested or overlapping entities"
OUT_OF_ORDER = "tags out of order, read as conlleval does"

_CHINESE = re.compile(r"[\u3000-\u312f\u31a0-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
"""Ideographs, kana, bopomofo, their punctuation, full-width forms: what is written without spaces."""

At = Callable[[int, str], None]
"""Takes the number of a token and what is wrong there."""


def example_of(
    identity: str,
    source: str,
    tokens: Sequence[str],
    tags: Sequence[Tag],
    scheme: Scheme,
    words: bool,
    labels: LabelSet | None,
    report: At,
    mend: At | None = None,
) -> Example:
    """The example that tagged tokens say. `words` as for `join`; `labels=None` takes any label.

    Tags that are out of order go to `report` with their remedy, or to `mend` where that is given; either way they are
    read as conlleval reads them: I- where nothing is open begins an entity, what is not closed ends.
    """

    def out_of_order(at: int, fault: str) -> None:
        if mend:
            mend(at, fault)
        else:
            report(at, f"{fault}; {scheme.rule}: correct it, or convert with --repair")

    text, starts = join(tokens, words)
    if not text.strip():
        report(0, f"the text {quote(text)} is empty; delete the sentence")
    entities = []
    for label, first, end in spans_of(tags, scheme, out_of_order):
        faults = list[str]()
        if is_label(label, labels, faults.append):
            start, stop = starts[first], starts[end - 1] + len(tokens[end - 1])
            entities.append(Entity(label, text[start:stop], start, stop))
        for fault in faults:
            report(first, fault)
    return Example(identity, text, tuple(entities), source)


def known_tag(name: str, scheme: Scheme) -> Tag | str:
    """The tag of this name, or what is wrong with it."""
    tag = parse_tag(name)
    if tag and (tag == OUTSIDE or tag[0] in scheme.roles):
        return tag
    prefixes = ", ".join(f"{prefix}-…" for prefix in sorted(scheme.roles))
    return f"{quote(name)} is no tag of {scheme.name}, as which all is read: O, {prefixes}; correct it"


def are_words(tokens: Sequence[str]) -> bool:
    """Whether most of these tokens are longer than one character."""
    return 2 * sum(len(token) > 1 for token in tokens) > len(tokens)


def join(tokens: Sequence[str], words: bool) -> tuple[str, Sequence[int]]:
    """The text that these tokens are of, and where each begins in it. The rule is the module's.

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
        if before and (words or (len(before) > 1 and len(token) > 1)) and _parted(before[-1], token[0]):
            pieces.append(" ")
            length += 1
        starts.append(length)
        pieces.append(token)
        length += len(token)
        before = token
    return "".join(pieces), starts


def _parted(left: str, right: str) -> bool:
    return not (left.isspace() or right.isspace() or _CHINESE.match(left) or _CHINESE.match(right))


def tags_for(example: Example, scheme: Scheme, lose: Note) -> list[str]:
    """A tag for each character of the text. `lose` is told of what they cannot say, as by `flat`.

    Raises `NerError` for a text or label that could not be read back.
    """
    place = example.source or example.id
    if not example.text.strip():
        raise NerError(f"{place}: the text {quote(example.text)} is empty; delete the row")
    for label in {entity.label for entity in example.entities}:
        if label != label.strip() or re.search(r"[\t\n\r]", label):
            raise NerError(
                f"{place}: the label {quote(label)} cannot stand in a tag; take tabs, line breaks and outer spaces out"
            )
    spans: list[Span] = [(e.label, e.start, e.end) for e in flat(example, lose)]
    return tags_of(len(example.text), spans, scheme)


def flat(example: Example, lose: Note) -> list[Entity]:
    """The entities of an example without those inside or across a longer one, in text order; `lose` is told of these.

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
