"""What a row says about its entities, in the forms that several formats share.

In: the annotation of a row and its text. Out: `Entity`s; each fault to a `Report`. Knows nothing of files and lines.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ...columns import join_names
from ...entities import Entity, Example, LabelSet
from ...grounding import ground
from .errors import LineFault, Note, Report, count, ignore, nearest, quote
from .offsets import CHARACTERS, Unit, same_surface

TWICE = "entities that are given twice, read as one"
SPACED = "surfaces whose white space is not that of the text, read by their offsets"


def is_label(label: object, labels: LabelSet | None, report: Report) -> bool:
    """Whether this is a label of the set; if not, it is reported."""
    if not isinstance(label, str) or not label.strip():
        report(f"the label is {quote(label)}; make it a non-empty string")
        return False
    if labels is not None and label not in labels:
        known = f"; the known ones are {join_names(labels.names, 20)}: correct it, or add it to `labels`"
        report(f"label {quote(label)} is unknown{nearest(label, labels.names) or known}")
        return False
    return True


def unlike(surface: str, text: str) -> str:
    """What to say of a surface that the text has in another form, or with other characters that cannot be seen.

    >>> unlike("三星 电子", "三星\\u00a0电子"), unlike("三星", "三\\u200b星"), unlike("三星", "苹果")
    (' (they differ in U+0020, U+00A0: copy it from the text)', ' (they differ in U+200B: copy it from the text)', '')
    """
    if _visible(surface) not in _visible(text):
        return ""
    odd = sorted(char for char in {*surface} ^ {*text} if not _visible(char) or unicodedata.combining(char))
    named = f"differ in {', '.join(f'U+{ord(char):04X}' for char in odd)}" if odd else "are in different forms"
    return f" (they {named}: copy it from the text)"


def _visible(text: str) -> str:
    """The characters of a text that show something, in one form."""
    return "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) not in ("Cf", "Zs", "Cc"))


@dataclass(frozen=True, slots=True)
class EntityReader:
    """Reads the entities of one text; `labels=None` accepts any label, `inclusive` counts ends as CLUENER does.

    `unit` is what offsets count. `warn` gets what is read otherwise than it is written; without it, that is a fault.
    `note` gets what an `Entity` has no place for. `see` gets the text and the (start, end, surfaces) of each span
    instead of its entity being made.
    """

    text: str
    labels: LabelSet | None
    report: Report
    inclusive: bool = False
    unit: Unit = CHARACTERS
    warn: Report | None = None
    note: Report = ignore
    see: Callable[[str, object, object, tuple[object, ...]], None] | None = None

    def from_label(self, tree: object) -> Iterator[Entity]:
        """The entities of {label: [surface, …]} and of {label: {surface: [[start, end], …]}}."""
        if not isinstance(tree, dict):
            self.report(f'"label" is {quote(tree)}; make it an object, {{"company": ["三星"]}}')
            return
        to_ground: dict[tuple[str, str], None] = {}
        for label, surfaces in tree.items():
            if not is_label(label, self.labels, self.report):
                continue
            if not isinstance(surfaces, (list, dict)):
                self.report(f"label {quote(label)} holds {quote(surfaces)}; make it a list of surfaces")
                continue
            for surface in surfaces:
                named = f"{label} {quote(surface)}"
                if not isinstance(surface, str) or not surface:
                    self.report(f"label {quote(label)} holds the surface {quote(surface)}; make it a non-empty string")
                elif isinstance(surfaces, dict):
                    spans = surfaces[surface]
                    if isinstance(spans, list) and spans and all(isinstance(s, list) and len(s) == 2 for s in spans):
                        for start, end in spans:
                            yield from self.at(label, start, end, (surface,))
                    else:
                        self.report(f"{named} has the spans {quote(spans)}; make them [[start, end], …]")
                elif surface not in self.text:
                    remedy = f"correct it{unlike(surface, self.text)} or delete it"
                    self.report(f"{named} is not in the text {quote(self.text)}; {remedy}")
                else:
                    if (label, surface) in to_ground and self.warn:
                        self.warn(TWICE)
                    to_ground[label, surface] = None
        yield from ground(self.text, to_ground)

    def from_items(self, items: object) -> Iterator[Entity]:
        """The entities of [{"label", "start", "end"}, …], each perhaps with its "text" or "surface" and a "score"."""
        if not isinstance(items, list):
            example = '[{"label": "company", "start": 0, "end": 2}]'
            other = ', or call it "label" if it is {label: surfaces}' if isinstance(items, dict) else ""
            self.report(f'"entities" is {quote(items)}; make it a list, {example}{other}')
            return
        for item in items:
            missing = [key for key in ("label", "start", "end") if not isinstance(item, dict) or key not in item]
            if missing:
                fault = f"the entity {quote(item)} lacks {', '.join(missing)}"
                self.report(f"{fault}; give it a label, a start and an end")
                continue
            surfaces = tuple(item[key] for key in ("text", "surface") if key in item)
            yield from self.at(item["label"], item["start"], item["end"], surfaces, self.score_of(item))

    def score_of(self, item: dict[str, Any]) -> float | None:
        """The "score" of an entity, None if it has none; a value that is no probability is reported."""
        score = item.get("score")
        if score is not None and (type(score) not in (int, float) or not 0 <= score <= 1):
            self.report(f"the entity {quote(item)} has the score {quote(score)}; make it a number from 0 to 1")
            return None
        return score

    def at(
        self, label: object, start: object, end: object, surfaces: tuple[object, ...] = (), score: float | None = None
    ) -> Iterator[Entity]:
        """The entity at a span, if the label is known and the span holds each of the surfaces given for it."""
        whole = type(start) is int and type(end) is int  # not isinstance: True is an int to it
        if self.see:
            self.see(self.text, start, end + self.inclusive if whole else end, surfaces)  # type: ignore[operator]
            return
        if not is_label(label, self.labels, self.report):
            return
        if not whole:
            fault = f"of {label} is not made of whole numbers, which count characters from 0; correct it"
        elif not (span := self.unit.span(self.text, start, end + self.inclusive)):  # type: ignore[arg-type, operator]
            length = count(len(self.text), "character")
            fault = f"of {label} is empty or leaves the text, which has {length}{self._other_ends(start, end, ())}"
        elif wrong := [surface for surface in surfaces if not self._holds(span, surface)]:
            found = quote(self.text[slice(*span)])
            named = f"{quote(wrong[0])}{self._place_of(wrong[0])}"
            fault = f"holds {found}, the surface is {named}{self._other_ends(start, end, surfaces)}"
        else:
            if self.warn and self.unit != CHARACTERS and span != (start, end + self.inclusive):  # type: ignore[operator]
                self.warn(f"offsets that count {self.unit.name}, converted")
            yield Entity(str(label), self.text[slice(*span)], *span, score)
            return
        self.report(f"the span [{quote(start)}, {quote(end)}{']' if self.inclusive else ')'} {fault}")

    def _holds(self, span: tuple[int, int], surface: object) -> bool:
        """Whether the surface is at the span; it may have other white space, if that can be told."""
        found = self.text[slice(*span)]
        if surface == found:
            return True
        if self.warn and same_surface(surface, found):
            self.warn(SPACED)
            return True
        return False

    def _place_of(self, surface: object) -> str:
        """Where a surface stands that the text holds once, if characters and the file's unit count alike up to it."""
        start = self.text.find(surface) if isinstance(surface, str) else -1
        span = start, start + len(str(surface))
        if start < 0 or self.text.rfind(str(surface)) != start or self.unit.span(self.text, *span) != span:
            return ""
        return f"; it stands at [{start}, {span[1] - self.inclusive}{']' if self.inclusive else ')'}"

    def _other_ends(self, start: Any, end: Any, surfaces: tuple[object, ...]) -> str:
        """The remedy for a span that does not fit: the other convention for ends, if it may be that."""
        if self.inclusive:
            return ". CLUENER's ends are inclusive; if this file's are not, name it .jsonl."
        shifts = (
            (0, 1, "Ends are exclusive here; if this file's are inclusive, as CLUENER's are, add 1 to each."),
            (-1, -1, "The first character is 0; if it is 1 in this file, subtract 1 from each start and end."),
            (
                -1,
                0,
                "The first character is 0; if it is 1 in this file and ends are inclusive, subtract 1 from each start.",
            ),
        )
        for before, behind, remedy in shifts if type(start) is int and type(end) is int else ():
            held = self.text[start + before : end + behind] if 0 <= start + before < end + behind else ""
            if end + behind <= len(self.text) and held and all(surface == held for surface in surfaces):
                return f". {remedy}" if surfaces or not before else "; correct it"
        return "; correct it"


def entity_of(item: Any, text: str) -> Entity:
    """The entity that an item of `EntityReader.from_items` is. Raises `LineFault` with its first fault."""
    (entity,) = EntityReader(text, None, refuse).from_items([item])
    return entity


def refuse(fault: str) -> None:
    """The `Report` of what has one fault at most."""
    raise LineFault(fault)


def distinct(found: Iterable[Entity], warn: Report) -> tuple[Entity, ...]:
    """The entities, each once; `warn` is told of each that is given again."""
    entities: dict[tuple[str, int, int], Entity] = {}
    for entity in found:
        if entities.setdefault((entity.label, *entity.span), entity) is not entity:
            warn(TWICE)
    return tuple(entities.values())


def without_scores(examples: Iterable[Example], lose: Note, groups: bool = False) -> Iterator[Example]:
    """The examples for a format without scores, and without groups unless `groups`; `lose` gets the rows with some."""
    for example in examples:
        if any(entity.score is not None for entity in example.entities):
            lose("scores", example.source)
        if example.group and not groups:
            lose("groups", example.source)
        yield example
