"""Tag schemes: the tags of a sentence to labelled spans and back, and which scheme tags are in.

In: tags such as B-ORG, one a token. Out: (label, start, end) in tokens, half-open, and what is wrong with the order of
the tags; or tags for spans. Every rule looks at a tag and the one before it, as conlleval (CoNLL-2000's scorer) does.
Knows nothing of files, characters or `Example`s.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from unicodedata import normalize

Tag = tuple[str, str]
"""Prefix and label: ("B", "ORG"); `OUTSIDE` for O."""

Span = tuple[str, int, int]
"""(label, first token, token after the last)."""

OUTSIDE: Tag = ("O", "")
EDGE: Tag = ("", "")
"""Stands before the first tag of a sentence and after its last."""

_TAG = re.compile(r"([BIMESLU])[-_](.+)")


@dataclass(frozen=True)
class Scheme:
    """The prefixes of an entity's first, inner and last token, and of an entity of one token.

    In IOB1 ("BIO" of CoNLL-2003) an entity begins with B- only directly after another one of its label. `spelling` is
    one of `SPELLINGS`.
    """

    name: str
    first: str
    inner: str
    last: str
    single: str
    spelling: str = "B-ORG"

    def __str__(self) -> str:
        return self.name if self.spelling == "B-ORG" else f"{self.name} written as {self.spelling}"

    def parse(self, name: str) -> Tag | None:
        """Prefix and label of a tag as it is spelled here, or None if it is not a tag of this scheme."""
        if self == IO and name not in ("", "O"):
            return "I", name
        tag = parse_tag(SPELLINGS[self.spelling](name))
        return tag if tag and (tag == OUTSIDE or tag[0] in self.roles) else None

    @cached_property
    def roles(self) -> dict[str, str]:
        """What each prefix says; a letter with several roles has the last of them."""
        return {self.single: "S", self.last: "E", self.first: "B", self.inner: "I"} | {"B": "B"}


SCHEMES = (
    Scheme("BIO2", "B", "I", "I", "B"),
    Scheme("IOB1", "I", "I", "I", "I"),
    Scheme("BIOS", "B", "I", "I", "S"),
    Scheme("BIOES", "B", "I", "E", "S"),
    Scheme("BMES", "B", "M", "E", "S"),
    Scheme("BILOU", "B", "I", "L", "U"),
)
BIO2 = SCHEMES[0]
IO = Scheme("IO", "I", "I", "I", "I")
"""Tags that are bare labels: neighbours of one label are one entity. Read, but not written."""
BM = Scheme("BM", "B", "M", "M", "B")
"""As BIO2, with M- for I-. Read, but not written."""


_SUFFIXED = re.compile(r"(.+?)[-_－＿–—‐‑−]+([BIMESLU])")
_OTHER = re.compile(r"([BIMESLUＢＩＭＥＳＬＵ])[-_－＿–—‐‑−:：./|~=+*#\s]+(.+)", re.IGNORECASE)

SPELLINGS: dict[str, Callable[[str], str]] = {
    "B-ORG": lambda name: name,
    "ORG-B": lambda name: f"{found[2]}-{found[1]}" if (found := _SUFFIXED.fullmatch(name)) else name,
    "BORG": lambda name: f"{name[0]}-{name[1:]}" if len(name) > 1 else name,
    "b:ORG": lambda name: f"{_letter(found)}-{found[2]}" if (found := _OTHER.fullmatch(name)) else _upper(name),
}
"""How tags are written, and as `parse_tag` reads them."""


def _upper(name: str) -> str:
    return normalize("NFKC", name).upper()


def _letter(found: re.Match[str]) -> str:
    """The prefix of a tag in another spelling."""
    return _upper(found[1])


def spelling_of(names: set[str]) -> str:
    """How these tags are written. Letters stuck to labels, small ones, and ones before another mark are told by a label
    that begins and goes on.

    >>> spelling_of({"B-ORG", "I-ORG"}), spelling_of({"ORG-B", "ORG-I"}), spelling_of({"BORG", "IORG"})
    ('B-ORG', 'ORG-B', 'BORG')
    >>> spelling_of({"b-org", "i-org"}), spelling_of({"B:ORG", "I:ORG"}), spelling_of({"Ｂ-ORG", "Ｉ-ORG"})
    ('b:ORG', 'b:ORG', 'b:ORG')
    >>> spelling_of({"ORG", "LOC"}), spelling_of({"BOOK", "SCENE"}), spelling_of({"m-RNA", "e-mail"})
    ('B-ORG', 'B-ORG', 'B-ORG')
    """
    if not names or any(map(parse_tag, names)):
        return "B-ORG"
    if all(map(_SUFFIXED.fullmatch, names)):
        return "ORG-B"
    others = [_OTHER.fullmatch(name) for name in names if _upper(name) != "O"]
    begun = {found[2] for found in others if found and _letter(found) in "BSU"}
    if all(others) and any(found[2] in begun for found in others if found and _letter(found) in "IMEL"):
        return "b:ORG"
    begun = {name[1:] for name in names if name[0] in "BSU"}
    glued = any(name[0] in "IMEL" and name[1:] in begun for name in names)
    if glued and all(name[0] in "BIMESLU" and name[1:2].isalnum() and name[1:] in begun for name in names):
        return "BORG"
    return "B-ORG"


def _are_bare(names: set[str]) -> bool:
    """Whether these are labels alone, and none has a prefix of some kind.

    >>> _are_bare({"ORG", "LOC"}), _are_bare({"B", "I"}), _are_bare({"ORG-B", "LOC"}), _are_bare({"BORG", "IORG", "X"})
    (True, False, False, False)
    >>> _are_bare({"b-org"}), _are_bare({"m-RNA", "ORG"})
    (False, True)
    """
    prefixed = any(len(name) < 2 or _SUFFIXED.fullmatch(name) for name in names)
    others = [_OTHER.fullmatch(name) for name in names]
    prefixed |= all(others) and any(_letter(found) in "BSU" for found in others if found)
    glued = any(name[0] in "IMELU" and f"B{name[1:]}" in names for name in names)
    return bool(names) and not prefixed and not glued


@lru_cache(maxsize=65_536)
def parse_tag(tag: str) -> Tag | None:
    """Prefix and label of a tag, or None if it is not a tag. `_` may replace `-`.

    >>> parse_tag("B-ORG"), parse_tag("O"), parse_tag("M_drug-name"), parse_tag("ORG")
    (('B', 'ORG'), ('O', ''), ('M', 'drug-name'), None)
    """
    if tag == "O":
        return OUTSIDE
    found = _TAG.fullmatch(tag)
    return (found[1], found[2]) if found else None


def tag_name(tag: Tag) -> str:
    """The tag as a file has it."""
    return f"{tag[0]}-{tag[1]}" if tag[1] else tag[0]


@lru_cache(maxsize=65_536)
def step(scheme: Scheme, before: Tag, tag: Tag) -> tuple[bool, bool, str | None]:
    """Whether `tag` after `before` ends the entity before it, whether it begins one, and why it should not be there.

    A tag that should not be there is read as conlleval reads it.

    >>> step(BIO2, ("O", ""), ("I", "ORG"))
    (False, True, 'I-ORG follows O')
    """
    role, role_before = scheme.roles.get(tag[0], "O"), scheme.roles.get(before[0], "O")
    inside = role_before in ("B", "I")  # an entity is still open before this tag
    goes_on = inside and role in ("I", "E") and before[1] == tag[1]
    begins = role != "O" and not goes_on
    if scheme.first == "I":
        wrong = role == "B" and not (inside and before[1] == tag[1])
    else:
        wrong = (begins and role in ("I", "E")) or (scheme.last != scheme.inner and inside and not goes_on)
    fault = f"{tag_name(tag)} follows {tag_name(before)}"
    if EDGE in (before, tag):
        fault = f"{tag_name(before)} ends the sentence" if tag == EDGE else f"{tag_name(tag)} begins the sentence"
    return inside and not goes_on, begins, fault if wrong else None


def spans_of(tags: Sequence[Tag], scheme: Scheme, report: Callable[[int, str], None]) -> list[Span]:
    """The entities of a sentence in text order; `report` gets each tag out of order, with its position and fault.

    >>> spans_of([("B", "ORG"), ("I", "ORG"), ("O", ""), ("B", "LOC")], BIO2, print)
    [('ORG', 0, 2), ('LOC', 3, 4)]
    >>> spans_of([("O", ""), ("I", "ORG")], BIO2, print)
    1 I-ORG follows O
    [('ORG', 1, 2)]
    """
    spans: list[Span] = []
    start, before = 0, EDGE
    for at, tag in enumerate((*tags, EDGE)):
        if tag == before == OUTSIDE:
            continue
        ends, begins, fault = step(scheme, before, tag)
        if fault:
            report(min(at, len(tags) - 1), fault)
        if ends:
            spans.append((before[1], start, at))
        if begins:
            start = at
        before = tag
        if scheme.roles.get(tag[0]) in ("E", "S"):
            spans.append((tag[1], start, at + 1))
    return spans


def tags_of(length: int, spans: Iterable[Span], scheme: Scheme) -> list[str]:
    """The tags of `length` tokens with these spans, which must not overlap.

    >>> tags_of(5, [("ORG", 0, 3), ("LOC", 4, 5)], SCHEMES[4])
    ['B-ORG', 'M-ORG', 'E-ORG', 'O', 'S-LOC']
    """
    tags = ["O"] * length
    before = ("", 0)
    for label, start, end in sorted(spans, key=lambda span: span[1]):
        inner = end - start - 2
        letters = scheme.single if inner < 0 else scheme.first + scheme.inner * inner + scheme.last
        if scheme.name == "IOB1" and before == (label, start):
            letters = "B" + letters[1:]
        tags[start:end] = [f"{letter}-{label}" for letter in letters]
        before = (label, end)
    return tags


def scheme_of(sentences: Iterable[Iterable[str]]) -> Scheme:
    """The scheme, and its spelling, in which the tags of these sentences have the fewest faults; others do not count.

    Two schemes that both fit read the tags alike; then it is the first of `SCHEMES`. If there are O and bare labels
    alone, it is `IO`.

    >>> scheme_of([["B-ORG", "M-ORG", "E-ORG", "O"]]).name
    'BMES'
    """
    named: Counter[tuple[str, str]] = Counter()
    for names in sentences:
        named.update(pairwise(("", *names, "")))  # what is empty stands for the edges
    others = {name for pair in named for name in pair} - {"", "O"}
    spelling = spelling_of(others)
    if others and not any(parse_tag(SPELLINGS[spelling](name)) for name in others) and _are_bare(others):
        return IO
    pairs: Counter[tuple[Tag, Tag]] = Counter()
    for pair, number in named.items():
        before, tag = (parse_tag(SPELLINGS[spelling](name)) if name else EDGE for name in pair)
        if before and tag:
            pairs[before, tag] += number

    def faults(scheme: Scheme) -> int:
        return sum(
            number * ((tag[1] != "" and tag[0] not in scheme.roles) or bool(step(scheme, before, tag)[2]))
            for (before, tag), number in pairs.items()
        )

    return replace(min((*SCHEMES, BM), key=faults), spelling=spelling)
