"""What reading a data set has to say beside its rows: what was read otherwise than it is written, and what looks wrong.

In: `Example`s as they are read, and what their format notes. Out: the same examples, without white space around their
entities; lines for a warning. Every command that reads annotated data shows these lines. Knows nothing of formats.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..columns import join_names
from ..entities import Entity, Example
from .formats.errors import quote

log = logging.getLogger(__name__)

SHOWN = 10
"""How many places are listed for each kind of note; all are counted."""

SPACE = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u2060\ufeff"
"""White space, and characters that take no space and show nothing."""

TRIMMED = "spans with outer white space, trimmed"
BLANK = "spans of white space only, left out"


@dataclass
class Notes:
    """How often something is noted, and where the first times."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def note(self, what: str, where: str) -> None:
        self.counts[what] += 1
        shown = self.places.setdefault(what, [])
        if len(shown) < SHOWN:
            shown.append(where)

    def __str__(self) -> str:
        """One line per kind of note, followed by its places.

        >>> notes = Notes()
        >>> notes.note("scores", "a.jsonl:3")
        >>> print(notes)
        scores: 1
          a.jsonl:3
        """
        lines: list[str] = []
        for what, number in self.counts.items():
            lines += [f"{what}: {number:,}", *(f"  {place}" for place in self.places[what])]
            if number > SHOWN:
                lines.append(f"  … and {number - SHOWN:,} more")
        return "\n".join(lines)


@dataclass
class Watch(Notes):
    """Watches rows as they are read. `note` is for their format too, `lines` are what to warn of afterwards."""

    labels: Counter[str] = field(default_factory=Counter)

    def examples(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples, with entities trimmed."""
        for example in examples:
            self.labels.update(entity.label for entity in example.entities)
            if any(entity.text != entity.text.strip(SPACE) for entity in example.entities):
                example = self._trimmed(example)
            yield example

    def _trimmed(self, example: Example) -> Example:
        kept: dict[tuple[str, int, int], Entity] = {}
        for entity in example.entities:
            text = entity.text.strip(SPACE)
            start = entity.start + len(entity.text) - len(entity.text.lstrip(SPACE))
            if text != entity.text:
                place = f"{example.source}: {entity.label} {quote(entity.text)} [{entity.start}, {entity.end})"
                self.note(TRIMMED if text else BLANK, place)
            if text:
                kept.setdefault(
                    (entity.label, start, start + len(text)),
                    Entity(entity.label, text, start, start + len(text), entity.score),
                )
        return Example(example.id, example.text, tuple(kept.values()), example.source)

    def lines(self) -> list[str]:
        """What to warn of, each with how often and the first places.

        >>> watch = Watch()
        >>> rows = watch.examples([Example("0", "张伟 在", (Entity("name", "张伟 ", 0, 3),), "a.jsonl:7")])
        >>> [entity.text for row in rows for entity in row.entities], watch.lines()
        (['张伟'], ['spans with outer white space, trimmed: 1 (a.jsonl:7: name "张伟 " [0, 3))'])
        """
        found = []
        for what, number in self.counts.items():
            places = self.places[what]
            more = f" and {number - len(places):,} more" if number > len(places) else ""
            found.append(f"{what}: {number:,} ({', '.join(dict.fromkeys(places))}{more})")
        groups = [[f"{quote(name)} ({count:,})" for name, count in group] for group in look_alikes(self.labels)]
        if groups:
            alike = join_names((" and ".join(group) for group in groups), SHOWN)
            what = "labels that differ only in case, width or white space"
            found.append(f"{what}: {alike}; if they mean the same, give them one name")
        return found

    def log(self, place: object) -> None:
        for line in self.lines():
            log.warning("%s: %s.", place, line)


def look_alikes(labels: Counter[str]) -> list[list[tuple[str, int]]]:
    """Groups of labels, with their counts, that are one name but for case, width and white space.

    >>> look_alikes(Counter({"地址": 9, "地址 ": 1, "Address": 2, "address": 3, "name": 4}))
    [[('地址', 9), ('地址 ', 1)], [('Address', 2), ('address', 3)]]
    """
    groups: dict[str, list[tuple[str, int]]] = {}
    for name, count in labels.items():
        key = "".join(char for char in unicodedata.normalize("NFKC", name).casefold() if char not in SPACE)
        groups.setdefault(key, []).append((name, count))
    return [group for group in groups.values() if len(group) > 1]
