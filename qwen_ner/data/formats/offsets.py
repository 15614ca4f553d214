"""What the offsets of a file count: characters, or what another tool took for one.

In: the spans of a file's rows, with their texts and, where the file gives them, their surfaces. Out: one `Unit` for the
whole file, and what to warn of. Knows nothing of files and formats.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

SPECIAL = re.compile(r"[\U00010000-\U0010ffff]|\s\s")
"""What tools count differently: characters outside the Basic Multilingual Plane, CRLF, runs of white space."""

UNCLEAR = (
    "spans behind an emoji, a rare character or a CRLF, which may count UTF-16 units or CRLF as one; they are read as "
    "characters: compare them with your annotation tool"
)
INCLUSIVE = (
    "the ends of the spans look inclusive (surfaces of one character, words cut before their last); they are read as "
    'exclusive: if they are inclusive, add 1 to each, or give each entity its surface as "text", which proves it'
)
LATE = (
    "starts that look one too large (one behind where a word may begin): if the first character is 1, subtract 1 from "
    "each start, and from each end unless ends are inclusive"
)
MAYBE_BYTES = (
    "offsets that may count bytes of UTF-8, as then they all lie between characters, but are too few to prove it; they "
    "are read as characters: if another split of these data counts bytes, put the rows of both into one file"
)
CLEAR, TELLING = 3, 10
"""Evidence for one unit must be `CLEAR` times that for the other; if not for characters, in one of `TELLING` spans."""

MANY, SOME = 10, 4
"""Different offsets in Chinese texts that prove bytes if all lie between characters, and that raise the question: a
chance of 1 in 3 each."""


@dataclass(frozen=True)
class Unit:
    """What an offset counts. `utf16`: a character outside the Basic Multilingual Plane is two; `run` is one."""

    name: str
    utf16: bool = False
    utf8: bool = False
    run: str = r"(?!)"

    def span(self, text: str, start: int, end: int) -> tuple[int, int] | None:
        """The characters [start, end) of `text` that this span means; None if it is empty or does not fit.

        >>> UTF16.span("😀张伟", 2, 4), CHARACTERS.span("😀张伟", 2, 4)
        ((1, 3), None)
        """
        if self.utf8 or (self != CHARACTERS and SPECIAL.search(text)):
            places = _places(self, text)
            if not 0 <= start < end < len(places):
                return None
            start, end = places[start], places[end]
        return (start, end) if 0 <= start < end <= len(text) else None


CHARACTERS = Unit("characters")
UTF16 = Unit("UTF-16 units", utf16=True)
UNITS = (
    CHARACTERS,
    UTF16,
    Unit("characters, CRLF as one", run=r"\r\n"),
    Unit("UTF-16 units, CRLF as one", utf16=True, run=r"\r\n"),
    Unit("characters, a run of white space as one", run=r"\s+"),
    Unit("UTF-16 units, a run of white space as one", utf16=True, run=r"\s+"),
)
"""The first one that explains most spans is taken."""

BYTES = Unit("bytes of UTF-8", utf8=True)
"""As Rust, Go and C++ count; told by other evidence than `UNITS`."""

BARE = UNITS[1:4]
"""Those that spans without a surface can tell by the words that they give. Only Label Studio, which writes surfaces,
collapses white space."""


@lru_cache(maxsize=len(UNITS) + 1)
def _places(unit: Unit, text: str) -> list[int]:
    """The character at each offset in `unit`, and the end; -1 inside of a character."""
    places: list[int] = []
    for found in re.finditer(f"{unit.run}|.", text, re.DOTALL):
        size = len(found[0].encode()) if unit.utf8 else 1 + (unit.utf16 and found[0] > "\uffff")
        places += [found.start(), *[-1] * (size - 1)]
    return [*places, len(text)]


def same_surface(one: object, other: str) -> bool:
    """Whether two surfaces are equal up to white space, which browsers collapse.

    >>> same_surface("北京市 朝阳区", "北京市  朝阳区")
    True
    """
    return isinstance(one, str) and one.replace("\\n", "\n").split() == other.split()


@dataclass
class Survey:
    """Counts the spans of a file, so that `unit` can tell what they count and `warnings` what is suspicious."""

    misfits: Counter[Unit] = field(default_factory=Counter)
    known: set[str] = field(default_factory=set)
    """Surfaces at which all units agree."""
    unsure: list[tuple[str, str, int, int]] = field(default_factory=list)
    """(place, text, start, end) of spans without a surface that the units read differently."""
    exclusive: int = 0
    last: int = 0
    """Spans that hold their surface with an exclusive end, and those that do with an inclusive one."""
    bare: int = 0
    edges: int = 0
    odd: list[str] = field(default_factory=list)
    """Spans without a surface, and those that end where a word may; places of those of one character, or that end one
    before where a word may."""
    zeros: int = 0
    begins: int = 0
    late: list[str] = field(default_factory=list)
    """Spans without a surface that begin a text, and those that begin where a word may; places of those one behind."""
    whole: set[int] = field(default_factory=set)
    only_bytes: set[tuple[int, int]] = field(default_factory=set)
    """Offsets in Chinese texts that lie between characters if they count bytes; different spans with a surface that
    bytes alone explain."""

    def see(self, place: str, text: str, start: object, end: object, surfaces: tuple[object, ...]) -> None:
        if type(start) is not int or type(end) is not int:
            return
        spans = {unit: unit.span(text, start, end) for unit in UNITS}
        explain = [unit for unit, span in spans.items() if span and self._holds(text[slice(*span)], surfaces)]
        self.misfits.update(spans.keys() - explain)
        if not text.isascii():
            span = BYTES.span(text, start, end)
            if not span or not self._holds(text[slice(*span)], surfaces):
                self.misfits[BYTES] += 1
            elif surfaces:
                self.only_bytes |= set() if explain else {(start, end)}
            elif len(text.encode()) >= 2 * len(text):
                self.whole |= {at for at, place in zip((start, end), span, strict=True) if at != place}
        if surfaces:
            self.exclusive += all(surface == text[start:end] for surface in surfaces)
            self.last += start >= 0 and all(surface == text[start : end + 1] for surface in surfaces)
            return
        if len(set(spans.values())) > 1:
            self.unsure.append((place, text, start, end))
        elif found := spans[CHARACTERS]:
            surface = text[slice(*found)]
            self.known.add(surface)
            self.bare += 1
            self.edges += _may_end(text, found[1])
            if len(surface) == 1 or (not _may_end(text, found[1]) and _may_end(text, found[1] + 1)):
                self.odd.append(place)
            starts = [at == 0 or _kind(text[at - 1]) != _kind(text[at]) for at in (found[0], max(0, found[0] - 1))]
            self.zeros += not found[0]
            self.begins += starts[0]
            if starts == [False, True]:
                self.late.append(place)

    @staticmethod
    def _holds(found: str, surfaces: tuple[object, ...]) -> bool:
        return all(same_surface(surface, found) for surface in surfaces)

    def unit(self) -> Unit:
        """The unit that explains most spans; of several the one that gives clearly better words, else the simplest."""
        wrong = self.misfits[BYTES]
        if len(self.only_bytes) > max(1, wrong) or (len(self.whole) >= MANY and not wrong):
            return BYTES
        best = min(UNITS, key=lambda unit: self.misfits[unit])  # the first of them
        return self._told[0] if best == CHARACTERS else best

    @property
    def inclusive(self) -> bool:
        """Whether the surfaces prove that ends are inclusive: those of two spans at least, and against no other."""
        return self.last > 1 and not self.exclusive

    @cached_property
    def _told(self) -> tuple[Unit, dict[tuple[str, tuple[int, int]], None]]:
        """Characters, or another unit that explains as many spans and gives better words; spans that leave it open."""
        told, most, unclear = CHARACTERS, 0, dict[tuple[str, tuple[int, int]], None]()
        for unit in (unit for unit in BARE if self.misfits[unit] <= self.misfits[CHARACTERS]):
            both = ((where, text, CHARACTERS.span(text, *at), unit.span(text, *at)) for where, text, *at in self.unsure)
            differing = [(place, text, one, two) for place, text, one, two in both if one and two and one != two]
            gains = [self._quality(text, two) - self._quality(text, one) for _, text, one, two in differing]
            better, worse = sum(gain for gain in gains if gain > 0), -sum(gain for gain in gains if gain < 0)
            if better > max(1, CLEAR * worse, len(gains) / TELLING):
                if better - worse > most:
                    told, most = unit, better - worse
            elif worse <= max(1, CLEAR * better):
                unclear |= dict.fromkeys((place, span) for place, _, span, _ in differing)
        return told, unclear

    def _quality(self, text: str, span: tuple[int, int]) -> int:
        """How much a span looks like one that a person would mark."""
        surface = text[slice(*span)]
        inner = surface.strip() or " "
        symbols = any(unicodedata.category(char)[0] in "SMC" and char > "\x7f" for char in (inner[0], inner[-1]))
        marks = any(unicodedata.category(char) == "Po" for char in (inner[0], inner[-1]))
        cut = unicodedata.category(text[span[1] : span[1] + 1] or " ")[0] == "M"
        cut |= any(re.fullmatch("[A-Za-z]{2}|[0-9]{2}", text[max(0, at - 1) : at + 1]) is not None for at in span)
        edges = sum(at == 0 or _may_end(text, at) for at in span)
        return edges + 2 * (surface in self.known) - 2 * (symbols or marks or cut) - (inner != surface)

    def warnings(self) -> Iterator[tuple[str, str]]:
        """(what, where) of what cannot be told, or looks wrong."""
        if self.unit() == BYTES:
            return
        if self.unit() == CHARACTERS:
            yield from ((UNCLEAR, place) for place, _ in self._told[1])
            if len(self.whole) >= SOME and not self.misfits[BYTES]:
                yield MAYBE_BYTES, f"{len(self.whole)} offsets"
        if not self.zeros and len(self.late) > max(2 * MANY, 3 * self.begins):
            yield from ((LATE, place) for place in self.late)
        if self.bare > 1 and 50 * self.edges <= self.bare <= 5 * len(self.odd):
            yield from ((INCLUSIVE, place) for place in self.odd)


def _may_end(text: str, at: int) -> bool:
    """Whether a word may end before character `at`: the text ends there, or the kind of character changes.

    >>> [_may_end("在Rome，好", at) for at in range(1, 8)]
    [True, False, False, False, True, True, True]
    """
    if at >= len(text):
        return True
    closes = unicodedata.category(text[at]) in ("Pe", "Pf")  # 》 may be the last character of what is cut short
    return _kind(text[at - 1]) != _kind(text[at]) and not closes


def _kind(char: str) -> str:
    return "latin" if char.isascii() and char.isalnum() else "letter" if char.isalnum() else "other"
