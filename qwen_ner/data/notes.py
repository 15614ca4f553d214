"""What reading a data set has to say beside its rows: what was read otherwise than it is written, and what looks wrong.

In: `Example`s as they are read, and what their format notes. Out: the same examples, without white space around their
entities; lines for a warning. Every command that reads annotated data shows these lines. Knows nothing of formats.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ..columns import join_names
from ..entities import Entity, Example, NerError
from .formats.errors import count, nearest, quote

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

    def lines(self) -> list[str]:
        """Each kind of note with how often and the first places.

        >>> notes = Notes()
        >>> notes.note("scores", "a.jsonl:3")
        >>> notes.lines()
        ['scores: 1 (a.jsonl:3)']
        """
        found = []
        for what, number in self.counts.items():
            places = self.places[what]
            more = f" and {number - len(places):,} more" if number > len(places) else ""
            found.append(f"{what}: {number:,} ({', '.join(dict.fromkeys(places))}{more})")
        return found

    def __str__(self) -> str:
        return "\n".join(self.lines())


@dataclass
class Watch(Notes):
    """Watches rows as they are read. `note` is for their format too, `lines` are what to warn of afterwards.

    `keep` names the labels whose entities rows keep, None for all. `labels` counts the entities of every label that
    was read; `left_out` those that were not kept, and `left_rows` the rows that had some.
    """

    labels: Counter[str] = field(default_factory=Counter)
    keep: frozenset[str] | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    left_rows: Counter[str] = field(default_factory=Counter)

    def examples(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples, with the entities to keep, trimmed."""
        for example in examples:
            self.labels.update(entity.label for entity in example.entities)
            left = Counter(e.label for e in example.entities if self.keep is not None and e.label not in self.keep)
            if left:
                self.left_out.update(left)
                self.left_rows.update(left.keys())
                example = replace(example, entities=tuple(e for e in example.entities if e.label not in left))
            if any(entity.text != entity.text.strip(SPACE) for entity in example.entities):
                example = self._trimmed(example)
            yield example

    def left_out_line(self) -> str:
        """What was left out, as one line; empty if nothing was.

        >>> watch = Watch(keep=frozenset({"name"}))
        >>> entities = Entity("name", "张伟", 0, 2), Entity("address", "北京", 3, 5)
        >>> [row.entities[0].label for row in watch.examples([Example("0", "张伟在北京", entities)])]
        ['name']
        >>> watch.left_out_line()
        'entities of other labels, left out: address 1 in 1 row'
        """
        found = (f"{name} {n:,} in {count(self.left_rows[name], 'row')}" for name, n in self.left_out.most_common())
        return f"entities of other labels, left out: {join_names(found, 100)}" if self.left_out else ""

    def check_kept(self) -> None:
        """Raise `NerError` if something was left out and a label of `keep` has no entity: it may be misspelt."""
        absent = sorted((self.keep or frozenset()) - self.labels.keys())
        if absent and self.left_out:
            remedy = f"choose from {join_names(sorted(self.labels), 20)}{nearest(absent[0], self.left_out)}"
            raise NerError("no row has such a label", value=join_names(absent, 20), place="labels", remedy=remedy)

    def _trimmed(self, example: Example) -> Example:
        kept: dict[tuple[str, int, int], Entity] = {}
        for entity in example.entities:
            text = entity.text.strip(SPACE)
            start = entity.start + len(entity.text) - len(entity.text.lstrip(SPACE))
            if text != entity.text:
                place = f"{example.source}: {entity.label} {quote(entity.text)} [{entity.start}, {entity.end})"
                self.note(TRIMMED if text else BLANK, place)
            if text:
                trimmed = Entity(entity.label, text, start, start + len(text), entity.score)
                kept.setdefault((trimmed.label, *trimmed.span), trimmed)
        return replace(example, entities=tuple(kept.values()))

    def lines(self) -> list[str]:
        """What to warn of, each with how often and the first places.

        >>> watch = Watch()
        >>> rows = watch.examples([Example("0", "张伟 在", (Entity("name", "张伟 ", 0, 3),), "a.jsonl:7")])
        >>> [entity.text for row in rows for entity in row.entities], watch.lines()
        (['张伟'], ['spans with outer white space, trimmed: 1 (a.jsonl:7: name "张伟 " [0, 3))'])
        """
        found = super().lines()
        groups = [[f"{quote(name)} ({number:,})" for name, number in group] for group in look_alikes(self.labels)]
        if groups:
            alike = join_names((" and ".join(group) for group in groups), SHOWN)
            what = "labels that differ only in case, width or white space"
            found.append(f"{what}: {alike}; if they mean the same, give them one name")
        return found

    def log(self, place: object) -> None:
        if self.left_out:
            log.info("%s: %s.", place, self.left_out_line())
        for line in self.lines():
            log.warning("%s: %s.", place, line)


def look_alikes(labels: Counter[str]) -> list[list[tuple[str, int]]]:
    """Groups of labels, with their counts, that are one name but for case, width and white space.

    >>> look_alikes(Counter({"地址": 9, "地址 ": 1, "Address": 2, "address": 3, "name": 4}))
    [[('地址', 9), ('地址 ', 1)], [('Address', 2), ('address', 3)]]
    """
    groups: dict[str, list[tuple[str, int]]] = {}
    for name, number in labels.items():
        key = "".join(char for char in unicodedata.normalize("NFKC", name).casefold() if char not in SPACE)
        groups.setdefault(key, []).append((name, number))
    return [group for group in groups.values() if len(group) > 1]
